"""Access to etcd: TLS, certificates of clients, passwords, tokens that expire, and narrow rights."""

import asyncio
import base64
import urllib.request
from pathlib import Path
from urllib.parse import quote

import pytest

from peerjob.model.clock import SystemClock
from peerjob.model.errors import OptionError, StoreCredentialsError, StorePermissionError, StoreUnavailableError
from peerjob.model.findings import Severity
from peerjob.store.base import Store
from peerjob.store.drivers import diagnose
from peerjob.store.etcd.address import EtcdAddress, parse_address
from peerjob.store.etcd.api import Metadata
from peerjob.store.etcd.client import EtcdClient
from peerjob.store.kv.format.base import Put, Transaction
from support.etcd import ROOT_PASSWORD, EtcdServer, StartEtcd, other_ca
from support.etcd_site import EtcdSite
from support.waiting import IN_TIME, PATIENCE

_SIGN_IN = 'grpc_code="OK",grpc_method="Authenticate"'


async def works(site: EtcdSite, url: str) -> Store:
    """Run an instance from enqueue to commit, with a renewal and a hint."""
    store = await site.open(url, retry_for=2)
    peer = await site.join(store)
    assert not (await peer.take())
    hints = asyncio.create_task(store.next_hints(peer.incarnation, PATIENCE))
    await asyncio.sleep(0.1)  # most likely, the watch exists now
    await store.enqueue(site.make.instances(3))
    assert [hint.what for hint in await hints] == ["work"]
    for claim in await peer.take():
        await peer.end(claim)
    assert not (await peer.renew()).dead
    assert len(await store.nodes()) == 1
    await store.leave(peer.incarnation)
    return store


def with_user(url: str, user: str, password: str) -> str:
    return url.replace("://", f"://{user}:{quote(password, safe='')}@")


# -- TLS


async def test_tls_works_with_the_ca_that_signed(start_etcd: StartEtcd, etcd_site: EtcdSite) -> None:
    server = start_etcd(tls="server")
    assert server.url.startswith("etcds://127.0.0.1:")
    store = await works(etcd_site, server.url)
    assert store.url == server.url


async def test_servers_that_want_certificates_get_them(start_etcd: StartEtcd, etcd_site: EtcdSite) -> None:
    server = start_etcd(tls="mutual")
    await works(etcd_site, server.url)
    assert server.certificates is not None
    with pytest.raises(StoreUnavailableError):
        await etcd_site.open(f"etcds://127.0.0.1:{server.port}?ca={server.certificates.ca}")


async def test_a_server_with_a_foreign_certificate_is_not_trusted(
    start_etcd: StartEtcd, etcd_site: EtcdSite, tmp_path: Path
) -> None:
    server, other = start_etcd(tls="server"), other_ca(tmp_path)
    async with asyncio.timeout(IN_TIME):
        with pytest.raises(StoreUnavailableError, match=r"(?i)certificate"):
            await etcd_site.open(f"etcds://127.0.0.1:{server.port}?ca={other}")
        with pytest.raises(StoreUnavailableError):
            await etcd_site.open(f"etcd://127.0.0.1:{server.port}")


# -- passwords and tokens


@pytest.fixture
def guarded(start_etcd: StartEtcd) -> EtcdServer:
    """An etcd with users, whose tokens expire a second after their last use."""
    server = start_etcd(config=("--auth-token", "simple", "--auth-token-ttl", "1"))
    server.enable_auth()
    return server


async def test_a_password_opens_and_a_wrong_one_does_not(guarded: EtcdServer, etcd_site: EtcdSite) -> None:
    store = await works(etcd_site, with_user(guarded.url, "root", ROOT_PASSWORD))
    assert store.url == guarded.url.replace("://", "://root:***@")
    with pytest.raises(StoreCredentialsError, match="refused the credentials") as refused:
        await etcd_site.open(with_user(guarded.url, "root", "guess!"))
    assert "guess!" not in str(refused.value)
    with pytest.raises(StoreCredentialsError):
        await etcd_site.open(with_user(guarded.url, "nobody", ROOT_PASSWORD))
    with pytest.raises(StoreCredentialsError):
        await etcd_site.open(guarded.url)


