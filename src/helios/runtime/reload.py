"""Taking up a settings file that was edited, or SIGHUP, while processes run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from helios.access.publishing import publish_users
from helios.admin.settings import DEFAULT, SharedSettings, value_of
from helios.errors import HeliosError, SettingsError
from helios.model.setting_info import Effect, all_settings
from helios.model.settings import Settings
from helios.node.waiting import together
from helios.ports.clock import Clock
from helios.ports.store import Store
from helios.runtime.agreement import check_agreement
from helios.runtime.settings import SettingsRead, SettingsSource

logger = logging.getLogger(__name__)

_DEBOUNCE_MS = 200
_LOOK_EVERY_MS = 1000  # where the file system does not tell, as over a network
_STILL_S = 0.1  # a file whose content has been the same for so long is taken to be written to its end

USERS = "security.users"
UNCHANGED = "the settings stay as they are"


def _as_it_is(settings: Settings) -> Settings:
    return settings


class Reloader:
    """Brings what was edited into the store, where all processes find it.

    `read` is what the process was started with. An edit changes what it edits: values that others have set at run
    time stay, unless the file now says something else of that setting than it did. `complete` gives settings the
    defaults that this command has of its own. `tell` gets what a person should know, one sentence at a time.
    """

    def __init__(
        self,
        source: SettingsSource,
        read: SettingsRead,
        store: Store,
        clock: Clock,
        *,
        who: str,
        tell: Callable[[str], None],
        complete: Callable[[Settings], Settings] = _as_it_is,
    ) -> None:
        self._source = source
        self._started = read
        self._last = read
        self._store = store
        self._shared = SharedSettings(store, clock)
        self._by = who if source.path is None else f"{who}, {source.path.absolute()}"
        self._tell = tell
        self._complete = complete
        self._content: bytes | None = None  # as it was read last; what stood there when `read` was read is not known

    async def run(self, wanted: asyncio.Event) -> None:
        """For ever: reload when the file has changed, and whenever `wanted` is set."""
        await together([self._watch_file(), self._obey(wanted)])

    async def _obey(self, wanted: asyncio.Event) -> None:
        while True:
            await wanted.wait()
            wanted.clear()
            if self._source.path is None:
                self._tell(f"there is no settings file to read again (--config): {UNCHANGED}")
            elif not await self.reload():
                self._tell(f"{self._source.path} says what it said: {UNCHANGED}")

    async def _watch_file(self) -> None:
        path = self._source.path
        if path is None:
            await asyncio.Event().wait()
            return
        import watchfiles  # for who follows a file

        # The folders, not the file: editors put another file in its place, and links are turned elsewhere.
        folders = {path.absolute().parent, path.resolve().parent}
        try:
            async for _ in watchfiles.awatch(
                *folders,
                watch_filter=None,
                recursive=False,
                debounce=_DEBOUNCE_MS,
                rust_timeout=_LOOK_EVERY_MS,
                yield_on_timeout=True,
            ):
                await self._look(path)
        except (OSError, RuntimeError) as error:
            self._tell(f"{path} cannot be watched ({error}): send SIGHUP when it has changed")
        await asyncio.Event().wait()

    async def _look(self, path: Path) -> None:
        content, before = _content(path), self._content
        while content != before:
            await asyncio.sleep(_STILL_S)
            before, content = content, _content(path)
        # One that is missing is about to be written again, or was taken away by somebody who means the running state.
        if content is not None and content != self._content:
            await self.reload()

    async def reload(self) -> bool:
        """Read the file again and apply what can be applied; whether there was anything to say.

        A file with any mistake changes nothing. What needs a restart is named, and the rest applied.
        """
        self._content = _content(self._source.path)
        try:
            read = self._source.read()
            check_agreement(await self._shared.read(), read.settings)
            values = self._edited(read)
            origins = {name: read.origins.get(name, DEFAULT) for name in values}
            altered = await self._shared.change(values, by=self._by, origins=origins)
            users = await self._publish_users(read.settings)
        except SettingsError as error:
            self._tell(f"{UNCHANGED}, since there are mistakes:\n{error}")
            return True
        except HeliosError as error:
            self._tell(f"{UNCHANGED}: {error}")
            return True
        said = [f"{item.origin}: {item.name} was {item.old}, is {item.new} now" for item in altered]
        said += [*users, *self._waiting(read), *self._hidden(read)]
        self._last = read
        for sentence in said:
            self._tell(sentence)
        return bool(said)

    async def _publish_users(self, settings: Settings) -> list[str]:
        """What is to be said of the users after an edit; nobody's password or hash is."""
        users = settings.security.users
        if not settings.is_set(USERS) or users == self._last.settings.security.users:
            return []
        await publish_users(self._store, users)
        return [f"{USERS}: there are {len(users)} users now" if users else f"{USERS}: there are no users any more"]

    def _edited(self, read: SettingsRead) -> dict[str, str]:
        """The shared settings that are another now than when they were last read."""
        old, new = self._complete(self._last.settings), self._complete(read.settings)
        shared = [name for name, info in all_settings().items() if info.shared]
        return {name: value_of(new, name) for name in shared if value_of(old, name) != value_of(new, name)}

    def _waiting(self, read: SettingsRead) -> Iterator[str]:
        for name, info in all_settings().items():
            running, wanted = value_of(self._started.settings, name), value_of(read.settings, name)
            if info.effect is Effect.RESTART and wanted != running and wanted != value_of(self._last.settings, name):
                yield (
                    f"{read.origins.get(name, DEFAULT)}: {name} {wanted} waits for a restart, since {info.why}; "
                    f"until then it is {running}"
                )

    def _hidden(self, read: SettingsRead) -> Iterator[str]:
        for name, (origin, value) in read.hidden.items():
            before = self._last.hidden.get(name)
            if before is None or before[1] != value:
                yield f"{origin}: {name} {value} has no effect, since it is overridden by the {read.origins[name]}"


def _content(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError:
        return None
