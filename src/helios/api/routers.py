"""The router processes over HTTP."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel

from helios.admin.service import AdminService
from helios.admin.views import RouterView
from helios.api.requests import query
from helios.api.shards import errors


class Routers(BaseModel):
    """Every router process that has a session."""

    routers: list[RouterView]


def routers_router(admin: AdminService) -> APIRouter:
    """The endpoint /api/v1/routers."""
    router = APIRouter(prefix="/api/v1", tags=["routers"])

    @router.get("/routers", response_model=Routers, responses=errors(), summary="How every router process fares")
    async def routers(request: Request) -> Routers:
        query(request)
        return Routers(routers=await admin.routers())

    return router
