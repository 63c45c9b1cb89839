"""What a fake node answers to each verb."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from tests.fake_gateway import (
    ALTERED,
    BALANCE,
    CHANGE,
    FOUND,
    HISTORY,
    MIGRATION,
    NODE,
    PLACEMENT,
    PREVIEW,
    ROUTER,
    RULE,
    SETTING,
    SETTING_CHANGE,
    SHARD,
    SILENT_ROUTER,
    SLOW,
)

from helios.admin.views import KeyView, StatsView

STATS = StatsView(2, 1, 3, True, 1, 150, 1, 0, 9, None, True, 1000, 0, (NODE,))
KEY = KeyView("user:alice", "shard-1", "localhost:6379", "rule", "user:*")
DONE = replace(CHANGE, status="done")

REPLIES: dict[bytes, Any] = {
    b"ADDNODE": asdict(CHANGE),
    b"REMOVENODE": asdict(CHANGE),
    b"REBALANCE": asdict(CHANGE),
    b"LISTNODES": [asdict(NODE)],
    b"LISTSHARDS": [asdict(SHARD)],
    b"NODEFORKEY": asdict(KEY),
    b"CLUSTERSTATS": asdict(STATS),
    b"MIGRATE": asdict(MIGRATION),
    b"MIGRATIONSTATUS": asdict(MIGRATION),
    b"CANCELMIGRATION": asdict(MIGRATION),
    b"PAUSEMIGRATION": asdict(MIGRATION),
    b"RESUMEMIGRATION": asdict(MIGRATION),
    b"ACTIVEMIGRATIONS": [asdict(MIGRATION)],
    b"ALLMIGRATIONS": [asdict(MIGRATION)],
    b"CLEANUPMIGRATIONS": 7,
    b"CHANGESTATUS": asdict(DONE),
    b"LISTRULES": [asdict(RULE)],
    b"PLACEMENT": asdict(PLACEMENT),
    b"ROUTERS": [asdict(ROUTER), asdict(SILENT_ROUTER)],
    b"SLOWCOMMANDS": asdict(SLOW),
    b"CHECK": asdict(FOUND),
    b"SETTINGS": [asdict(SETTING)],
    b"SETTING": asdict(SETTING),
    b"SETTINGHISTORY": [asdict(SETTING_CHANGE)],
    b"SETTINGROLLBACK": [asdict(ALTERED)],
    b"PREVIEW": [asdict(PREVIEW)],
    b"BALANCE": asdict(BALANCE),
    b"HISTORY": [asdict(HISTORY)],
    b"REWEIGHT": asdict(CHANGE),
    b"DRAIN": asdict(CHANGE),
    b"PROMOTE": asdict(CHANGE),
    b"UNDRAIN": asdict(CHANGE),
}
