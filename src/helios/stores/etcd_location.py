"""A store in an etcd cluster: where it is, and whether anything is there."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from helios.errors import StartError
from helios.ports.store import Store
from helios.stores.etcd import EtcdStore
from helios.stores.etcd_gateway import Access


@dataclass(frozen=True, slots=True)
class EtcdTls:
    """The files by which etcd is known, and by which it knows us; without `ca` the system's authorities count."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """What connections are made with. Raises StartError where a file cannot be used."""
        try:
            made = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None:
                made.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(str(path) for path in (self.ca, self.cert, self.key) if path is not None)
            raise StartError(f"the files of TLS to etcd cannot be used ({files}): {error}") from error
        return made


@dataclass(frozen=True, slots=True)
class EtcdLocation:
    """The `ports.location.StoreLocation` of keys below a prefix in etcd. Addresses are `host:port`."""

    addresses: tuple[str, ...]
    prefix: str
    user: str = ""
    password: str = field(default="", repr=False)
    tls: EtcdTls | None = None

    def __str__(self) -> str:
        return f"etcd at {', '.join(self.addresses)} below {self.prefix}"

    @property
    def spans_hosts(self) -> bool:
        """Whoever reaches etcd can use it."""
        return True

    @property
    def paths(self) -> tuple[Path, ...]:
        """Nothing of it is on this machine."""
        return ()

    @property
    def access(self) -> Access:
        """How to reach it. Raises StartError where files of TLS cannot be used."""
        scheme, context = ("http", None) if self.tls is None else ("https", self.tls.context())
        endpoints = tuple(f"{scheme}://{address}" for address in self.addresses)
        return Access(endpoints, self.user, self.password, context)

    def exists(self) -> bool:
        """Whether there is any key below the prefix. Raises StoreError if etcd does not answer."""
        # A loop of its own: callers may be in one already.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, self._has_keys()).result()

    async def _has_keys(self) -> bool:
        store = await EtcdStore.open(self.access, self.prefix)
        try:
            return await store.has_keys()
        finally:
            await store.close()

    async def open(self, *, expires: bool = True, before_commit: Callable[[], None] | None = None) -> Store:
        """The store below the prefix. etcd ends leases by itself, and no process of this machine can stall it."""
        return await EtcdStore.open(self.access, self.prefix)

    def writers(self) -> set[int]:
        """No process of this machine keeps others from a commit."""
        return set()
