"""Helios: one elastic key space over many Valkey or Redis servers.

What a program builds on is listed in `__all__` and explained in docs/PYTHON_API.md. Each name is imported when it is
first asked for, so that `import helios` itself costs next to nothing; __init__.pyi tells type checkers what they are.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "helios.values": ("Move", "Placement", "Ring", "Rule"),
    "helios.client.blocking": ("AdminClient",),
    "helios.client.asynchronous": ("AsyncAdminClient",),
    "helios.client.progress": ("Progress",),
    "helios.client.entry": ("Entry",),
    "helios.local": ("LocalCluster",),
    "helios.admin.backup_views": ("BackupView", "CopyPartView", "ShardCopyView"),
    "helios.admin.views": (
        "AlteredView",
        "BalanceView",
        "ChangeView",
        "CheckView",
        "CopyView",
        "Finding",
        "HistoryView",
        "KeyFigureView",
        "KeyView",
        "MigrationView",
        "NodeLoadView",
        "NodeView",
        "PlaceView",
        "PlacementView",
        "PointView",
        "PreviewView",
        "RuleView",
        "SettingChangeView",
        "SettingView",
        "ShardView",
        "StatsView",
        "WeightView",
    ),
    "helios.admin.router_views": (
        "HotKeyView",
        "LatencyView",
        "RouterShardView",
        "RouterView",
        "SlowCommandView",
        "SlowCommandsView",
    ),
    "helios.errors": (
        "ChangeFailed",
        "HeliosError",
        "InvalidInput",
        "NotAuthenticated",
        "NotFound",
        "NotPermitted",
        "OutcomeUnknown",
        "Refused",
        "StartError",
        "Unavailable",
        "WaitTimeout",
        "WrongPassword",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(["__version__", *_HOME_OF])


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
