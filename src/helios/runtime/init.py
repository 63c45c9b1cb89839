"""`helios init`: founds a cluster in its store, before any node runs."""

from __future__ import annotations

from helios.admin.joining import identify
from helios.errors import StartError
from helios.model.ids import Address
from helios.model.notation import is_loopback
from helios.node.files import DataFolder
from helios.node.topology_copy import newest_copy
from helios.ports.location import StoreLocation
from helios.ports.records import CLUSTER, SETTINGS, put_record
from helios.ports.topologies import read_topology
from helios.runtime.adoption import check_store
from helios.runtime.agreement import found
from helios.runtime.backends import connector, locate, opened_store
from helios.runtime.clock import SystemClock
from helios.runtime.founding import ADOPTED
from helios.runtime.identity import INIT, make_key, new_cluster, read_key
from helios.runtime.lifecycle import complain, say
from helios.runtime.security import settle_users
from helios.runtime.settings import SettingsRead, data_folder


async def run_init(read: SettingsRead, adopt: Address | None = None) -> None:
    """Put the settings, the users and the cluster's id into the store, and which server it is to be founded with.

    Raises StartError where they are there already, and where nodes in the data folder remember a cluster, which could
    not be made again once the store has another one. Makes the file of the cluster's key, if one is set and not there.
    """
    settings = read.settings
    data = DataFolder(data_folder(settings))
    location = locate(settings, data)
    if not location.spans_hosts:
        data.prepare()
    async with opened_store(data, location) as store:
        if await store.get(CLUSTER) is not None or await store.get(SETTINGS) is not None:
            raise _founded(location)
        check_store(data, location, newest_copy(data), await read_topology(store))
        made = make_key(settings.security)
        key = read_key(settings.security)
        if adopt is not None:
            await identify(store, connector(store, settings), ADOPTED, adopt)
        users = await settle_users(store, settings, lead=True)
        cluster = new_cluster(SystemClock(), INIT, key, adopts=adopt)
        # In one commit: who finds the cluster finds its settings.
        if not await found(store, settings, read.origins, [put_record(CLUSTER, cluster)], by=INIT):
            raise _founded(location)
    say(f"founded the cluster {cluster.id} in {location}, with {len(users)} users")
    if made is not None:
        say(f"its key is in {made}: copy that file to every host, readable by the user of Helios alone")
    elif not key and location.spans_hosts:
        complain(
            "there is no security.cluster_key_file, so the passwords of the data servers stand in the store: who can "
            "read that can read all data"
        )
    if not users:
        complain("there are no security.users: nodes can listen on 127.0.0.1 only")
    if adopt is not None:
        say(f"the first node that starts founds it with the server at {adopt}, as its node {ADOPTED}")
        if location.spans_hosts and is_loopback(adopt.host):
            complain(f"{adopt} means another server on each host: nodes can join on this one only")
    say("next, on each host: helios node --store ... --id ID --listen HOST:PORT --data-dir DIR")


def _founded(location: StoreLocation) -> StartError:
    return StartError(f"{location} is the store of a cluster already; nothing was changed")
