"""Users and TLS as the settings ask for them, and what must not be open to other machines without them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from ssl import SSLContext, SSLError, create_default_context

from helios.access.certificates import Certificates, TlsFiles
from helios.access.publishing import publish_users, stored_users
from helios.errors import StartError
from helios.model.notation import is_loopback
from helios.model.sections import AtlasSettings, SecuritySettings, StoreSettings
from helios.model.settings import Settings
from helios.model.users import User
from helios.node.server import NO_TLS, ServerTls
from helios.ports.store import Store
from helios.runtime.settings import absolute, absolute_url


async def settle_users(store: Store, settings: Settings, *, lead: bool) -> tuple[User, ...]:
    """The cluster's users. Those that the settings name go into the store; without `lead` only where it has none.

    Settings that do not name security.users change nothing: to do without users is said by an empty list of them.
    """
    stored = await stored_users(store)
    if settings.is_set("security.users") and (lead or stored is None):
        await publish_users(store, settings.security.users)
        return settings.security.users
    return stored or ()


def check_exposed(users: Iterable[User], listens: Mapping[str, str]) -> None:
    """Raise StartError if any of the hosts (by who listens there) is reached by others and nobody has a password."""
    if any(user.password_hash for user in users):
        return
    for who, host in listens.items():
        if not is_loopback(host):
            raise StartError(
                f"{who} would listen on {host}, which can be reached from other machines, and no users with passwords "
                "are configured: name them in security.users of the settings file, or listen on 127.0.0.1"
            )


def tls_files(security: SecuritySettings) -> TlsFiles | None:
    """The files of TLS; None where it is not wanted."""
    if not security.tls_cert_file:
        return None
    client_ca = absolute(security.tls_client_ca_file) if security.tls_client_ca_file else None
    return TlsFiles(absolute(security.tls_cert_file), absolute(security.tls_key_file), client_ca)


def server_tls(atlas: AtlasSettings) -> ServerTls:
    """The files that the settings name."""
    names = (atlas.tls_ca_file, atlas.tls_cert_file, atlas.tls_key_file)
    return ServerTls(*(absolute(name) if name else None for name in names))


@cache
def known_servers(files: ServerTls) -> Callable[[], SSLContext]:
    """What makes the context of connections to data servers. Raises StartError where a file cannot be used.

    With an authority of the cluster's own, whoever has a certificate of it is a server of the cluster, wherever it is.
    """
    if files == NO_TLS:
        return cache(create_default_context)  # made when it is needed: few clusters do
    try:
        made = create_default_context(cafile=files.ca)
        made.check_hostname = files.ca is None
        if files.cert is not None:
            made.load_cert_chain(files.cert, files.key, password="")  # else one that is needed is asked for
    except (OSError, SSLError) as error:
        named = ", ".join(str(path) for path in (files.ca, files.cert, files.key) if path is not None)
        raise StartError(f"the files of TLS to data servers (atlas.tls_*) cannot be used ({named}): {error}") from error
    return lambda: made


def with_absolute_files(settings: Settings) -> Settings:
    """The settings for processes that may be started in another folder, without the users, who are in the store."""
    security = settings.security.given_values()
    security.pop("users", None)
    for name in ("tls_cert_file", "tls_key_file", "tls_client_ca_file", "cluster_key_file"):
        if security.get(name):
            security[name] = str(absolute(security[name]))
    atlas = settings.atlas.given_values()
    atlas |= {name: str(absolute(path)) for name, path in atlas.items() if name.startswith("tls_") and path}
    store = settings.store.given_values()
    store |= {name: str(absolute(path)) for name, path in store.items() if name.endswith("_file") and path}
    if store.get("url"):
        store["url"] = absolute_url(store["url"])
    return settings.altered(
        **{
            name: value
            for name, value in (
                ("security", SecuritySettings(**security)),
                ("atlas", AtlasSettings(**atlas)),
                ("store", StoreSettings(**store)),
            )
            if name in settings.given
        }
    )


@asynccontextmanager
async def serving_tls(security: SecuritySettings) -> AsyncIterator[SSLContext | None]:
    """The TLS context of listeners, kept up to date; None without TLS. Raises StartError."""
    files = tls_files(security)
    if files is None:
        yield None
        return
    certificates = Certificates(files)
    keeping = asyncio.create_task(certificates.keep(), name="certificates")
    try:
        yield certificates.context
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])
