"""A race with a turn: other calls can come between its commit and its claim."""

from typing import Any

from peerjob.model.record import StoreLimits
from support.oracle.calls import Calls
from support.oracle.clocks import START_US
from support.oracle.compare import Comparison, plain
from support.oracle.known import Known, Made
from support.oracle.leniency import answer_of
from support.oracle.names import Ids, Side
from support.oracle.races import Race
from support.oracle.reference import Reference

WANT: dict[str, Any] = {"node": 0, "kinds": {"a": 5}, "limit": 5}
JOIN: dict[str, Any] = {"node": 0, "kinds": ["a"]}
KEYED: dict[str, Any] = {"kind": "a", "key": "k"}


class Turning:
    """An engine on which a node holds a claim, and a race of its next turn with an enqueue."""

    def __init__(self) -> None:
        self._engine, self._reference = (Reference(StoreLimits(), strict=True) for _ in range(2))
        for one in (self._engine, self._reference):
            one.at(START_US)
        self._ours, self._theirs = Side("reference", self._reference.store), Side("engine", self._engine.store)
        self._known = Known(Ids(1, START_US))
        self._calls = Calls(self._known, lambda: START_US)

    async def begin(self) -> "Turning":
        """Let the node claim the instance with a unique key."""
        await self._both(self._calls.made(1, "join", JOIN))
        await self._both(self._calls.made(2, "enqueue", {"works": [KEYED | {"n": 1}]}))
        await self._both(self._calls.made(3, "claim", WANT))
        return self

    async def _both(self, made: Made) -> None:
        made.learn({side: await made.call(side) for side in (self._ours, self._theirs)})

    async def judged(self, action: str, order: str) -> list[str]:
        """What the race finds if the engine does the commit, the claim and the enqueue in this order."""
        outcome = {"of": "held", "pick": 0, "action": action}
        turn = self._calls.made(4, "turn", WANT | {"outcomes": [outcome]})
        enqueue = self._calls.made(5, "enqueue", {"works": [KEYED | {"n": 2}]})
        committed, claimed = turn.parts
        answers: dict[str, Any] = {}
        for name in order.split():
            made = {"commit": committed, "claim": claimed, "enqueue": enqueue}[name]
            answers[name] = await made.call(self._theirs)
        answered = {"turn": (answers["commit"], answers["claim"]), "enqueue": answers["enqueue"]}

        async def answer(made: Made, _: Side) -> Any:
            return answered[made.verb]

        race = Race([turn, enqueue], self._ours, self._theirs, self._known, self._reference)
        await race.run(answer, lambda: START_US)
        return await race.judge(answer_of, self._compare, (), lambda since_us: False)

    def _compare(self, made: Made, ours: Any, theirs: Any) -> list[str]:
        wanted, found = plain(ours, self._ours), plain(theirs, self._theirs)
        return Comparison(0, 0).differences(wanted, found, made.verb)


async def test_an_enqueue_can_come_between_the_commit_and_the_claim_of_a_turn() -> None:
    race = await Turning().begin()
    assert await race.judged("complete", "commit enqueue claim") == []


async def test_a_turn_that_hands_back_commits_first() -> None:
    race = await Turning().begin()
    assert await race.judged("hand_back", "enqueue commit claim") == []
    race = await Turning().begin()
    found = await race.judged("hand_back", "claim enqueue commit")
    assert found[0] == "no order explains the race"


async def test_a_turn_that_ends_instances_can_claim_first() -> None:
    race = await Turning().begin()
    assert await race.judged("complete", "claim enqueue commit") == []
