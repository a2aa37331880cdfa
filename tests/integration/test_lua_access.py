"""Users, rights and commands of Redis and Valkey: each refusal has its own error, at once."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

from peerjob import Job, Node
from peerjob.model.clock import SystemClock
from peerjob.model.errors import OptionError, StoreCommandError, StoreCredentialsError, StoreError, StorePermissionError
from peerjob.model.findings import Severity
from peerjob.model.query import Filter
from peerjob.model.record import Ack, Action
from peerjob.model.state import State
from peerjob.store.drivers import diagnose
from peerjob.store.lua.client.glide_driver import GlideDriver
from peerjob.store.lua.scripts.rights import RIGHTS, WRITES
from peerjob.testing.factories import outcome
from support.lua_site import (
    MakeSite,
    Site,
    with_each_driver,
    with_each_driver_and_server,
    with_each_driver_to_a_cluster,
)
from support.servers import ServerCluster, ServerKind, StartServer
from support.waiting import IN_TIME, until

R = TypeVar("R")
DOCUMENT = (Path(__file__).parents[2] / "docs/stores.md").read_text()


def documented_rights(*more: str) -> list[str]:
    """The words of the documented ACL command after the keys, and the rights of some rows of the table below it."""
    blocks: list[str] = re.findall(r"```\nACL SETUSER ([^`]*)```", DOCUMENT)
    (words,) = [block.replace("\\\n", " ").split() for block in blocks]
    assert words[:6] == ["peerjob", "on", ">password", "resetchannels", "-@all", "~{peerjob:shop}:*"]
    assert words[6:] == [f"+{right}" for right in RIGHTS]
    rows = [rights.replace("\\|", "|") for rights in re.findall(r"^\| `(\+[^`]*)`", DOCUMENT, re.MULTILINE)]
    return words[4:5] + words[6:] + [right for row in rows if row.split()[0] in more for right in row.split()]


async def works(here: Site, url: str) -> None:
    """Run instances from enqueue to commit, with a hint, a renewal and a lookup."""
    store = await here.open(url=url)
    peer = await here.join(store)
    assert (await peer.claim()).claims == ()
    hints = asyncio.create_task(store.next_hints(peer.incarnation, IN_TIME))
    await store.enqueue(here.make.instances(3, tags=("t",)))
    assert [hint.what for hint in await hints] == ["work"]
    assert set(await peer.commit(*map(outcome, await peer.take()))) == {Ack.DONE}
    assert not (await peer.renew()).dead
    await store.clear()


@with_each_driver
async def test_the_documented_rights_are_enough(site: MakeSite) -> None:
    here = site()
    keys = f"~{here.key('*')}"
    for user, rights in {
        "fewest": documented_rights(),
        "more": documented_rights("+config|get", "+waitaof"),
    }.items():
        here.server.command("ACL", "SETUSER", user, "on", ">secret", "resetchannels", keys, *rights)
        await works(here, here.server.url.replace("//", f"//{user}:secret@"))


@with_each_driver_to_a_cluster
async def test_the_documented_rights_are_enough_in_a_cluster(
    server_cluster: ServerCluster, as_url: Callable[[str], str]
) -> None:
    async with AsyncExitStack() as cleanup:
        here = Site(server_cluster.nodes[0], cleanup)
        rights = documented_rights("+cluster|slots")
        for node in server_cluster.nodes:
            node.command("ACL", "SETUSER", here.namespace, "on", ">secret", f"~{here.key('*')}", *rights)
        await works(here, as_url(server_cluster.url).replace("//", f"//{here.namespace}:secret@"))
        wrong = as_url(server_cluster.url).replace("//", f"//{here.namespace}:guess@")
        with pytest.raises(StoreCredentialsError):
            await here.open(url=wrong)


@with_each_driver_and_server
async def test_missing_rights_are_told_before_anything_is_written(site: MakeSite) -> None:
    here = site()
    few = [right for right in documented_rights() if right not in ("+zadd", "+blmpop")]
    here.server.command("ACL", "SETUSER", "jobs", "on", ">secret", f"~{here.key('*')}", *few)
    url = here.server.url.replace("//", "//jobs:secret@")
    with pytest.raises(StorePermissionError, match=r"'jobs'.*\+zadd.*\+blmpop") as denied:
        await here.open(url=url)
    assert here.namespace in str(denied.value)
    assert here.all_keys() == set()

    here.server.command("ACL", "SETUSER", "jobs", "+zadd", "+blmpop", "-client|setname")
    with pytest.raises(StorePermissionError, match="setname"):
        await here.open(url=url)
    here.server.command("ACL", "SETUSER", "jobs", "+client|setname", "-info")
    findings = await diagnose(url, namespace=here.namespace, clock=SystemClock())
    verdicts = {finding.subject: finding.verdict for finding in findings}
    if here.server.scheme == "valkey+glide":  # GLIDE asks for INFO when it connects
        with pytest.raises(StorePermissionError, match="'info'"):
            await here.open(url=url)
        assert verdicts["server"] is Severity.FAIL
    else:
        await here.open(url=url)
        assert verdicts["server"] is Severity.WARN
    here.server.command("ACL", "SETUSER", "jobs", "+info", "resetkeys", "~{peerjob:other}:*")
    with pytest.raises(StorePermissionError):
        await here.open(url=url)


@with_each_driver_and_server
async def test_a_refused_user_is_told_at_once(site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    here = site()
    # when GLIDE connects again and is refused, its calls only time out
    monkeypatch.setitem(cast("Any", GlideDriver.__init__).__kwdefaults__, "call_timeout", 1.0)
    here.server.command("ACL", "SETUSER", "jobs", "on", ">secret", "~*", "+@all")
    async with asyncio.timeout(IN_TIME):  # much less than the 30 s for which an outage is retried
        for user, given in (("jobs:guess@", "with"), ("nobody:secret@", "with"), (":guess@", "with")):
            with pytest.raises(StoreCredentialsError, match=f"{given} a password") as refused:
                await here.open(url=here.server.url.replace("//", f"//{user}"))
            assert "guess" not in str(refused.value)
            assert not isinstance(refused.value, OptionError)

        store = await here.open(url=here.server.url.replace("//", "//jobs:secret@"))
        await store.enqueue(here.make.instances(1))
        here.server.command("ACL", "SETUSER", "jobs", "off")
        here.server.command("CLIENT", "KILL", "USER", "jobs")
        with pytest.raises(StoreCredentialsError):
            await store.health()

        here.server.command("CONFIG", "SET", "requirepass", "secret")
        with pytest.raises(StoreCredentialsError, match="without a password"):
            await here.open()


@with_each_driver_and_server
async def test_a_right_that_is_taken_from_a_running_store_is_told_at_once(site: MakeSite) -> None:
    here = site()
    here.server.command("ACL", "SETUSER", "jobs", "on", ">secret", "~*", "+@all")
    store = await here.open(url=here.server.url.replace("//", "//jobs:secret@"))
    await store.enqueue(here.make.instances(1))
    for taken in ("-evalsha", "-time"):
        here.server.command("ACL", "SETUSER", "jobs", taken)
        with pytest.raises(StorePermissionError, match=taken[1:]):
            await store.enqueue(here.make.instances(1))
        here.server.command("ACL", "SETUSER", "jobs", taken.replace("-", "+"))
    assert (await store.health()).counts


@with_each_driver
async def test_a_script_that_lacks_a_right_changes_nothing(site: MakeSite) -> None:
    here = site()
    here.server.command("ACL", "SETUSER", "jobs", "on", ">secret", "~*", "+@all")
    store = await here.open(url=here.server.url.replace("//", "//jobs:secret@"))
    peer = await here.join(store)
    refused: list[StorePermissionError] = []

    async def call(right: str, verb: Callable[..., Awaitable[R]], *args: Any, **options: Any) -> R:
        """The answer without a right or, if it is refused and changes nothing, the answer with it."""
        before = here.dump()
        here.server.command("ACL", "SETUSER", "jobs", f"-{right}")
        try:
            return await verb(*args, **options)
        except StorePermissionError as error:
            refused.append(error)
        finally:
            here.server.command("ACL", "SETUSER", "jobs", f"+{right}")
        assert f"'{right}'" in str(refused[-1])
        assert here.dump() == before
        return await verb(*args, **options)

    for right in sorted(WRITES):
        later, keyed = here.make.instance(delay_us=60_000_000), here.make.instance(key=right, tags=("t",))
        await call(right, store.enqueue, [later, keyed, *here.make.instances(2)])
        done, again, left = (await call(right, peer.claim, request=here.make.request())).claims
        ends = [outcome(done, result=b"x"), outcome(again, Action.RETRY, delay_us=60_000_000)]
        assert await call(right, peer.commit, *ends, request=here.make.request()) == [Ack.DONE] * 2
        states = await call(right, store.cancel, [later.id, left.id], request=here.make.request())
        assert states == [State.SCHEDULED, State.PROCESSING]
        assert await peer.commit(outcome(left, Action.RELEASE)) == [Ack.CANCELLED]
        assert await call(right, store.clear_instances, Filter()) == 3
        await store.clear()
    assert len(refused) > 3 * len(WRITES)


@with_each_driver
async def test_a_node_goes_on_when_its_user_has_its_rights_again(site: MakeSite) -> None:
    here = site()
    here.server.command("ACL", "SETUSER", "jobs", "on", ">secret", "~*", "+@all")

    async def double(n: int) -> int:
        return 2 * n

    job = Job("double", double)
    url = here.server.url.replace("//", "//jobs:secret@")
    async with Node(url, jobs=[job], namespace=here.namespace) as node, asyncio.timeout(IN_TIME):
        waiting = await node.schedule(job.with_options(after=1), 1)
        here.server.command("ACL", "SETUSER", "jobs", "-evalsha", "-blmpop")
        with pytest.raises(StorePermissionError):
            await node.schedule(job, 2)
        await until(lambda: asyncio.to_thread(lambda: node.vitals().failures["claim loop"] > 0))
        here.server.command("ACL", "SETUSER", "jobs", "+evalsha", "+blmpop")
        assert await (await node.schedule(job, 3)).result() == 6
        assert await waiting.result() == 2


@pytest.mark.parametrize("kind", ["redis", "valkey", "valkey+glide"])
async def test_a_command_that_is_missing_is_told_at_once(kind: ServerKind, start_server: StartServer) -> None:
    async with AsyncExitStack() as cleanup, asyncio.timeout(IN_TIME):
        here = Site(
            start_server(kind, config=("--rename-command", "ZADD", "", "--rename-command", "LTRIM", "x")), cleanup
        )
        with pytest.raises(StoreCommandError, match="ltrim, zadd"):
            await here.open()
        assert here.all_keys() == set()
        without_info = Site(start_server(kind, config=("--rename-command", "INFO", "")), cleanup)
        if kind == "valkey+glide":
            with pytest.raises(StoreCommandError, match="unknown command 'INFO'"):
                await without_info.open()
        else:
            store = await without_info.open()
            assert any("may not ask it for INFO" in warning for warning in store.capabilities.warnings)
        without_scripts = Site(start_server(kind, config=("--rename-command", "EVALSHA", "")), cleanup)
        with pytest.raises(StoreCommandError, match=r"unknown command 'EVALSHA'$"):
            await without_scripts.open()


async def test_a_database_that_the_server_does_not_have_is_no_outage(site: MakeSite) -> None:
    here = site()
    with pytest.raises(StoreError, match="refused the connection: DB index is out of range") as refused:
        await here.open(url=f"{here.server.url}?db=99")
    assert type(refused.value) is StoreError
