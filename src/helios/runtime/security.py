"""Users and TLS as the settings ask for them, and what must not be open to other machines without them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from ssl import SSLContext

from helios.access.certificates import Certificates, TlsFiles
from helios.access.publishing import publish_users, stored_users
from helios.errors import StartError
from helios.model.notation import is_loopback
from helios.model.sections import SecuritySettings, StoreSettings
from helios.model.settings import Settings
from helios.model.users import User
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


def with_absolute_files(settings: Settings) -> Settings:
    """The settings for processes that may be started in another folder, without the users, who are in the store."""
    security = settings.security
    given = {name: getattr(security, name) for name in security.model_fields_set - {"users"}}
    for name in ("tls_cert_file", "tls_key_file", "tls_client_ca_file"):
        if given.get(name):
            given[name] = str(absolute(given[name]))
    sections = {name: getattr(settings, name) for name in settings.model_fields_set}
    if "security" in sections:
        sections["security"] = SecuritySettings(**given)
    if settings.store.url:
        sections["store"] = StoreSettings(url=absolute_url(settings.store.url))
    return Settings(**sections)


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
