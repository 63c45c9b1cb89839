"""The REST interface as an ASGI application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from helios import __version__
from helios.access.authenticator import Authenticator
from helios.admin.service import AdminService
from helios.api import docs_page, problems
from helios.api.balance import balance_router
from helios.api.bodies import BodyLimit, OneLength
from helios.api.guard import BrowserGuard
from helios.api.kv import kv_router
from helios.api.kv_replies import KeyValue
from helios.api.login import GuardedKeyValue, Login
from helios.api.maintenance import maintenance_router
from helios.api.metrics import Metrics, RequestMeter
from helios.api.replicas import replicas_router
from helios.api.routers import routers_router
from helios.api.shards import shards_router

Health = Callable[[], Awaitable[Sequence[str]]]
"""Why the gateway cannot serve at the moment, one sentence a reason; none when it can."""


class HealthBody(BaseModel):
    """`status` is ok, degraded (it serves, and something does not work) or unavailable, with the reasons."""

    status: str
    reasons: list[str]


def create_app(
    admin: AdminService,
    kv: KeyValue,
    health: Health,
    *,
    max_value_bytes: int = 64 * 1024 * 1024,
    max_bodies_bytes: int = 256 * 1024 * 1024,
    allowed_hosts: Collection[str] | None = None,
    authenticator: Authenticator | None = None,
    open_metrics: bool = False,
    warnings: Health | None = None,
) -> FastAPI:
    """The application: /api/v1/shards, /api/v1/routers, /api/v1/kv, /healthz, /metrics, /docs, /openapi.json.

    `allowed_hosts` are the host names that requests may be addressed to (None: any); see BrowserGuard.
    Requests are let in as the users of `authenticator` (None: everybody); `open_metrics` exempts /metrics from that.
    Values are held in memory whole, so `max_value_bytes` bounds what one request can take, and `max_bodies_bytes` what
    all can that are under way. `warnings` are what does not work while the gateway serves.
    """
    app = FastAPI(
        title="Helios",
        version=__version__,
        description='Every error is answered as {"error": {"code", "message"}}. Bodies are read as JSON '
        "whatever their Content-Type is, except values, which are stored as they stand.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    problems.install(app)
    app.add_middleware(BodyLimit, max_bytes=max_bodies_bytes)
    app.add_middleware(Login, authenticator=authenticator or Authenticator(), open_metrics=open_metrics)
    app.add_middleware(BrowserGuard, allowed_hosts=allowed_hosts)
    metrics = Metrics(admin)
    app.add_middleware(OneLength)
    app.add_middleware(RequestMeter, metrics=metrics)
    app.include_router(shards_router(admin))
    app.include_router(balance_router(admin))
    app.include_router(replicas_router(admin))
    app.include_router(maintenance_router(admin))
    app.include_router(routers_router(admin))
    app.include_router(kv_router(GuardedKeyValue(kv), max_value_bytes))
    _add_pages(app, health, warnings, metrics)
    return app


def _add_pages(app: FastAPI, health: Health, warnings: Health | None, metrics: Metrics) -> None:
    @app.get(
        "/healthz",
        tags=["gateway"],
        response_model=HealthBody,
        responses={503: {"model": HealthBody, "description": "it cannot serve now"}},
        summary="Whether the gateway can serve",
    )
    async def healthz() -> JSONResponse:
        reasons = list(await health())
        if reasons:
            return JSONResponse({"status": "unavailable", "reasons": reasons}, status_code=503)
        reasons = [] if warnings is None else list(await warnings())
        return JSONResponse({"status": "degraded" if reasons else "ok", "reasons": reasons})

    @app.get(
        "/metrics",
        tags=["gateway"],
        response_class=PlainTextResponse,
        responses={200: {"description": "metrics in the text format of Prometheus"}},
        summary="Metrics for Prometheus",
    )
    async def scrape() -> Response:
        return Response(await metrics.render(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page.render(app.openapi()), headers={"Content-Security-Policy": docs_page.POLICY})

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("/docs")
