"""The demo's checks find what they are there to find: loss, double completion, early runs, no recovery."""

from dataclasses import asdict
from typing import Any

from peerjob import Instance, State, SystemClock
from peerjob.cli.demo import workload
from peerjob.cli.demo.checks import Kill, Tally, judge
from peerjob.cli.demo.corpus import Count
from peerjob.model.codec import encode_value
from peerjob.model.ids import IdSource
from peerjob.model.record import Record, Transition
from peerjob.model.spec import Spec, encode, encode_arguments

ids = IdSource(SystemClock())
ONE = Count(files=1, lines=2, tokens=3, definitions=1)
KILL = Kill(node="node-1", pid=1, at_us=3_500_000)

Step = tuple[State, str]
CREATED: list[Step] = [(State.CREATED, ""), (State.SCHEDULED, "")]


def instance(
    *steps: Step,
    kind: str = workload.count.kind,
    fence: int = 1,
    receipt: tuple[str, int] | None = None,
    due_us: int = 1_000_000,
    attempts: int = 1,
) -> Instance[Any]:
    """One whose history has a step each second; its receipt has the node and fence of the last claim, or `receipt`."""
    history = tuple(
        Transition(state, second * 1_000_000, node)
        for second, (state, node) in enumerate(CREATED + list(steps), start=1)
    )
    claims = [entry.node for entry in history if entry.state is State.PROCESSING]
    node, proof = receipt or (claims[-1], fence)
    done = history[-1].state is State.COMPLETED
    record = Record(
        id=ids.one(),
        kind=kind,
        state=history[-1].state,
        spec=encode(Spec(args=encode_arguments(("x",), {}))),
        priority=5,
        due_us=due_us,
        attempts=attempts,
        crashes=0,
        losses=0,
        fence=fence,
        owner="",
        history=history,
        result=encode_value({"node": node, "fence": proof, "count": asdict(ONE)}) if done else None,
    )
    return Instance(None, record)


def tally_of(*instances: Instance[Any], lost: int = 0, kill: Kill | None = None) -> Tally:
    tally = Tally([one.id for one in instances] + ids.take(lost), kill)
    for one in instances:
        tally.add(one)
    return tally


def broken(tally: Tally, single: Count, *, kill_wanted: bool = False) -> list[str]:
    """The promises that were not kept."""
    return [check.promise for check in judge(tally, single, kill_wanted=kill_wanted) if not check.kept]


def completed(node: str = "node-2") -> Instance[Any]:
    return instance((State.PROCESSING, node), (State.COMPLETED, node))


def test_all_is_well_when_every_instance_completed_once() -> None:
    tally = tally_of(completed(), completed("node-3"))

    assert broken(tally, ONE + ONE) == []
    assert (tally.scheduled, tally.completed, tally.failed, tally.lost, tally.claims) == (2, 2, 0, 0, 2)
    assert tally.seconds == 3
    assert tally.jobs_per_second == 2 / 3
    assert tally.recovery_seconds is None


def test_an_instance_that_is_gone_is_lost() -> None:
    tally = tally_of(completed(), lost=1)

    assert tally.lost == 1
    assert broken(tally, ONE) == ["all that was scheduled completed", "nothing lost"]


def test_an_instance_that_never_ended_is_lost() -> None:
    tally = tally_of(instance((State.PROCESSING, "node-1")), completed())

    assert tally.lost == 1
    assert "nothing lost" in broken(tally, ONE)


def test_an_instance_that_failed_is_counted_as_failed() -> None:
    tally = tally_of(instance((State.PROCESSING, "node-1"), (State.TERMINATED, "node-1")))

    assert (tally.failed, tally.lost) == (1, 0)
    assert broken(tally, Count()) == ["all that was scheduled completed"]


def test_a_second_completion_is_found_in_the_history() -> None:
    twice = instance((State.PROCESSING, "a"), (State.COMPLETED, "a"), (State.PROCESSING, "b"), (State.COMPLETED, "b"))

    assert broken(tally_of(twice), ONE) == ["nothing completed twice"]


def test_a_result_of_a_stale_run_is_found_by_its_receipt() -> None:
    stale = instance((State.PROCESSING, "b"), (State.COMPLETED, "b"), fence=2, receipt=("a", 1))

    assert broken(tally_of(stale), ONE) == ["nothing completed twice"]


def test_totals_that_differ_are_found() -> None:
    assert broken(tally_of(completed()), ONE + ONE) == ["totals equal those of one process"]


def test_a_delayed_job_that_ran_early_is_found() -> None:
    late = instance((State.PROCESSING, "a"), (State.COMPLETED, "a"), kind=workload.delayed.kind, due_us=2_900_000)
    early = instance((State.PROCESSING, "a"), (State.COMPLETED, "a"), kind=workload.delayed.kind, due_us=3_100_000)

    assert broken(tally_of(late), ONE) == []
    assert broken(tally_of(early), ONE) == ["retried as told, not run early"]


def test_a_flaky_job_that_was_not_retried_is_found() -> None:
    kind = workload.flaky.kind
    steps = (State.PROCESSING, "a"), (State.COMPLETED, "a")

    assert broken(tally_of(instance(*steps, kind=kind, attempts=1 + workload.FAILURES)), ONE) == []
    assert broken(tally_of(instance(*steps, kind=kind)), ONE) == ["retried as told, not run early"]


def test_recovery_lasts_until_the_last_claim_elsewhere() -> None:
    taken_over = [
        instance(
            (State.PROCESSING, "node-1"),
            *[(State.SCHEDULED, "node-2")] * steps,
            (State.PROCESSING, "node-3"),
            (State.COMPLETED, "node-3"),
            fence=2,
        )
        for steps in (1, 4, 2)
    ]
    ended_there = completed("node-1")
    retried_there = instance(
        (State.PROCESSING, "node-1"), (State.SCHEDULED, "node-1"), (State.PROCESSING, "b"), (State.COMPLETED, "b")
    )
    tally = tally_of(*taken_over, ended_there, retried_there, kill=KILL)

    assert tally.held == 3
    assert tally.recovery_seconds == 4.5
    assert broken(tally, tally.count, kill_wanted=True) == []


def test_there_is_no_recovery_while_anything_waits() -> None:
    waits = instance((State.PROCESSING, "node-1"), (State.SCHEDULED, "node-2"))
    back = instance(
        (State.PROCESSING, "node-1"), (State.SCHEDULED, "b"), (State.PROCESSING, "b"), (State.COMPLETED, "b")
    )
    tally = tally_of(waits, back, kill=KILL)

    assert tally.recovery_seconds is None
    assert "peers took over all that was held" in broken(tally, ONE, kill_wanted=True)


def test_a_kill_that_hit_nothing_proves_nothing() -> None:
    for kill in (None, KILL):
        tally = tally_of(completed(), kill=kill)
        assert broken(tally, ONE, kill_wanted=True) == ["peers took over all that was held"]


def test_the_best_second_is_the_one_in_which_most_ended() -> None:
    later = [
        instance((State.SCHEDULED, ""), (State.PROCESSING, "a"), (State.COMPLETED, "a")),
        instance((State.SCHEDULED, ""), (State.PROCESSING, "b"), (State.COMPLETED, "b")),
    ]

    assert tally_of(completed(), *later).peak_per_second == 2