async def test_tokens_that_ended_are_renewed_unseen(guarded: EtcdServer, etcd_site: EtcdSite) -> None:
    kv = await etcd_site.driver(with_user(guarded.url, "root", ROOT_PASSWORD))
    lease = await kv.grant(60_000_000)
    watch = kv.watch("in/")
    for turn in range(3):
        await asyncio.sleep(2.2)  # the token's end; etcd looks once a second
        if turn == 1:
            assert await kv.keepalive(lease)
        else:
            # many calls at once, one of which renews the token
            await asyncio.gather(
                *(kv.txn([Transaction([], [Put(f"in/{turn}/{number}", b"")])]) for number in range(20))
            )
    assert len(guarded.keys("in/")) == 40
    reported = set[str]()
    while len(reported) < 40:
        reported.update(await watch.changed(PATIENCE) or pytest.fail("the watch was interrupted"))
    watch.close()


async def test_a_watch_that_begins_with_an_old_token_goes_on(guarded: EtcdServer, etcd_site: EtcdSite) -> None:
    kv = await etcd_site.driver(with_user(guarded.url, "root", ROOT_PASSWORD))
    await asyncio.sleep(2.2)
    watch = kv.watch("in/")
    assert await watch.changed(PATIENCE) is None
    await kv.txn([Transaction([], [Put("in/new", b"")])])
    assert list(await watch.changed(PATIENCE) or ()) == ["in/new"]
    watch.close()


async def test_rights_that_change_meanwhile_are_met_with_a_new_token(guarded: EtcdServer, etcd_site: EtcdSite) -> None:
    """Every change of users makes all tokens old."""
    kv = await etcd_site.driver(with_user(guarded.url, "root", ROOT_PASSWORD))
    for number in range(3):
        guarded.call("auth/user/add", name=f"user{number}", password="any")
        await kv.txn([Transaction([], [Put(f"key{number}", b"")])])


@pytest.mark.parametrize(("changes", "renewals"), [(4, 5), (9, 5)], ids=["a few", "no end"])
async def test_tokens_that_end_before_their_first_use_are_renewed_a_few_times(
    start_etcd: StartEtcd, etcd_site: EtcdSite, monkeypatch: pytest.MonkeyPatch, changes: int, renewals: int
) -> None:
    """An operator changes users and roles one after the other."""
    server = start_etcd(config=("--auth-token", "simple"))
    server.enable_auth()
    kv = await etcd_site.driver(with_user(server.url, "root", ROOT_PASSWORD))
    renew, renewed = EtcdClient.renew_token, 0

    def change() -> None:
        # it ends the tokens of the user
        server.call("auth/user/changepw", name="root", password=ROOT_PASSWORD)

    async def outdated(self: EtcdClient, old: Metadata) -> None:
        nonlocal renewed
        await renew(self, old)
        renewed += 1
        if renewed <= changes:
            await asyncio.to_thread(change)

    monkeypatch.setattr(EtcdClient, "renew_token", outdated)
    change()
    call = kv.txn([Transaction([], [Put("key", b"")])])
    if changes < renewals:
        await call
    else:
        with pytest.raises(StoreCredentialsError, match="invalid auth token"):
            await call
    assert renewed == renewals


async def test_many_calls_with_an_old_token_get_one_new_token(start_etcd: StartEtcd, etcd_site: EtcdSite) -> None:
    server = start_etcd(config=("--auth-token", "simple"))
    server.enable_auth()
    kv = await etcd_site.driver(with_user(server.url, "root", ROOT_PASSWORD))
    # it ends the tokens of the user
    server.call("auth/user/changepw", name="root", password=ROOT_PASSWORD)
    before = await asyncio.to_thread(sign_ins, server)
    await asyncio.gather(*(kv.txn([Transaction([], [Put(f"key{number}", b"")])]) for number in range(20)))
    assert await asyncio.to_thread(sign_ins, server) == before + 1


