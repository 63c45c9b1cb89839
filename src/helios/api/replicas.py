"""Shards and their copies over HTTP: how they are, and who leads."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from helios.admin.service import AdminService
from helios.admin.views import ChangeView, ShardView
from helios.api.requests import Promote, documented_body, query
from helios.api.shards import accept, body_of, errors


class Shards(BaseModel):
    """All shards, by id."""

    shards: list[ShardView]


def replicas_router(admin: AdminService) -> APIRouter:
    """More endpoints under /api/v1/shards."""
    router = APIRouter(prefix="/api/v1/shards", tags=["shards"])

    @router.get("", response_model=Shards, responses=errors(), summary="All shards with their copies")
    async def list_shards(request: Request) -> Shards:
        query(request)
        return Shards(shards=await admin.list_shards())

    @router.post(
        "/promote",
        status_code=202,
        response_description="accepted, and under way",
        response_model=ChangeView,
        responses=errors(
            s404="no such shard or node", s409="it cannot lead as things are", s413="the body is too large"
        )
        | {200: {"model": ChangeView, "description": "it leads"}},
        summary="Let another copy of a shard lead",
        description="Clients see no error. 202 where it waits for moves of keys, which come first.",
        openapi_extra=documented_body(Promote),
    )
    async def promote(request: Request, response: Response) -> ChangeView:
        body = await body_of(request, Promote)
        return accept(await admin.promote(body.shard, body.node_id, accept_loss=body.accept_loss), response)

    return router
