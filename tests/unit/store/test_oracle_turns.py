"""A race with a call of several steps: other calls can come between them."""

from collections.abc import Mapping
from typing import Any

from peerjob.model.record import StoreLimits
from support.oracle.calls import Calls
from support.oracle.choices import Chosen
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
HELD: dict[str, Any] = {"of": "held", "pick": 0}


class Raced:
    """An engine, which does the steps of racing calls in a given order."""

    def __init__(self) -> None:
        self._engine, self._reference = (Reference(StoreLimits(), strict=True) for _ in range(2))
        self._ours, self._theirs = Side("reference", self._reference.store), Side("engine", self._engine.store)
        self._known = Known(Ids(1, START_US))
        self._calls = Calls(self._known, lambda: START_US)
        self._numbers = 0
        self.at(START_US)

    def at(self, now_us: int) -> None:
        """Set the clocks."""
        for one in (self._engine, self._reference):
            one.at(now_us)

    @property
    def instances(self) -> list[str]:
        """The ids of the instances."""
        return self._known.instances

    def made(self, verb: str, given: Mapping[str, Any]) -> Made:
        """A call."""
        self._numbers += 1
        return self._calls.made(self._numbers, verb, given)

    async def both(self, verb: str, given: Mapping[str, Any]) -> None:
        """Make a call before the race."""
        made = self.made(verb, given)
        made.learn({side: await made.call(side) for side in (self._ours, self._theirs)})

    async def step(self, made: Made, chosen: Chosen | None = None) -> Any:
        """Let the engine do a step."""
        self._engine.follow(chosen or Chosen())
        return await made.call(self._theirs)

    def settle(self) -> None:
        """Let the engine follow up the ends of the steps that settle later."""
        self._engine.follow(Chosen())
        self._engine.settle()

    async def judged(self, answers: Mapping[str, tuple[Made, Any]]) -> list[str]:
        """What the race finds, in which the engine gave these answers."""

        async def answer(made: Made, _: Side) -> Any:
            return answers[made.verb][1]

        mades = [made for made, _ in answers.values()]
        race = Race(mades, self._ours, self._theirs, self._known, self._reference)
        await race.run(answer, lambda: self._reference.now_us)
        self._engine.follow(Chosen())
        return await race.judge(answer_of, self._compare, (), lambda since_us: False)

    def _compare(self, made: Made, ours: Any, theirs: Any) -> list[str]:
        wanted, found = plain(ours, self._ours), plain(theirs, self._theirs)
        return Comparison(0, 0).differences(wanted, found, made.verb)


async def _turn(action: str, order: str) -> list[str]:
    """What a race of a turn with an enqueue finds if the engine does their steps in this order."""
    raced = Raced()
    await raced.both("join", JOIN)
    await raced.both("enqueue", {"works": [KEYED | {"n": 1}]})
    await raced.both("claim", WANT)
    turn = raced.made("turn", WANT | {"outcomes": [HELD | {"action": action}]})
    enqueue = raced.made("enqueue", {"works": [KEYED | {"n": 2}]})
    steps: dict[str, Made] = dict(zip(("commit", "claim", "enqueue"), (*turn.parts, enqueue), strict=True))
    done = {name: await raced.step(steps[name]) for name in order.split()}
    return await raced.judged({"turn": (turn, (done["commit"], done["claim"])), "enqueue": (enqueue, done["enqueue"])})


async def test_an_enqueue_can_come_between_the_commit_and_the_claim_of_a_turn() -> None:
    assert await _turn("complete", "commit enqueue claim") == []


async def test_a_turn_that_hands_back_commits_first() -> None:
    assert await _turn("hand_back", "enqueue commit claim") == []
    found = await _turn("hand_back", "claim enqueue commit")
    assert found[0] == "no order explains the race"


async def test_a_turn_that_ends_instances_can_claim_first() -> None:
    assert await _turn("complete", "claim enqueue commit") == []


async def _reap(*, ends_both: bool) -> list[str]:
    """What a race of a reap with a claim finds if a node whose lease is over claims what another one held."""
    raced = Raced()
    for node in range(3):
        await raced.both("join", JOIN | {"node": node, "over": node < 2})
    await raced.both("enqueue", {"works": [{"kind": "a", "n": 1}]})
    await raced.both("claim", WANT)
    raced.at(START_US + 1_000)
    claim, reap = raced.made("claim", WANT | {"node": 1}), raced.made("reap", {"node": 2, "limit": 100})
    reaped = await raced.step(reap, Chosen(partly=True, reaped=list(raced.instances)))
    claimed = await raced.step(claim)
    reaped += await raced.step(reap) if ends_both else []
    return await raced.judged({"claim": (claim, claimed), "reap": (reap, reaped)})


async def test_a_node_can_claim_what_a_reap_took_back_before_the_reap_ends_that_node() -> None:
    assert await _reap(ends_both=True) == []


async def test_a_reap_ends_each_incarnation_whose_lease_is_over() -> None:
    found = await _reap(ends_both=False)
    assert found[0] == "no order explains the race"


async def _end_of_a_parent(*, cancels: bool) -> list[str]:
    """What a race finds if the engine follows up the end of a parent after its node has handed the child back."""
    raced = Raced()
    await raced.both("require_layout", {})
    await raced.both("join", JOIN)
    await raced.both("enqueue", {"works": [{"kind": "a", "n": 1}]})
    await raced.both("claim", WANT)
    await raced.both("spawn", HELD | {"node": 0, "children": [{"needs": [], "work": {"kind": "a", "n": 2}}]})
    await raced.both("claim", WANT)
    commit = raced.made("commit", {"node": 0, "outcomes": [HELD | {"action": "complete"}]})
    leave = raced.made("leave", {"node": 0})
    acks = await raced.step(commit, Chosen(settles_later=True))
    left = await raced.step(leave)
    if cancels:
        raced.settle()
    return await raced.judged({"commit": (commit, acks), "leave": (leave, left)})


async def test_a_call_can_come_before_the_end_of_a_parent_is_followed_up() -> None:
    assert await _end_of_a_parent(cancels=True) == []


async def test_the_end_of_a_parent_is_followed_up() -> None:
    found = await _end_of_a_parent(cancels=False)
    assert found[0] == "no order explains the race"
