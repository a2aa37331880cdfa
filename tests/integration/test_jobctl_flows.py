"""`jobctl show`, `signal`, `retry-flow` and `why` on a flow that waits for an approval."""

import asyncio

from peerjob import INJECTED, Context, Flow, Node, Server, Signal, job
from support.jobctl import Answer, Jobctl
from support.waiting import until

APPROVAL = Signal("approval", bool)


@job(kind="order")
async def order(context: Context = INJECTED) -> bool:
    await context.step("charge", lambda: {"paid": 5})
    return await context.wait_for(APPROVAL, timeout="3d")


@job(kind="bad")
async def bad() -> None:
    raise ValueError("no luck")


async def test_a_flow_from_a_terminal() -> None:
    async with Node("memory://", jobs=[order, bad]) as node, Server(node, "127.0.0.1:0") as server:
        jobctl = Jobctl({"PEERJOB_ADDRESS": server.target})

        async def call(*words: str) -> Answer:
            return await asyncio.to_thread(jobctl, *words)

        flow = Flow("import")
        member = flow.add(order.call())
        last = flow.add(bad.call(), after=[member])
        run = await node.schedule_flow(flow)
        id = run[member].id

        async def waits() -> bool:
            instance = await run[member].refresh()
            return instance.waits_for is not None and (await run.refresh()).waits_for is not None

        await until(waits)
        assert "it is suspended: it waits for signal approval until " in (await call("why", id)).out
        assert "2 of its 2 children are not over" in (await call("why", run.id)).out
        assert (await call("show", id, "-o", "json")).json["steps"]["charge"] == {"paid": 5}
        shown = (await call("show", run.id, "-o", "json")).json["arguments"]
        assert shown == ["import", {"members": 2, "needs": 1}, "***"]
        tree = (await call("show", run.id, "--tree")).lines
        assert tree[0].startswith(f"{run.id}  peerjob.flow  Scheduled  its children")
        assert {line[:3] for line in tree[1:]} == {"├─ ", "└─ "}
        assert "waits for signal approval" in (await call("run-now", id)).err
        malformed = await call("signal", id, "approval", "yes")
        assert (malformed.status, "got 'a text of 3 characters'" in malformed.err) == (2, True), malformed
        assert (await call("signal", id, "approval", "true")).status == 0
        refused = await call("signal", id, "approval", "false")
        assert (refused.status, "has another value already" in refused.err) == (1, True)
        await run.wait(30)
        listed = (await call("list", "instances", "--parent", run.id, "-o", "name")).lines
        assert set(listed) == {id, run[last].id}
        assert "FlowFailed: member 'bad/1' of flow 'import'" in (await call("show", run.id, "--tree")).lines[0]
        made = (await call("retry-flow", run.id, "-o", "json")).json
        assert made["retry_of"] == run.id
        assert (await call("retry-flow", id)).status == 2
