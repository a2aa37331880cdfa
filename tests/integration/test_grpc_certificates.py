"""Certificates of a daemon are renewed while it runs: no restart, no signal, and no moment without a valid one."""

import shutil
from pathlib import Path

import pytest

from peerjob import Client, ClientTls, NodeUnavailableError
from support.etcd import Certificates
from support.jobd import Jobd, target
from support.processes import ChildProcess
from support.waiting import PATIENCE

STAYS = "the certificate stays as it was"


class Mounted:
    """A folder as a Secret is mounted in a pod: names that lead to a version, which is exchanged in one step."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._versions = 0
        folder.mkdir()
        for name in ("tls.crt", "tls.key", "ca.crt"):
            (folder / name).symlink_to(Path("..data") / name)

    def show(self, certificate: Path, key: Path, ca: Path) -> None:
        self._versions += 1
        version = self._folder / f"..{self._versions}"
        version.mkdir()
        for source, name in ((certificate, "tls.crt"), (key, "tls.key"), (ca, "ca.crt")):
            shutil.copy(source, version / name)
        link = self._folder / "..next"
        link.symlink_to(version.name)
        link.replace(self._folder / "..data")

    def options(self, *, mutual: bool) -> tuple[str, ...]:
        ca = ("--tls-client-ca", str(self._folder / "ca.crt")) if mutual else ()
        return ("--tls-cert", str(self._folder / "tls.crt"), "--tls-key", str(self._folder / "tls.key"), *ca)


def certificates(folder: Path) -> Certificates:
    folder.mkdir()
    return Certificates(folder)


def own(signed: Certificates) -> ClientTls:
    return ClientTls(ca=signed.ca, certificate=signed.client_cert, key=signed.client_key)


async def connects(child: ChildProcess, tls: ClientTls, *, within: float = PATIENCE) -> bool:
    """Whether a client that has never been there is served."""
    try:
        async with Client(target(child), tls=tls, connect_timeout=within) as client:
            return await client.count() == 0
    except NodeUnavailableError:
        return False


@pytest.mark.parametrize(
    "mutual", [pytest.param(False, marks=pytest.mark.matrix("a part of mutual TLS")), True], ids=["tls", "mutual"]
)
async def test_a_pair_that_is_renewed_is_shown_from_the_next_connection_on(
    jobd: Jobd, tmp_path: Path, *, mutual: bool
) -> None:
    old, new = certificates(tmp_path / "old"), certificates(tmp_path / "new")
    mounted = Mounted(tmp_path / "tls")
    mounted.show(old.server_cert, old.server_key, old.ca)
    child = jobd.run("--store", "memory://", *mounted.options(mutual=mutual))
    async with Client(target(child), tls=own(old)) as connected:
        assert not await connects(child, own(new), within=1)

        mounted.show(new.server_cert, new.server_key, new.ca)

        assert await connects(child, own(new))
        assert not await connects(child, own(old), within=1)
        assert not await connects(child, ClientTls(ca=new.ca), within=1) or not mutual
        assert await connected.count() == 0, "who is connected stays so"
        await child.line("the server uses a new certificate")

        mounted.show(old.server_cert, old.server_key, old.ca)
        assert await connects(child, own(old))
    assert child.terminate() == 0


async def test_an_invalid_pair_is_logged_once_and_the_last_valid_pair_stays(jobd: Jobd, tmp_path: Path) -> None:
    old, new = certificates(tmp_path / "old"), certificates(tmp_path / "new")
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n")
    mounted = Mounted(tmp_path / "tls")
    mounted.show(old.server_cert, old.server_key, old.ca)
    child = jobd.run("--store", "memory://", *mounted.options(mutual=True))

    for bad, why in (
        ((new.server_cert, old.server_key, old.ca), "key values mismatch"),
        ((rubbish, new.server_key, old.ca), r"tls\.crt and .*tls\.key"),
        ((new.server_cert, new.server_key, rubbish), "client_ca"),
    ):
        seen = len(child.lines)
        mounted.show(*bad)
        for _ in range(3):
            assert await connects(child, own(old))
        await child.line(f"{STAYS}: .*{why}", after=seen)
        assert sum(STAYS in line for line in child.lines[seen:]) == 1

    seen = len(child.lines)
    (tmp_path / "tls" / "tls.key").unlink()
    assert await connects(child, own(old))
    await child.line(f"{STAYS}: .*No such file", after=seen)

    (tmp_path / "tls" / "tls.key").symlink_to(Path("..data") / "tls.key")
    mounted.show(new.server_cert, new.server_key, new.ca)
    assert await connects(child, own(new)), "a good one is taken after all"
    assert child.terminate() == 0


async def test_a_daemon_does_not_start_with_a_key_of_another_certificate(jobd: Jobd, tmp_path: Path) -> None:
    old, new = certificates(tmp_path / "old"), certificates(tmp_path / "new")
    pair = ("--tls-cert", str(old.server_cert), "--tls-key", str(new.server_key))

    child = jobd.launch("run", "shop.jobs", "--store", "memory://", *pair)

    assert await child.exit() == 2
    assert "key values mismatch" in child.lines[-1]
