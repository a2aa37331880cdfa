"""The contents that TLS settings read: from files and from bytes, each from its own option."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peerjob import ClientTls, OptionError, ServerTls

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
