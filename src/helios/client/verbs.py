"""The verbs of administration as values: what is sent to a node, and how its reply is read.

Neither clock nor socket is touched here, so that the blocking and the asynchronous client send and read the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import GenericAlias
from typing import Any, Generic, TypeVar, get_args, get_type_hints

from helios.admin.router_views import RouterView, SlowCommandsView
from helios.admin.views import (
    AlteredView,
    BalanceView,
    ChangeView,
    CheckView,
    HistoryView,
    KeyView,
    MigrationView,
    NodeView,
    PlacementView,
    PreviewView,
    RuleView,
    SettingChangeView,
    SettingView,
    ShardView,
    StatsView,
)
from helios.errors import InvalidInput, Unavailable
from helios.model.verbs import VERBS
from helios.values import Placement, placement_of

T = TypeVar("T")

_LONG_S = 900.0  # a check reads every key's name, and a repair waits for the moves before it


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """One verb with its arguments.

    `repeatable` says that asking twice does no harm, so that another node may be asked where the first one is gone.
    """

    words: tuple[bytes, ...]
    read: Callable[[Any], T]
    repeatable: bool = False
    timeout_s: float | None = None


def _request(
    read: Callable[[Any], T],
    verb: str,
    *arguments: str | bytes,
    repeatable: bool = True,
    timeout_s: float | None = None,
) -> Request[T]:
    words = (verb, *arguments)
    try:
        sent = tuple(word if isinstance(word, bytes) else word.encode() for word in words)
    except AttributeError:
        wrong = next(word for word in words if not isinstance(word, str | bytes))
        raise InvalidInput(f"{wrong!r} is neither text nor bytes") from None
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{error.object!r} cannot be written as UTF-8") from error
    return Request(sent, read, repeatable and VERBS[verb.lower()].repeatable, timeout_s)


# What can be asked


def add_node(
    node_id: str, address: str, weight: float, zone: str, import_keys: bool, flush: bool, adopt: bool
) -> Request[ChangeView]:
    """ADDNODE."""
    options = _weight(weight)
    options += ["ZONE", zone] if zone else []
    options += ["IMPORT"] * import_keys + ["FLUSH"] * flush + ["ADOPT"] * adopt
    return _request(_view(ChangeView), "ADDNODE", node_id, address, *options)


def remove_node(node_id: str) -> Request[ChangeView]:
    """REMOVENODE."""
    return _request(_view(ChangeView), "REMOVENODE", node_id)


def rebalance(strategy: str, by: str) -> Request[ChangeView]:
    """REBALANCE."""
    return _request(_view(ChangeView), "REBALANCE", *_way(strategy, by))


def reweight(node_id: str, weight: float) -> Request[ChangeView]:
    """REWEIGHT."""
    return _request(_view(ChangeView), "REWEIGHT", node_id, _number(weight))


def drain(node_id: str) -> Request[ChangeView]:
    """DRAIN."""
    return _request(_view(ChangeView), "DRAIN", node_id)


def undrain(node_id: str) -> Request[ChangeView]:
    """UNDRAIN."""
    return _request(_view(ChangeView), "UNDRAIN", node_id)


def promote(shard: str, node_id: str, accept_loss: bool) -> Request[ChangeView]:
    """PROMOTE."""
    return _request(_view(ChangeView), "PROMOTE", shard, node_id, *["ACCEPT-LOSS"] * accept_loss)


def balance(strategy: str, by: str) -> Request[BalanceView]:
    """BALANCE."""
    return _request(_view(BalanceView), "BALANCE", *_way(strategy, by))


def history(count: int) -> Request[list[HistoryView]]:
    """HISTORY."""
    return _request(_views(HistoryView), "HISTORY", str(count))


def migrate(source: str, target: str, pattern: str, verify: bool) -> Request[MigrationView]:
    """MIGRATE."""
    return _request(_view(MigrationView), "MIGRATE", source, target, pattern, *["VERIFY"] * verify)


def preview_add_node(
    node_id: str, address: str, weight: float, import_keys: bool, flush: bool
) -> Request[list[PreviewView]]:
    """PREVIEW ADDNODE."""
    options = [*_weight(weight), *["IMPORT"] * import_keys, *["FLUSH"] * flush]
    return _request(_views(PreviewView), "PREVIEW", "ADDNODE", node_id, address, *options)


def preview_remove_node(node_id: str) -> Request[list[PreviewView]]:
    """PREVIEW REMOVENODE."""
    return _request(_views(PreviewView), "PREVIEW", "REMOVENODE", node_id)


def preview_migrate(source: str, target: str, pattern: str) -> Request[list[PreviewView]]:
    """PREVIEW MIGRATE."""
    return _request(_views(PreviewView), "PREVIEW", "MIGRATE", source, target, pattern)


def preview_rebalance(strategy: str, by: str) -> Request[list[PreviewView]]:
    """PREVIEW REBALANCE."""
    return _request(_views(PreviewView), "PREVIEW", "REBALANCE", *_way(strategy, by))


def preview_reweight(node_id: str, weight: float) -> Request[list[PreviewView]]:
    """PREVIEW REWEIGHT."""
    return _request(_views(PreviewView), "PREVIEW", "REWEIGHT", node_id, _number(weight))


def preview_drain(node_id: str) -> Request[list[PreviewView]]:
    """PREVIEW DRAIN."""
    return _request(_views(PreviewView), "PREVIEW", "DRAIN", node_id)


def preview_undrain(node_id: str) -> Request[list[PreviewView]]:
    """PREVIEW UNDRAIN."""
    return _request(_views(PreviewView), "PREVIEW", "UNDRAIN", node_id)


def list_nodes() -> Request[list[NodeView]]:
    """LISTNODES."""
    return _request(_views(NodeView), "LISTNODES")


def list_shards() -> Request[list[ShardView]]:
    """LISTSHARDS."""
    return _request(_views(ShardView), "LISTSHARDS")


def node_for_key(key: str | bytes) -> Request[KeyView]:
    """NODEFORKEY."""
    return _request(_view(KeyView), "NODEFORKEY", key)


def rules() -> Request[list[RuleView]]:
    """LISTRULES."""
    return _request(_views(RuleView), "LISTRULES")


def placement() -> Request[Placement]:
    """PLACEMENT."""
    return _request(lambda reply: placement_of(_read(PlacementView, reply)), "PLACEMENT")


def stats() -> Request[StatsView]:
    """CLUSTERSTATS."""
    return _request(_view(StatsView), "CLUSTERSTATS")


def change(change_id: str, wait_s: float) -> Request[ChangeView]:
    """CHANGESTATUS."""
    wait = ["WAIT", f"{wait_s:.3f}"] if wait_s else []
    return _request(_view(ChangeView), "CHANGESTATUS", change_id, *wait)


def migration(migration_id: str) -> Request[MigrationView]:
    """MIGRATIONSTATUS."""
    return _request(_view(MigrationView), "MIGRATIONSTATUS", migration_id)


def migrations() -> Request[list[MigrationView]]:
    """ALLMIGRATIONS."""
    return _request(_views(MigrationView), "ALLMIGRATIONS")


def active_migrations() -> Request[list[MigrationView]]:
    """ACTIVEMIGRATIONS."""
    return _request(_views(MigrationView), "ACTIVEMIGRATIONS")


def cancel_migration(migration_id: str) -> Request[MigrationView]:
    """CANCELMIGRATION."""
    return _request(_view(MigrationView), "CANCELMIGRATION", migration_id)


def pause_migration(migration_id: str) -> Request[MigrationView]:
    """PAUSEMIGRATION."""
    return _request(_view(MigrationView), "PAUSEMIGRATION", migration_id)


def resume_migration(migration_id: str) -> Request[MigrationView]:
    """RESUMEMIGRATION."""
    return _request(_view(MigrationView), "RESUMEMIGRATION", migration_id)


def cleanup_migrations() -> Request[int]:
    """CLEANUPMIGRATIONS."""
    return _request(int, "CLEANUPMIGRATIONS")


def routers() -> Request[list[RouterView]]:
    """How every router process fares."""
    return _request(_views(RouterView), "ROUTERS")


def slow_commands(count: int) -> Request[SlowCommandsView]:
    """SLOWCOMMANDS."""
    return _request(_view(SlowCommandsView), "SLOWCOMMANDS", str(count))


def check(repair: bool) -> Request[CheckView]:
    """CHECK."""
    return _request(_view(CheckView), "CHECK", *["REPAIR"] * repair, repeatable=not repair, timeout_s=_LONG_S)


def settings() -> Request[list[SettingView]]:
    """SETTINGS."""
    return _request(_views(SettingView), "SETTINGS")


def setting(name: str) -> Request[SettingView]:
    """SETTING NAME."""
    return _request(_view(SettingView), "SETTING", name)


def change_setting(name: str, value: str | float) -> Request[SettingView]:
    """SETTING NAME VALUE."""
    written = str(value).lower() if isinstance(value, bool) else str(value)
    return _request(_view(SettingView), "SETTING", name, written)


def setting_history() -> Request[list[SettingChangeView]]:
    """SETTINGHISTORY."""
    return _request(_views(SettingChangeView), "SETTINGHISTORY")


def roll_back_settings(number: int | None) -> Request[list[AlteredView]]:
    """SETTINGROLLBACK."""
    return _request(_views(AlteredView), "SETTINGROLLBACK", *([] if number is None else [str(number)]))


def _way(strategy: str, by: str) -> list[str]:
    return [*(["STRATEGY", strategy] if strategy else []), *(["BY", by] if by else [])]


def _weight(weight: float) -> list[str]:
    return [] if weight == 1.0 else ["WEIGHT", _number(weight)]


def _number(value: float) -> str:
    try:
        return repr(float(value))
    except (TypeError, ValueError):
        raise InvalidInput(f"{value!r} is not a number") from None


# How replies are read


def _view(kind: type[T]) -> Callable[[Any], T]:
    return lambda reply: _read(kind, reply)


def _views(kind: type[T]) -> Callable[[Any], list[T]]:
    return lambda reply: [_read(kind, part) for part in reply]


def _read(kind: type[T], reply: Any) -> T:
    """The view that a map of fields holds. Fields that a later version has added are passed over."""
    if not isinstance(reply, Mapping):
        raise Unavailable(f"the node answered {type(reply).__name__} where a {kind.__name__} belongs: is it Helios?")
    named = {_text(name): value for name, value in reply.items()}
    dataclass_kind: Any = kind
    try:
        return kind(**{name: read(named[name]) for name, read in _readers(dataclass_kind).items()})
    except KeyError as error:
        raise Unavailable(
            f"the node's answer lacks {error.args[0]!r}: it runs an older version of Helios than this program"
        ) from error


@cache
def _readers(kind: Any) -> dict[str, Callable[[Any], Any]]:
    hints = get_type_hints(kind)
    return {field.name: _reader(hints[field.name]) for field in fields(kind)}


def _reader(hint: Any) -> Callable[[Any], Any]:
    """How a field of that type is read: tuples of views and of texts, maps of texts, views, and plain values."""
    if isinstance(hint, GenericAlias) and hint.__origin__ is Mapping:
        return lambda entries: {_text(name): _text(value) for name, value in entries.items()}
    if isinstance(hint, GenericAlias) and hint.__origin__ is tuple:
        inner = _reader(get_args(hint)[0])
        return lambda parts: tuple(inner(part) for part in parts)
    if is_dataclass(hint) and isinstance(hint, type):
        return _view(hint)
    return _text


def _text(value: Any) -> Any:
    """Bytes as text; any other value as it is."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
