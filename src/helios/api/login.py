"""Who a request comes from, and what that user may do here: the same users and roles as for clients of routers."""

from __future__ import annotations

import base64
import binascii
from contextvars import ContextVar

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from helios.access.authenticator import Authenticator, Identity
from helios.access.request_context import asked_by
from helios.access.rights import Need, Nobody, Rights
from helios.api.kv_replies import KeyValue
from helios.api.problems import answer, problem
from helios.errors import HeliosError, NotAuthenticated, NotPermitted, WrongPassword

# Only that somebody listens and whether it can serve: what load balancers ask, which have no password.
_OPEN = frozenset(("/healthz",))
_METRICS = "/metrics"
_DATA = "/api/v1/kv"
_CLUSTER = "/api/v1/"
_PAGES = frozenset(("/", "/docs", "/openapi.json"))
_CHALLENGE = {"WWW-Authenticate": 'Basic realm="Helios", charset="UTF-8"'}

_rights: ContextVar[Rights | None] = ContextVar("rights", default=None)


class Login:
    """ASGI middleware: HTTP's basic authentication against the cluster's users, and the role each path needs.

    Without users everybody may do everything, as the authenticator says. Keys are looked at where commands are run, by
    `GuardedKeyValue`.
    """

    def __init__(self, app: ASGIApp, authenticator: Authenticator, *, open_metrics: bool = False) -> None:
        self._app = app
        self._gate = authenticator
        self._open = _OPEN | ({_METRICS} if open_metrics else frozenset())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._open:
            await self._app(scope, receive, send)
            return
        try:
            identity = await self._identity(scope)
            _check(identity, scope["path"])
        except HeliosError as error:
            await _refused(error)(scope, receive, send)
            return
        token = _rights.set(identity.rights)
        try:
            with asked_by(identity):
                await self._app(scope, receive, send)
        finally:
            _rights.reset(token)

    async def _identity(self, scope: Scope) -> Identity:
        given = Headers(scope=scope).get("authorization")
        if given is None:
            return self._gate.newcomer()
        if not self._gate.guarded:
            return self._gate.newcomer()  # there are no users, so whatever is given cannot be wrong
        name, password = _credentials(given)
        client = scope.get("client") or ("", 0)
        return await self._gate.login(name, password, str(client[0]))


def _check(identity: Identity, path: str) -> None:
    """Raise NotAuthenticated or NotPermitted where the path is not for this user."""
    rights = identity.rights
    if rights is None:
        return
    if isinstance(rights, Nobody):
        raise NotAuthenticated(rights.reason)
    if path in _PAGES or path.startswith(_DATA + "/"):
        return
    need = Need.METRICS if path == _METRICS else Need.CLUSTER if path.startswith(_CLUSTER) else Need.ANY
    if not rights.has(need):
        raise NotPermitted(f"user {identity.name!r} with the role {rights.user.role} may not use {path[:128]}")


def _credentials(header: str) -> tuple[str, bytes]:
    scheme, _, encoded = header.partition(" ")
    try:
        if scheme.lower() != "basic":
            raise NotAuthenticated("only HTTP's basic authentication is known here: curl does it by --user name")
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except binascii.Error:
        colon = b""
    if not colon:
        raise NotAuthenticated("the Authorization header cannot be read: it holds name:password in base64")
    return name.decode("utf-8", "replace"), password


def _refused(refusal: HeliosError) -> JSONResponse:
    if isinstance(refusal, NotAuthenticated | WrongPassword):
        return problem(401, refusal.code, str(refusal), _CHALLENGE)
    return answer(refusal)


def demand(*argv: bytes) -> None:
    """Raise NotPermitted where who the present request comes from may not give the command."""
    rights = _rights.get()
    refusal = None if rights is None else rights.refusal(argv)
    if refusal is not None:
        code, _, message = refusal.partition(" ")
        raise NotPermitted(message if code == NotPermitted.code else refusal)


class GuardedKeyValue:
    """Data commands for whom the present request comes from."""

    def __init__(self, inner: KeyValue) -> None:
        self._inner = inner

    async def execute(self, argv: list[bytes]) -> bytes:
        """The reply, as the inner one gives it. Raises NotPermitted where the user may not give the command."""
        demand(*argv)
        return await self._inner.execute(argv)
