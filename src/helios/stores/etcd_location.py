"""A store in an etcd cluster: where it is, and whether anything is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from helios.errors import StoreError
from helios.ports.store import Store
from helios.stores.etcd import EtcdStore, key_range
from helios.stores.etcd_gateway import REQUEST_TIMEOUT_S, Access, encoded, number


@dataclass(frozen=True, slots=True)
class EtcdLocation:
    """The `ports.location.StoreLocation` of keys below a prefix in etcd. Addresses are `http://host:port`."""

    endpoints: tuple[str, ...]
    prefix: str

    def __str__(self) -> str:
        return f"etcd at {', '.join(self.endpoints)} below {self.prefix}"

    @property
    def paths(self) -> tuple[Path, ...]:
        """Nothing of it is on this machine."""
        return ()

    def exists(self) -> bool:
        """Whether there is any key below the prefix. Raises StoreError if etcd does not answer."""
        start, end = key_range(self.prefix)
        body = {"key": encoded(start), "range_end": encoded(end), "count_only": True}
        reasons: list[str] = []
        for endpoint in self.endpoints:
            try:
                url = f"{endpoint}/v3/kv/range"
                answer = httpx.post(url, json=body, timeout=REQUEST_TIMEOUT_S, trust_env=False)
                return number(answer.raise_for_status().json(), "count") > 0
            except (httpx.HTTPError, ValueError) as error:
                reasons.append(f"{endpoint}: {error or type(error).__name__}")
        raise StoreError(f"{self} does not answer ({'; '.join(reasons)})")

    async def open(self, *, expires: bool = True, before_commit: Callable[[], None] | None = None) -> Store:
        """The store below the prefix. etcd ends leases by itself, and no process of this machine can stall it."""
        return await EtcdStore.open(Access(self.endpoints), self.prefix)

    def writers(self) -> set[int]:
        """No process of this machine keeps others from a commit."""
        return set()