def sign_ins(server: EtcdServer) -> int:
    """How many tokens the server has given out."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as reply:
        lines = reply.read().decode().splitlines()
    return sum(int(line.split()[-1]) for line in lines if line.startswith("grpc_server_handled") and _SIGN_IN in line)


async def test_a_password_for_an_etcd_without_users_is_no_error(start_etcd: StartEtcd, etcd_site: EtcdSite) -> None:
    server = start_etcd(config=("--auth-token-ttl", "1"))
    store = await works(etcd_site, with_user(server.url, "root", ROOT_PASSWORD))
    server.enable_auth()
    await store.enqueue(etcd_site.make.instances(2))


async def test_rights_on_the_namespace_are_enough(guarded: EtcdServer, etcd_site: EtcdSite) -> None:
    start, end = (base64.b64encode(f"{etcd_site.namespace}{last}".encode()).decode() for last in "/0")
    guarded.call("auth/role/add", name="jobs")
    guarded.call("auth/role/grant", name="jobs", perm={"permType": "READWRITE", "key": start, "range_end": end})
    guarded.call("auth/user/add", name="jobs", password="pw")
    guarded.call("auth/user/grant", user="jobs", role="jobs")
    url = with_user(guarded.url, "jobs", "pw")
    store = await works(etcd_site, url)
    await store.clear()
    for number in range(2):
        findings = await diagnose(url, namespace=etcd_site.namespace, clock=SystemClock())
        told = {finding.subject: (finding.verdict, finding.text) for finding in findings}
        assert told["server"][0] is Severity.OK
        assert told["compaction"][1].startswith(("nothing to compact yet", "old revisions are compacted")[number])
        guarded.compact()

    guarded.call("auth/role/revoke", role="jobs", key=start, range_end=end)
    # a running node treats this as a fault of the store, and waits until it is corrected
    with pytest.raises(StorePermissionError, match="permission denied"):
        await store.health()


# -- URLs


def test_a_url_says_where_and_how(tmp_path: Path) -> None:
    pem = tmp_path / "some.pem"
    pem.touch()
    assert parse_address("etcd://") == EtcdAddress(url="etcd://", endpoints=("localhost:2379",))
    assert parse_address("etcd://one,two:99,[::1]:3,[::2]").endpoints == (
        "one:2379",
        "two:99",
        "[::1]:3",
        "[::2]:2379",
    )
    full = parse_address(f"etcds://me:p%40%3A@one:1,two:2?ca={pem}&cert={pem}&key={pem}&quota=1000")
    assert full == EtcdAddress(
        url=f"etcds://me:***@one:1,two:2?ca={pem}&cert={pem}&key={pem}&quota=1000",
        endpoints=("one:1", "two:2"),
        username="me",
        password="p@:",
        tls=True,
        ca=pem,
        cert=pem,
        key=pem,
        quota=1000,
    )


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("etcd://host:port", "ports"),
        ("etcd://host:99999", "ports"),
        ("etcd://one,,two", "before and after each comma"),
        ("etcd://host/0", "nothing but options"),
        ("etcd://host?ca=/etc/hosts", "one of quota"),
        ("etcds://host?ca=/does/not/exist", "a file at"),
        ("etcds://host?cert=/etc/hosts", "together"),
        ("etcd://host?quota=2GB", "an int"),
        ("etcd://host?quota=0", "above 0"),
    ],
)
def test_urls_that_say_nothing_are_refused(url: str, wanted: str) -> None:
    with pytest.raises(OptionError, match=wanted):
        parse_address(url)
