"""Balance over HTTP: loads, rebalancing, weights, draining, history."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from helios.admin.service import AdminService
from helios.admin.views import BalanceView, ChangeView, HistoryView, PreviewView
from helios.api.requests import (
    Nothing,
    Rebalance,
    Reweight,
    choice,
    documented_body,
    documented_parameter,
    how_many,
    query,
)
from helios.api.shards import COUNT, DRY_RUN, accept, accepted, body_and_dry_run, errors, foreseen
from helios.model.balancing import Measure, Strategy


class History(BaseModel):
    """The last changes, the oldest first."""

    history: list[HistoryView]


_WAY = {
    "parameters": [
        documented_parameter("strategy", "how far, instead of what is set", required=False, choices=Strategy),
        documented_parameter("by", "what is to be even, instead of what is set", required=False, choices=Measure),
    ]
}
_NODE = documented_parameter("id", "the node's id", where="path")


def balance_router(admin: AdminService) -> APIRouter:
    """More endpoints under /api/v1/shards."""
    router = APIRouter(prefix="/api/v1/shards", tags=["shards"])

    @router.get(
        "/balance",
        response_model=BalanceView,
        responses=errors(),
        summary="How evenly the load lies, and what a rebalance would do",
        description="Loads are as last collected; for the proposal some thousand keys of every node are looked at.",
        openapi_extra=_WAY,
    )
    async def balance(request: Request) -> BalanceView:
        asked = query(request, "strategy", "by")
        return await admin.balance(strategy=choice(asked, "strategy", Strategy), by=choice(asked, "by", Measure))

    @router.get(
        "/history",
        response_model=History,
        responses=errors(),
        summary="What was done: when, by whom and why",
        openapi_extra=COUNT,
    )
    async def history(request: Request) -> History:
        return History(history=await admin.history(how_many(request)))

    @router.post(
        "/rebalance",
        status_code=202,
        response_description="accepted, and under way",
        response_model=ChangeView,
        responses=accepted(s409="the cluster cannot be rebalanced now", s413="the body is too large"),
        summary="Even out what the nodes carry",
        description="200 where nothing is worth moving; the message says so.",
        openapi_extra=DRY_RUN | documented_body(Rebalance, required=False),
    )
    async def rebalance(request: Request, response: Response) -> ChangeView | JSONResponse:
        body, dry_run = await body_and_dry_run(request, Rebalance)
        if dry_run:
            return foreseen(await admin.preview_rebalance(strategy=body.strategy, by=body.by))
        return accept(await admin.rebalance(strategy=body.strategy, by=body.by), response)

    _add_weights(router, admin)
    return router


def _add_weights(router: APIRouter, admin: AdminService) -> None:
    @router.put(
        "/nodes/{id}/weight",
        status_code=202,
        response_description="accepted, and under way",
        response_model=ChangeView,
        responses=accepted(s404="no such node", s409="its weight cannot change now", s413="the body is too large"),
        summary="Give a node another weight, and the share that goes with it",
        openapi_extra={"parameters": [_NODE, *DRY_RUN["parameters"]]} | documented_body(Reweight),
    )
    async def reweight(request: Request, response: Response) -> ChangeView | JSONResponse:
        body, dry_run = await body_and_dry_run(request, Reweight)
        node = request.path_params["id"]
        if dry_run:
            return foreseen(await admin.preview_reweight(node, body.weight))
        return accept(await admin.reweight(node, body.weight), response)

    _add_draining(router, "drain", admin.drain, admin.preview_drain, "Move all keys of a node away; it stays")
    _add_draining(router, "undrain", admin.undrain, admin.preview_undrain, "Give a drained node its share again")


def _add_draining(
    router: APIRouter,
    word: str,
    act: Callable[[str], Awaitable[ChangeView]],
    foresee: Callable[[str], Awaitable[list[PreviewView]]],
    summary: str,
) -> None:
    """An endpoint that takes a node's share away or gives it back."""

    @router.post(
        f"/nodes/{{id}}/{word}",
        operation_id=f"{word}_node",
        status_code=202,
        response_description="accepted, and under way",
        response_model=ChangeView,
        responses=accepted(s404="no such node", s409="not as things are", s413="the body is too large"),
        summary=summary,
        openapi_extra={"parameters": [_NODE, *DRY_RUN["parameters"]]} | documented_body(Nothing, required=False),
    )
    async def change(request: Request, response: Response) -> ChangeView | JSONResponse:
        _, dry_run = await body_and_dry_run(request, Nothing)
        node = request.path_params["id"]
        if dry_run:
            return foreseen(await foresee(node))
        return accept(await act(node), response)
