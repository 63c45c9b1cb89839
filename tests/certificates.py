"""Certificates for tests: an authority of one's own and what it signs, as the files that Helios reads."""

from __future__ import annotations

from pathlib import Path

import trustme


class Authority:
    """A CA with its certificate in a file."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._ca = trustme.CA()
        self._folder = folder
        self.path = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(self.path)

    def issue(self, name: str = "node") -> tuple[Path, Path]:
        """A certificate for this machine and its key; files of that name are replaced, one after the other."""
        issued = self._ca.issue_cert("localhost", "127.0.0.1", "::1")
        cert, key = self._folder / f"{name}.cert.pem", self._folder / f"{name}.key.pem"
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        for path, content in ((cert, chain), (key, issued.private_key_pem.bytes())):
            beside = path.with_suffix(".new")
            beside.write_bytes(content)
            beside.chmod(0o600)
            beside.replace(path)
        return cert, key
