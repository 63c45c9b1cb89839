"""The cluster over HTTP: rules, checks, shared settings."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.convertors import Convertor, register_url_convertor

from helios.access.request_context import noted
from helios.admin.service import AdminService
from helios.admin.views import AlteredView, CheckView, PlacementView, RuleView, SettingChangeView, SettingView
from helios.api.requests import ChangeSetting, Check, RollBack, documented_body, documented_parameter, query
from helios.api.shards import body_of, errors


class _SettingName(Convertor[str]):
    """A part of a path that can name a setting, and not one of the words that stand beside those."""

    regex = "(?!history$|rollback$)[^/]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("setting", _SettingName())


class Rules(BaseModel):
    """The placement rules in the order in which they are tried."""

    rules: list[RuleView]


class SharedSettings(BaseModel):
    """The settings that all processes share."""

    settings: list[SettingView]


class SettingHistory(BaseModel):
    """What was changed of them, the oldest change first."""

    changes: list[SettingChangeView]


class Altered(BaseModel):
    """The settings that got another value."""

    altered: list[AlteredView]


def maintenance_router(admin: AdminService) -> APIRouter:
    """More endpoints under /api/v1/shards."""
    router = APIRouter(prefix="/api/v1/shards", tags=["shards"])

    @router.get(
        "/placement",
        response_model=PlacementView,
        responses=errors(),
        summary="All that decides where keys live, for programs that compute it themselves",
    )
    async def placement(request: Request) -> PlacementView:
        query(request)
        return await admin.placement()

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

    _changing_settings(router, admin)
    return router


def _changing_settings(router: APIRouter, admin: AdminService) -> None:
    by_name = {"parameters": [documented_parameter("name", "its full name", where="path")]}

    @router.get(
        "/settings/history",
        response_model=SettingHistory,
        responses=errors(),
        summary="What was changed of the shared settings, when and by whom",
    )
    async def history(request: Request) -> SettingHistory:
        query(request)
        return SettingHistory(changes=await admin.setting_history())

    @router.post(
        "/settings/rollback",
        response_model=Altered,
        responses=errors(s404="no such change", s409="it is fixed", s413="the body is too large"),
        summary="Bring back the values after an earlier change, or before the last one",
        openapi_extra=documented_body(RollBack, required=False),
    )
    async def roll_back(request: Request) -> Altered:
        body = await body_of(request, RollBack)
        return Altered(altered=await admin.roll_back_settings(body.number, by=_who(request)))

    @router.get(
        "/settings/{name:setting}",
        response_model=SettingView,
        responses=errors(s404="no such setting"),
        summary="One shared setting",
        openapi_extra=by_name,
    )
    async def setting(request: Request) -> SettingView:
        query(request)
        return await admin.setting(request.path_params["name"])

    @router.put(
        "/settings/{name:setting}",
        response_model=SettingView,
        responses=errors(s404="no such setting", s409="it is fixed", s413="the body is too large"),
        summary="Change a shared setting, for all processes at once",
        openapi_extra=by_name | documented_body(ChangeSetting),
    )
    async def change_setting(request: Request) -> SettingView:
        body = await body_of(request, ChangeSetting)
        return await admin.change_setting(request.path_params["name"], body.text, by=_who(request))


def _who(request: Request) -> str:
    return noted("REST", request.client.host if request.client else "somewhere")
