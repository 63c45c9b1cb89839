"""The cluster over HTTP: nodes, migrations, rebalancing, numbers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from helios.admin.service import AdminService
from helios.admin.views import ChangeView, KeyView, MigrationView, NodeView, PreviewView, StatsView
from helios.api.requests import (
    AddNode,
    Body,
    Migrate,
    Nothing,
    RemoveNode,
    as_text,
    documented_body,
    documented_parameter,
    flag,
    parse,
    query,
    read_body,
    required,
)
from helios.errors import Refused
from helios.model.migration import ChangeStatus, MigrationStatus

BODY_LIMIT_BYTES = 64 * 1024


DRY_RUN = {
    "parameters": [
        documented_parameter("dry_run", "true: say what would move, and change nothing", required=False, kind="boolean")
    ]
}
COUNT = {
    "parameters": [documented_parameter("count", "how many at most; 20 if left out", required=False, kind="integer")]
}


class ErrorDetail(BaseModel):
    """`code` is stable, for programs; `message` is for people."""

    code: str
    message: str


class ErrorBody(BaseModel):
    """What every request that fails is answered with."""

    error: ErrorDetail


class Nodes(BaseModel):
    """All nodes, by id."""

    nodes: list[NodeView]


class Migrations(BaseModel):
    """Migrations, the oldest first."""

    migrations: list[MigrationView]


class Previews(BaseModel):
    """What would move from where to where, estimated from a sample; nothing was changed."""

    previews: list[PreviewView]


class Removed(BaseModel):
    """How many ended migrations were forgotten."""

    removed: int


def errors(**statuses: str) -> dict[int | str, dict[str, Any]]:
    """The error responses of an endpoint for OpenAPI, written as s404="no such node"."""
    described = {
        "s400": "the request cannot be understood",
        "s401": "there are users, and the request comes from none of them",
        "s403": "the user may not do that",
        "s503": "a part that is needed does not answer",
    } | statuses
    return {int(name[1:]): {"model": ErrorBody, "description": text} for name, text in sorted(described.items())}


async def body_of(request: Request, kind: type[Body]) -> Body:
    """The request's body; such a request takes no parameters."""
    query(request)
    return parse(kind, await read_body(request, BODY_LIMIT_BYTES))


async def body_and_dry_run(request: Request, kind: type[Body]) -> tuple[Body, bool]:
    """The request's body, and whether what it asks for is only to be foreseen."""
    dry_run = flag(query(request, "dry_run"), "dry_run")
    return parse(kind, await read_body(request, BODY_LIMIT_BYTES)), dry_run


def foreseen(previews: list[PreviewView]) -> JSONResponse:
    """What a change would move, as the answer to a dry run."""
    return JSONResponse(Previews(previews=previews).model_dump())


def shards_router(admin: AdminService) -> APIRouter:
    """The endpoints under /api/v1/shards."""
    router = APIRouter(prefix="/api/v1/shards", tags=["shards"])
    _add_node_routes(router, admin)
    _add_migration_routes(router, admin)
    return router


def _add_node_routes(router: APIRouter, admin: AdminService) -> None:
    @router.get("/nodes", response_model=Nodes, responses=errors(), summary="All nodes")
    async def list_nodes(request: Request) -> Nodes:
        query(request)
        return Nodes(nodes=await admin.list_nodes())

    @router.post(
        "/nodes",
        status_code=202,
        response_description="accepted, and under way",
        response_model=ChangeView,
        responses=accepted(s409="the node cannot be added as things are", s413="the body is too large"),
        summary="Add a node",
        description="202 while keys are still to move, 200 where there was nothing to move.",
        openapi_extra=DRY_RUN | documented_body(AddNode),
    )
    async def add_node(request: Request, response: Response) -> ChangeView | JSONResponse:
        body, dry_run = await body_and_dry_run(request, AddNode)
        if dry_run:
            if body.adopt:
                raise Refused("a dry run has nothing to foresee for adopt: no key moves")
            return foreseen(
                await admin.preview_add_node(
                    body.node_id,
                    body.address,
                    weight=body.weight,
                    import_keys=body.import_keys,
                    flush=body.flush,
                )
            )
        change = await admin.add_node(
            body.node_id,
            body.address,
            weight=body.weight,
            zone=body.zone,
            import_keys=body.import_keys,
            flush=body.flush,
            adopt=body.adopt,
        )
        return accept(change, response)

    @router.delete(
        "/nodes",
        status_code=202,
        response_description="accepted, and under way",
        response_model=ChangeView,
        responses=accepted(s404="no such node", s409="the node cannot go", s413="the body is too large"),
        summary="Drain a node and let it go",
        description="202 as soon as draining has been accepted; the node leaves when it is empty.",
        openapi_extra=DRY_RUN | documented_body(RemoveNode),
    )
    async def remove_node(request: Request, response: Response) -> ChangeView | JSONResponse:
        body, dry_run = await body_and_dry_run(request, RemoveNode)
        if dry_run:
            return foreseen(await admin.preview_remove_node(body.node_id))
        return accept(await admin.remove_node(body.node_id), response)

    @router.get(
        "/node",
        response_model=KeyView,
        responses=errors(),
        summary="The node that a key lives on",
        openapi_extra={"parameters": [documented_parameter("key", "the key, percent-encoded")]},
    )
    async def node_for_key(request: Request) -> KeyView:
        return await admin.node_for_key(required(request, "key"))

    @router.get(
        "/changes/{id}",
        response_model=ChangeView,
        responses=errors(s404="no such request"),
        summary="What has become of a request",
        openapi_extra={"parameters": [documented_parameter("id", "its `change`", where="path")]},
    )
    async def change(request: Request) -> ChangeView:
        query(request)
        return await admin.change(request.path_params["id"])

    @router.get("/stats", response_model=StatsView, responses=errors(), summary="The cluster in numbers")
    async def stats(request: Request) -> StatsView:
        query(request)
        return await admin.stats()


