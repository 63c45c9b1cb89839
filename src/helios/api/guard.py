"""Keeps pages of other origins, opened in a browser on this machine, from steering the cluster."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from helios.api.problems import Forbidden, answer

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class BrowserGuard:
    """ASGI middleware. Programs such as curl send no Origin and pass.

    Bodies count as JSON whatever their Content-Type is, so a browser asks nobody before it sends one
    across origins; the Origin header, which pages cannot forge, tells. `allowed_hosts` are the names
    under which the gateway may be addressed (None: any): with it, a foreign name that resolves to this
    machine gets nothing to read either.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Collection[str] | None = None) -> None:
        self._app = app
        self._allowed_hosts = None if allowed_hosts is None else frozenset(host.lower() for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal = self._refusal(scope["method"], Headers(scope=scope))
            if refusal is not None:
                await answer(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, method: str, headers: Headers) -> Forbidden | None:
        host = headers.get("host", "").lower()
        if self._allowed_hosts is not None and _name(host) not in self._allowed_hosts:
            return Forbidden(f"this gateway does not go by the name {host!r}")
        origin = headers.get("origin")
        if method not in _SAFE and origin is not None and urlsplit(origin.lower()).netloc != host:
            return Forbidden(f"a page of {origin} may not change anything here")
        return None


def _name(host: str) -> str:
    """A Host header without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
