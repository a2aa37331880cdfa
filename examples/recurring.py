"""Schedules: one in a job's definition, one added at run time, a pause, a manual run, and the ledger.

Run it with `python examples/recurring.py`. With PEERJOB_STORE=redis://localhost, run it in two terminals: each second
still has one heartbeat.
"""

import asyncio
import os

from peerjob import INJECTED, Context, Node, Query, Schedule, State, job, log_cleaner


@job(kind="heartbeat", cron="* * * * * *")  # a cron text of six fields starts with the seconds
async def heartbeat(context: Context = INJECTED) -> str:
    return f"the heartbeat of {context.nominal_at}"


@job(kind="greet")
async def greet(who: str) -> str:
    return f"hello, {who}"


def recurrence(schedule: Schedule) -> str:
    return schedule.cron or f"every {schedule.every}"


async def main() -> None:
    store = os.environ.get("PEERJOB_STORE", "memory://")
    async with Node(store, jobs=[heartbeat, greet, log_cleaner("30d")]) as node:
        often = greet.with_options(every="500ms", overlap="allow", name="greetings")
        greetings = await node.add_schedule(often, "world")
        for schedule in await node.schedules():
            print(f"{schedule.name}: {recurrence(schedule)}")

        seen = 0
        async for event in node.watch(Query(kind="greet", state=State.COMPLETED)):
            print("greetings:", await event.instance.result())
            seen += 1
            if seen == 3:
                break

        await greetings.pause("enough for now")
        print("paused:", greetings.note)
        by_hand = await greetings.trigger()
        if by_hand is not None:  # None if overlap= forbids a second instance while an earlier one runs
            print("by hand:", await by_hand.result())
        await greetings.remove()

        while len(fires := await node.fires("heartbeat")) < 2:  # noqa: ASYNC110  # a node sends no event for a fire
            await asyncio.sleep(0.1)
        seconds = [entry.nominal for entry in fires]
        print("heartbeat:", fires[0].outcome, "once for each second:", len(set(seconds)) == len(seconds))
        leader = await node.leader()
        print("fired by:", "this node" if leader and leader.name == node.name else "a peer")


if __name__ == "__main__":
    asyncio.run(main())
