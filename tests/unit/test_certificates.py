"""TLS contexts that follow their files."""

from __future__ import annotations

import logging
import shutil
import ssl
from pathlib import Path

import pytest
from tests.certificates import Authority

from helios.access.certificates import Certificates, TlsFiles
from helios.errors import StartError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority and two certificates, to be copied from."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority(folder)
    authority.issue("a")
    authority.issue("b")
    return folder


def put(made: Path, name: str, folder: Path, parts: str = "cert key") -> TlsFiles:
    for part in parts.split():
        shutil.copy(made / f"{name}.{part}.pem", folder / f"{part}.pem")
    return TlsFiles(folder / "cert.pem", folder / "key.pem")


def shown(context: ssl.SSLContext, authority: Path, own: tuple[Path, Path] | None = None) -> bytes:
    """The certificate that a handshake over memory alone is shown."""
    client = ssl.create_default_context(cafile=str(authority))
    if own is not None:
        client.load_cert_chain(*own)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_side = context.wrap_bio(to_server, to_client, server_side=True)
    client_side = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    for side in (client_side, server_side, client_side, server_side):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    certificate = client_side.getpeercert(binary_form=True)
    assert certificate is not None
    return certificate


def der(path: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(
        path.read_text().partition("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"
    )


def test_a_new_pair_is_used_for_what_comes_after(made: Path, tmp_path: Path) -> None:
    certificates = Certificates(put(made, "a", tmp_path))
    assert shown(certificates.context, made / "ca.pem") == der(made / "a.cert.pem")
    assert not certificates.look()
    put(made, "b", tmp_path)
    assert certificates.look()
    assert not certificates.look()
    assert shown(certificates.context, made / "ca.pem") == der(made / "b.cert.pem")
    assert certificates.context.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("how", ["half", "broken", "gone"])
def test_what_is_wrong_leaves_the_old_pair_and_is_told_once(
    made: Path, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    certificates = Certificates(put(made, "a", tmp_path))
    if how == "half":
        put(made, "b", tmp_path, "cert")
    elif how == "broken":
        (tmp_path / "key.pem").write_text("no key")
    else:
        (tmp_path / "cert.pem").unlink()
    with caplog.at_level(logging.WARNING):
        assert not certificates.look()
        assert not certificates.look()
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "the new certificate is not used, the old one stays"
    ]
    assert shown(certificates.context, made / "ca.pem") == der(made / "a.cert.pem")
    put(made, "b", tmp_path)
    assert certificates.look()
    assert shown(certificates.context, made / "ca.pem") == der(made / "b.cert.pem")


def test_clients_can_be_asked_for_a_certificate(made: Path, tmp_path: Path) -> None:
    files = put(made, "a", tmp_path)
    asking = Certificates(TlsFiles(files.cert, files.key, made / "ca.pem"))
    with pytest.raises(ssl.SSLError, match="CERTIFICATE"):
        shown(asking.context, made / "ca.pem")
    own = (made / "b.cert.pem", made / "b.key.pem")
    assert shown(asking.context, made / "ca.pem", own) == der(made / "a.cert.pem")


def test_files_of_no_use_stop_a_start(made: Path, tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"cert\.pem cannot be read: No such file"):
        Certificates(TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem"))
    put(made, "a", tmp_path, "cert")
    put(made, "b", tmp_path, "key")
    with pytest.raises(StartError, match="are not a certificate and its key in PEM form"):
        Certificates(TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem"))
    files = put(made, "a", tmp_path)
    with pytest.raises(StartError, match=r"ca\.pem cannot be read"):
        Certificates(TlsFiles(files.cert, files.key, tmp_path / "ca.pem"))
