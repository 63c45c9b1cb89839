"""The store in an etcd cluster, shared by the processes of many machines."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from helios.errors import Conflict, StoreError, WatchLost
from helios.ports.store import Compare, Delete, Entry, Event, Put, Snapshot
from helios.stores.etcd_gateway import Access, Answer, Gateway, LoginOver, Refusal, decoded, encoded, items, number
from helios.stores.watching import check_commit, check_ttl, lease_lost

_NOT_FOUND = 5  # gRPC's code, by which etcd speaks of a lease that is gone
_PAGE_KEYS = 500  # of what is listed; big records come fewer at once


class EtcdStore:
    """A `ports.store.Store` in etcd. Make it with `open`; it belongs to one event loop.

    Its keys stand below a prefix, so that several clusters share an etcd. A commit is on the disks of a majority when
    it returns. A commit without a compare is compared with what was there a moment before, and tried again if that has
    changed: so one whose answer was lost cannot overwrite a later one. Leases live for whole seconds, at least for
    the time asked for, and start over when etcd elects a leader.
    """

    def __init__(self, gateway: Gateway, prefix: str) -> None:
        self._gateway = gateway
        self._prefix, _ = key_range(prefix)
        self._closed = asyncio.Event()

    @classmethod
    async def open(cls, access: Access, prefix: str) -> EtcdStore:
        """Open the store below `prefix`. Raises StoreError if etcd does not answer, is too old or lets us not in."""
        gateway = Gateway(access)
        store = cls(gateway, prefix)
        try:
            await gateway.check_version()
            await store.get("")
        except StoreError:
            await store.close()
            raise
        return store

    async def get(self, key: str) -> Entry | None:
        """The entry of `key`, or None."""
        answer = await self._read({"key": encoded(self._full(key))})
        found = [self._entry(pair) for pair in items(answer, "kvs")]
        return found[0] if found else None

    async def list(self, prefix: str) -> Snapshot:
        """All entries whose keys begin with `prefix`. Costs a request for every 500 entries."""
        start, end = self._range(prefix)
        entries: list[Entry] = []
        revision = 0
        while True:
            body = {"key": encoded(start), "range_end": encoded(end), "limit": _PAGE_KEYS, "revision": revision}
            answer = await self._read(body)
            revision = revision or number(answer, "header", "revision")
            pairs = items(answer, "kvs")
            entries += [self._entry(pair) for pair in pairs]
            if not answer.get("more"):
                return Snapshot(tuple(entries), revision)
            start = decoded(pairs[-1]["key"]) + b"\0"

    async def has_keys(self) -> bool:
        """Whether there is any entry."""
        start, end = self._range("")
        answer = await self._read({"key": encoded(start), "range_end": encoded(end), "count_only": True})
        return number(answer, "count") > 0

    async def commit(self, operations: Sequence[Put | Delete], *, compares: Sequence[Compare] = ()) -> int:
        """Do all operations as one and give the revision they got, or the present one if they changed nothing."""
        check_commit(operations, compares)
        # What is compared guards the whole commit, and saves the look at the rest.
        blind = [] if compares else [operation.key for operation in operations]
        while True:
            present = await self._versions(blind)
            met = [*compares, *(Compare(key, version) for key, version in present.items())]
            answer = await self._transact(operations, met)
            if answer.get("succeeded"):
                return number(answer, "header", "revision")
            found = [_version(response) for response in items(answer, "responses")]
            for compare, version in zip(compares, found, strict=False):
                if version != compare.version:
                    raise Conflict(f"{compare.key!r} is at version {version}, not {compare.version}; read it again")

    def watch(self, prefix: str, after: int) -> AsyncGenerator[tuple[Event, ...], None]:
        """Every change under `prefix` with a revision greater than `after`, in order, as they come."""
        self._check_open()
        return self._watch(prefix, after)

    async def grant(self, ttl_s: float) -> str:
        """A new lease that lives for `ttl_s` seconds, or up to a second longer, unless kept alive."""
        check_ttl(ttl_s)
        answer = await self._call("/v3/lease/grant", {"TTL": math.ceil(ttl_s)})
        return str(answer["ID"])

    async def keep_alive(self, lease: str) -> None:
        """Extend the lease to its full time from now; raises LeaseLost if it is gone."""
        self._check_open()
        if lease.isdecimal():
            answer = await self._call("/v3/lease/keepalive", {"ID": lease}, repeatable=True)
            if number(answer, "result", "TTL") > 0:
                return
        raise lease_lost(lease)

    async def revoke(self, lease: str) -> None:
        """End the lease and delete what is bound to it; nothing happens if it is gone."""
        self._check_open()
        if not lease.isdecimal():
            return
        try:
            await self._call("/v3/lease/revoke", {"ID": lease})
        except Refusal as error:
            if error.grpc_code != _NOT_FOUND:
                raise

    async def compact(self, revision: int) -> None:
        """Forget what was before `revision`, of every key in etcd; watches that begin before it are lost.

        Nothing happens where that has been done already.
        """
        try:
            await self._call("/v3/kv/compaction", {"revision": revision})
        except Refusal as error:
            if "compacted" not in str(error):
                raise

    async def close(self) -> None:
        """Let go of the connections and end the watches; leases live on until they expire."""
        self._closed.set()
        await self._gateway.close()

    async def _watch(self, prefix: str, after: int) -> AsyncGenerator[tuple[Event, ...], None]:
        renewed = False
        while not self._closed.is_set():
            established = False
            try:
                async with aclosing(self._changes(prefix, after)) as changes:
                    async for commits in changes:
                        established, renewed = True, False
                        for commit in commits:
                            after = number(commit[0], "kv", "mod_revision")
                            yield tuple(self._event(event) for event in commit)
                            if self._closed.is_set():
                                return
            except WatchLost:
                raise
            except LoginOver:
                if renewed:
                    raise
                renewed = True
            except StoreError:
                # Nothing is missed by going on where it broke, perhaps at another endpoint.
                if not established:
                    raise

    async def _changes(self, prefix: str, after: int) -> AsyncGenerator[Sequence[Sequence[Answer]], None]:
        """The commits in each answer to one watch; the first answer, that it is set up, has none."""
        start, end = self._range(prefix)
        request = {"key": encoded(start), "range_end": encoded(end), "start_revision": after + 1}
        stream = self._gateway.stream("/v3/watch", {"create_request": request})
        async with aclosing(self._until_closed(stream)) as answers:
            async for answer in answers:
                if (known := number(answer, "compact_revision")) > 0:
                    raise WatchLost(f"changes after {after} are known from {known} on only; list again")
                if answer.get("canceled"):
                    raise self._gateway.cancelled("/v3/watch", str(answer.get("cancel_reason", "")))
                yield _commits(items(answer, "events"))

    async def _until_closed(self, stream: AsyncGenerator[Answer, None]) -> AsyncGenerator[Answer, None]:
        """What the stream gives, until the store is closed."""
        closed = asyncio.ensure_future(self._closed.wait())
        try:
            async with aclosing(stream):
                while True:
                    coming = asyncio.ensure_future(anext(stream, None))
                    try:
                        await asyncio.wait({coming, closed}, return_when=asyncio.FIRST_COMPLETED)
                        if closed.done() or (answer := coming.result()) is None:
                            return
                    finally:
                        if not coming.done():
                            coming.cancel()
                            await asyncio.wait({coming})
                    yield answer
        finally:
            closed.cancel()

    async def _versions(self, keys: Sequence[str]) -> dict[str, int]:
        """At which version each key stands; 0 where there is none."""
        if not keys:
            return {}
        asked = [{"request_range": {"key": encoded(self._full(key)), "keys_only": True}} for key in keys]
        answer = await self._call("/v3/kv/txn", {"success": asked}, repeatable=True)
        return dict(zip(keys, map(_version, items(answer, "responses")), strict=True))

    async def _transact(self, operations: Sequence[Put | Delete], compares: Sequence[Compare]) -> Answer:
        """Carry out all or nothing; where a compare does not hold, the answer has the versions of its keys."""
        body = {
            "compare": [
                {"key": encoded(self._full(one.key)), "target": "MOD", "result": "EQUAL", "mod_revision": one.version}
                for one in compares
            ],
            "success": [self._request(operation) for operation in operations],
            "failure": [
                {"request_range": {"key": encoded(self._full(one.key)), "keys_only": True}} for one in compares
            ],
        }
        try:
            return await self._call("/v3/kv/txn", body)
        except Refusal as error:
            if error.grpc_code == _NOT_FOUND:
                leases = [one.lease for one in operations if isinstance(one, Put) and one.lease is not None]
                raise lease_lost(", ".join(sorted(set(leases)))) from error
            raise

    def _request(self, operation: Put | Delete) -> dict[str, Any]:
        key = encoded(self._full(operation.key))
        if isinstance(operation, Delete):
            return {"request_delete_range": {"key": key}}
        put = {"key": key, "value": encoded(operation.value)}
        if operation.lease is not None:
            # A name that etcd never gave belongs to no lease.
            put["lease"] = operation.lease if operation.lease.isdecimal() else str(2**63 - 1)
        return {"request_put": put}

    async def _read(self, body: Answer) -> Answer:
        return await self._call("/v3/kv/range", body, repeatable=True)

    async def _call(self, path: str, body: Answer, *, repeatable: bool = False) -> Answer:
        self._check_open()
        answer = await self._gateway.call(path, body, repeatable=repeatable)
        self._check_open()
        return answer

    def _full(self, key: str) -> bytes:
        return self._prefix + key.encode()

    def _range(self, prefix: str) -> tuple[bytes, bytes]:
        """The first key with the prefix, and the first behind all of them."""
        start = self._full(prefix)
        return start, _behind(start)

    def _entry(self, pair: Answer) -> Entry:
        return Entry(self._own(pair), decoded(pair.get("value", "")), number(pair, "mod_revision"))

    def _event(self, event: Answer) -> Event:
        pair = event["kv"]
        value = None if event.get("type") == "DELETE" else decoded(pair.get("value", ""))
        return Event(self._own(pair), value, number(pair, "mod_revision"))

    def _own(self, pair: Answer) -> str:
        return decoded(pair["key"]).removeprefix(self._prefix).decode()

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise StoreError("this handle of the store in etcd is closed; open another")


def key_range(prefix: str) -> tuple[bytes, bytes]:
    """The first key of a cluster that has this prefix in etcd, and the first one behind its keys."""
    start = f"/{prefix.strip('/')}/".encode()
    return start, _behind(start)


def _behind(start: bytes) -> bytes:
    kept = start.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1])


def _version(response: Answer) -> int:
    pairs = items(response.get("response_range", {}), "kvs")
    return number(pairs[0], "mod_revision") if pairs else 0


def _commits(events: Sequence[Answer]) -> Sequence[Sequence[Answer]]:
    """Events that came together, by the commit that made them."""
    commits: list[list[Answer]] = []
    for event in events:
        if commits and number(commits[-1][0], "kv", "mod_revision") == number(event, "kv", "mod_revision"):
            commits[-1].append(event)
        else:
            commits.append([event])
    return commits