def _add_migration_routes(router: APIRouter, admin: AdminService) -> None:
    @router.post(
        "/migrate",
        status_code=202,
        response_description="accepted, and under way",
        response_model=MigrationView,
        responses=errors(s404="no such node", s409="the keys cannot move now", s413="the body is too large")
        | {200: {"model": MigrationView | Previews, "description": "ended already, or what would move"}},
        summary="Move keys from one node to another",
        description="202 with the accepted migration; ask /migration?task_id=… with its id how it fares.",
        openapi_extra=DRY_RUN | documented_body(Migrate),
    )
    async def migrate(request: Request, response: Response) -> MigrationView | JSONResponse:
        body, dry_run = await body_and_dry_run(request, Migrate)
        if dry_run:
            return foreseen(await admin.preview_migrate(body.source_node, body.target_node, body.key_pattern))
        view = await admin.migrate(body.source_node, body.target_node, body.key_pattern, verify=body.verify)
        if MigrationStatus(view.status).ended:
            response.status_code = 200
        return view

    @router.get(
        "/migration",
        response_model=MigrationView,
        responses=errors(s404="no such migration"),
        summary="One migration",
        openapi_extra={"parameters": [documented_parameter("task_id", "the migration's id")]},
    )
    async def migration(request: Request) -> MigrationView:
        return await admin.migration(as_text("task_id", required(request, "task_id")))

    @router.get("/migrations", response_model=Migrations, responses=errors(), summary="All migrations")
    async def migrations(request: Request) -> Migrations:
        query(request)
        return Migrations(migrations=await admin.migrations())

    @router.get(
        "/migrations/active",
        response_model=Migrations,
        responses=errors(),
        summary="Migrations that are pending or in progress",
    )
    async def active_migrations(request: Request) -> Migrations:
        query(request)
        return Migrations(migrations=await admin.active_migrations())

    @router.post(
        "/migrations/cleanup",
        response_model=Removed,
        responses=errors(s413="the body is too large"),
        summary="Forget migrations that have ended",
        openapi_extra=documented_body(Nothing, required=False),
    )
    async def cleanup_migrations(request: Request) -> Removed:
        await body_of(request, Nothing)
        return Removed(removed=await admin.cleanup_migrations())

    _add_steering(
        router, "cancel", admin.cancel_migration, "Cancel a migration and the transition that it belongs to", ""
    )
    _add_steering(
        router,
        "pause",
        admin.pause_migration,
        "Let the copies of a migration's transition wait",
        "What has changed is still followed, and nothing is held up: keys stay with their source until it is resumed.",
    )
    _add_steering(router, "resume", admin.resume_migration, "Let a paused migration go on", "")


def _add_steering(
    router: APIRouter, word: str, act: Callable[[str], Awaitable[MigrationView]], summary: str, description: str
) -> None:
    """An endpoint that does something to one migration."""

    @router.post(
        f"/migrations/{{id}}/{word}",
        operation_id=f"{word}_migration",
        response_model=MigrationView,
        responses=errors(s404="no such migration", s409="it has ended already", s413="the body is too large"),
        summary=summary,
        description=description,
        openapi_extra={"parameters": [documented_parameter("id", "the migration's id", where="path")]}
        | documented_body(Nothing, required=False),
    )
    async def steer(request: Request) -> MigrationView:
        await body_of(request, Nothing)
        return await act(request.path_params["id"])


def accepted(**statuses: str) -> dict[int | str, dict[str, Any]]:
    """The responses of an endpoint that answers 202, or 200 where nothing is left to be done."""
    return errors(**statuses) | {
        200: {"model": ChangeView | Previews, "description": "carried out already, or what would move"}
    }


def accept(change: ChangeView, response: Response) -> ChangeView:
    """The change itself, with 200 instead of 202 where it has ended; raises Refused where nothing came of it."""
    status = ChangeStatus(change.status)
    if status in (ChangeStatus.REFUSED, ChangeStatus.FAILED):
        raise Refused(change.message)
    if status.ended:
        response.status_code = 200
    return change
