"""The cluster over HTTP: rules, checks, shared settings."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel

from helios.admin.service import AdminService
from helios.admin.views import CheckView, RuleView, SettingView
from helios.api.requests import ChangeSetting, Check, documented_body, documented_parameter, query
from helios.api.shards import body_of, errors


class Rules(BaseModel):
    """The placement rules in the order in which they are tried."""

    rules: list[RuleView]


class SharedSettings(BaseModel):
    """The settings that all processes share."""

    settings: list[SettingView]


def upkeep_router(admin: AdminService) -> APIRouter:
    """More endpoints under /api/v1/shards."""
    router = APIRouter(prefix="/api/v1/shards", tags=["shards"])

    @router.get("/rules", response_model=Rules, responses=errors(), summary="The placement rules")
    async def rules(request: Request) -> Rules:
        query(request)
        return Rules(rules=await admin.rules())

    @router.post(
        "/check",
        response_model=CheckView,
        responses=errors(s409="it cannot be repaired now", s413="the body is too large"),
        summary="Look at every server for what should not be there",
        description="Reads every key's name, and takes as long as that. A repair also waits for the moves before it.",
        openapi_extra=documented_body(Check, required=False),
    )
    async def check(request: Request) -> CheckView:
        body = await body_of(request, Check)
        return await admin.check(repair=body.repair)

    @router.get(
        "/settings", response_model=SharedSettings, responses=errors(), summary="The settings that all processes share"
    )
    async def settings(request: Request) -> SharedSettings:
        query(request)
        return SharedSettings(settings=await admin.settings())

    @router.put(
        "/settings/{name}",
        response_model=SettingView,
        responses=errors(s404="no such setting", s409="it is fixed", s413="the body is too large"),
        summary="Change a shared setting, for all processes at once",
        openapi_extra={"parameters": [documented_parameter("name", "its full name", where="path")]}
        | documented_body(ChangeSetting),
    )
    async def change_setting(request: Request) -> SettingView:
        body = await body_of(request, ChangeSetting)
        return await admin.change_setting(request.path_params["name"], body.text)

    return router
