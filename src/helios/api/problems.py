"""How errors look over HTTP: always JSON with a code for programs and a message for people."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match

from helios.api.kv_replies import CommandRefused
from helios.errors import (
    Conflict,
    EngineError,
    HeliosError,
    InvalidInput,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    OutcomeUnknown,
    Refused,
    StoreError,
    Unavailable,
    WrongPassword,
)


class TooLarge(HeliosError):
    """A request's body is larger than the gateway takes; nothing was changed."""

    code = "TOOLARGE"


class Forbidden(HeliosError):
    """A browser sent the request on behalf of a page of another origin; nothing was changed."""

    code = "FORBIDDEN"


# The first class that matches decides, so a class stands before its bases.
_STATUS_OF_CLASS: tuple[tuple[type[HeliosError], int], ...] = (
    (InvalidInput, 400),
    (NotAuthenticated, 401),
    (WrongPassword, 401),
    (NotPermitted, 403),
    (Forbidden, 403),
    (NotFound, 404),
    (Refused, 409),
    (Conflict, 409),
    (TooLarge, 413),
    (Unavailable, 503),
    (OutcomeUnknown, 503),
    (EngineError, 503),
    (StoreError, 503),
)

# First words of the error replies that say more than "not now", which is what every other one becomes.
_STATUS_OF_REPLY = {
    "INVALID": 400,
    "NOTFOUND": 404,
    "WRONGTYPE": 409,
    "REFUSED": 409,
    "CONFLICT": 409,
    "CROSSSHARD": 409,
    "CROSSSLOT": 409,
}

_CODE_OF_STATUS = {400: "INVALID", 404: "NOTFOUND", 405: "METHOD", 413: "TOOLARGE"}

_MAYBE_DONE = " (the request may or may not have been carried out: look before you repeat it)"


def status_of(error: HeliosError) -> int:
    """The HTTP status that an error is answered with; 500 only for one that nobody expects here."""
    if isinstance(error, CommandRefused):
        return _STATUS_OF_REPLY.get(error.code, 503)
    return next((status for kind, status in _STATUS_OF_CLASS if isinstance(error, kind)), 500)


def problem(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The response that carries one error."""
    return JSONResponse({"error": {"code": code, "message": message}}, status_code=status, headers=headers)


def answer(error: HeliosError) -> JSONResponse:
    """The response for an error of Helios; one whose outcome is unknown always says so."""
    message = str(error)
    if error.code == OutcomeUnknown.code:
        message += _MAYBE_DONE
    status = status_of(error)
    return problem(status, error.code, message, {"Retry-After": "1"} if status == 503 else None)


def install(app: FastAPI) -> None:
    """Make every error of `app` answer in the one shape, unknown paths and bugs included."""

    async def helios_error(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HeliosError)
        return answer(error)

    async def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        message, headers = error.detail, dict(error.headers or {})
        if error.status_code == 404:
            message = f"there is nothing at {request.url.path}; /docs lists what there is"
        elif error.status_code == 405:
            headers["Allow"] = ", ".join(sorted(_methods(app.routes, request)))
            message = f"{request.url.path} does not take {request.method}, only {headers['Allow']}"
        code = _CODE_OF_STATUS.get(error.status_code, "HTTP")
        return problem(error.status_code, code, message, headers)

    async def invalid(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return problem(400, "INVALID", f"{'.'.join(map(str, first['loc']))}: {first['msg']}")

    async def gone(_request: Request, _error: Exception) -> JSONResponse:
        return problem(400, "INVALID", "the body ended early")

    async def bug(_request: Request, _error: Exception) -> JSONResponse:
        # Starlette raises the error again after this answer, so that the server logs its traceback.
        return problem(500, "BUG", "an error in Helios itself; the gateway's log has the details")

    app.add_exception_handler(HeliosError, helios_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(Exception, bug)


def _methods(routes: list[BaseRoute], request: Request) -> set[str]:
    """The methods that any route takes at the request's path (a router alone names those of its first match)."""
    tried = ("GET", "HEAD", "PUT", "POST", "DELETE")
    return {m for m in tried if any(r.matches({**request.scope, "method": m})[0] is Match.FULL for r in routes)}
