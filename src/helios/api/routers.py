"""The router processes over HTTP."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel

from helios.admin.router_views import RouterView, SlowCommandsView
from helios.admin.service import AdminService
from helios.api.requests import how_many, query
from helios.api.shards import COUNT, errors


class Routers(BaseModel):
    """Every router process that has a session."""

    routers: list[RouterView]


def routers_router(admin: AdminService) -> APIRouter:
    """The endpoints /api/v1/routers and /api/v1/shards/slow-commands."""
    router = APIRouter(prefix="/api/v1", tags=["routers"])

    @router.get("/routers", response_model=Routers, responses=errors(), summary="How every router process fares")
    async def routers(request: Request) -> Routers:
        query(request)
        return Routers(routers=await admin.routers())

    @router.get(
        "/shards/slow-commands",
        response_model=SlowCommandsView,
        responses=errors(),
        summary="What took long at any router, the newest first",
        openapi_extra=COUNT,
    )
    async def slow_commands(request: Request) -> SlowCommandsView:
        return await admin.slow_commands(how_many(request))

    return router
