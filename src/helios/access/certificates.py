"""TLS for listeners: contexts made of files, which are read again when they change."""

from __future__ import annotations

import asyncio
import logging
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from helios.errors import StartError

logger = logging.getLogger(__name__)
_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Absolute paths of PEM files. With `client_ca`, clients must show a certificate that it has signed."""

    cert: Path
    key: Path
    client_ca: Path | None = None


def exposed_key(files: TlsFiles) -> str:
    """What is wrong with a private key that every user of the machine can read; empty where none can be."""
    try:
        mode = files.key.stat().st_mode
    except OSError:
        return ""  # said where it is used
    if not mode & stat.S_IROTH:
        return ""
    return f"every user of this machine can read the TLS key {files.key}: run `chmod o-rwx {files.key}`"


class Certificates:
    """The TLS context of a process's listeners. Connections that are open keep what they began with.

    A certificate that has changed is used for the handshakes that follow; a new client CA is trusted as well, and
    one that was taken away until the process ends. Raises StartError where the files cannot be used.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._seen = self._marks()
        try:
            self.context = _context(files)
        except (OSError, ValueError) as error:
            raise StartError(f"TLS cannot be served: {_explained(files, error)}") from error
        self._warn()

    async def keep(self) -> None:
        """Look for changes once a second. Never returns."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self.look()

    def look(self) -> bool:
        """Read the files again if they have changed; whether what they hold is in use now."""
        marks = self._marks()
        if marks == self._seen:
            return False
        self._seen = marks
        try:
            # Tried on a context of its own first: half of a pair must not get into the live one.
            _context(self._files)
            self.context.load_cert_chain(self._files.cert, self._files.key, _no_password)
            if self._files.client_ca is not None:
                self.context.load_verify_locations(self._files.client_ca)
        except (OSError, ValueError) as error:
            logger.warning("the new certificate is not used, the old one stays: %s", _explained(self._files, error))
            return False
        logger.info("certificate replaced: file=%s", self._files.cert)
        self._warn()
        return True

    def _warn(self) -> None:
        exposed = exposed_key(self._files)
        if exposed:
            logger.warning("%s", exposed)

    def _marks(self) -> list[tuple[int, ...] | None]:
        """What changes about a file when it does; None where it is away."""
        marks: list[tuple[int, ...] | None] = []
        for path in filter(None, (self._files.cert, self._files.key, self._files.client_ca)):
            try:
                status = path.stat()
            except OSError:
                marks.append(None)
            else:
                marks.append((status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
        return marks


def _context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(files.cert, files.key, _no_password)
    if files.client_ca is not None:
        context.load_verify_locations(files.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _no_password() -> str:
    """Asked for by the library where a key is encrypted; without this it would ask at the terminal."""
    raise ValueError("the key is encrypted: store it without a passphrase, readable by Helios alone")


def _explained(files: TlsFiles, failure: Exception) -> str:
    for path in filter(None, (files.cert, files.key, files.client_ca)):
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            return f"{path} cannot be read: {error.strerror}"
    if isinstance(failure, ssl.SSLError):
        reason = (failure.reason or str(failure)).replace("_", " ").lower()
        return f"{files.cert} and {files.key} are not a certificate and its key in PEM form ({reason})"
    return str(failure)
