"""The contents that TLS settings read: from files and from bytes, each from its own option."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from peerjob import ClientTls, Node, OptionError, ServerTls
from peerjob.cli.web_server import WebServer

CERTIFICATE, KEY = (f"-----BEGIN {name}-----".encode() for name in ("CERTIFICATE", "PRIVATE KEY"))


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, bytes], Path]:
    def made(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return made


def test_a_pair_that_is_not_all_in_files_is_left_to_grpc(file: Callable[[str, bytes], Path]) -> None:
    certificate, key = file("certificate", CERTIFICATE), file("key", KEY)
    pairs: list[tuple[Any, Any]] = [(CERTIFICATE, KEY), (certificate, KEY), (CERTIFICATE, key), (CERTIFICATE, str(key))]
    for one, other in pairs:
        assert ServerTls(certificate=one, key=other).read() == (CERTIFICATE, KEY, None)
    with pytest.raises(OptionError, match=r"expected a certificate and its private key.*certificate and .*key"):
        ServerTls(certificate=certificate, key=key).read()


def test_a_ca_without_certificates_is_refused() -> None:
    with pytest.raises(OptionError, match=r"client_ca: expected certificates .* got .bytes"):
        ServerTls(certificate=CERTIFICATE, key=KEY, client_ca=CERTIFICATE).read()
    with pytest.raises(OptionError, match=r"ca: expected certificates .* got .bytes"):
        ClientTls(ca=CERTIFICATE).credentials()


@pytest.mark.parametrize("missing", ["certificate", "key", "client_ca"])
@pytest.mark.parametrize("content", [None, b"", b"no PEM"])
def test_a_file_that_is_none_is_named(
    missing: str, content: bytes | None, file: Callable[[str, bytes], Path], tmp_path: Path
) -> None:
    path = tmp_path / "none" if content is None else file("none", content)
    given: dict[str, bytes | Path] = {"certificate": CERTIFICATE, "key": KEY, "client_ca": CERTIFICATE, missing: path}
    with pytest.raises(OptionError) as caught:
        ServerTls(**given).read()
    assert caught.value.option == missing
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("given", [{"certificate": CERTIFICATE}, {"key": KEY}])
def test_a_client_has_a_certificate_and_a_key_or_none(given: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="both, or none of them"):
        ClientTls(**given).credentials()


def test_no_text_of_settings_shows_a_key() -> None:
    assert "PRIVATE KEY" not in repr(ServerTls(certificate=CERTIFICATE, key=KEY))
    assert "PRIVATE KEY" not in repr(ClientTls(certificate=CERTIFICATE, key=KEY))


async def test_a_key_with_a_password_is_refused_in_words(tmp_path: Path) -> None:
    """OpenSSL itself would ask the terminal for the password."""
    certificate, key = pair(tmp_path, NoEncryption())
    tls = ServerTls(certificate=certificate, key=key)
    served = WebServer(Node("memory://"), "127.0.0.1:0", tls=tls)
    await served.start()
    pair(tmp_path, BestAvailableEncryption(b"secret"))
    with pytest.raises(OptionError, match=r"a certificate and its private key .*, or the key has a password"):
        tls.read()
    with pytest.raises(OptionError, match="or the key has a password"):
        await WebServer(Node("memory://"), "127.0.0.1:0", tls=tls).start()
    served.reload()
    await served.stop()


def pair(folder: Path, encryption: KeySerializationEncryption) -> tuple[Path, Path]:
    """Write a certificate that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    start = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    certificate = made.not_valid_before(start).not_valid_after(start + timedelta(days=1)).sign(key, hashes.SHA256())
    files = folder / "tls.crt", folder / "tls.key"
    files[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    return files
