"""The demo's checks find loss, double completion, wrong totals and a missing recovery."""

from typing import Any

import pytest

from peerjob import Instance, State, SystemClock
from peerjob.cli.demo import workload
from peerjob.cli.demo.checks import Kill, Steps, evaluate, steps_of
from peerjob.cli.demo.workload import Count
from peerjob.model.codec import encode_value
from peerjob.model.ids import IdSource
from peerjob.model.record import Record, Transition
from peerjob.model.spec import Spec, encode, encode_arguments

ids = IdSource(SystemClock())
ONE = Count(files=1, lines=2, tokens=3, definitions=1)
KILL = Kill(node="node-1", at_us=3_500_000)

Step = tuple[State, str]
CREATED: list[Step] = [(State.CREATED, ""), (State.SCHEDULED, "")]


def instance(*steps: Step, fence: int = 1, receipt: tuple[str, int] | None = None) -> Instance[Any]:
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
        kind=workload.count.kind,
        state=history[-1].state,
        spec=encode(Spec(args=encode_arguments(("x",), {}))),
        priority=5,
        due_us=1_000_000,
        attempts=1,
        crashes=0,
        losses=0,
        fence=fence,
        owner="",
        history=history,
        result=encode_value({"node": node, "fence": proof, "count": ONE}) if done else None,
    )
    return Instance(None, record)


def result_of(
    *instances: Instance[Any], single: Count = ONE, lost: int = 0, kill: Kill | None = None, kill_wanted: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """The result, and the promises that were not kept."""
    scheduled = {one.id for one in instances} | set(ids.take(lost))
    result, checks = evaluate(instances, scheduled, single, kill, kill_wanted=kill_wanted)
    broken = [check.promise for check in checks if not check.kept]
    assert result["passed"] is not bool(broken)
    assert [one.partition(":")[0] for one in result["failed_checks"]] == broken
    return result, broken


def completed(node: str = "node-2") -> Instance[Any]:
    return instance((State.PROCESSING, node), (State.COMPLETED, node))


def test_all_is_well_when_every_instance_completed_once() -> None:
    result, broken = result_of(completed(), completed("node-3"), single=ONE + ONE)

    assert broken == []
    wanted = {"scheduled": 2, "completed": 2, "failed": 0, "lost": 0, "claims": 2, "seconds": 3.0}
    assert {name: result[name] for name in wanted} == wanted
    assert (result["jobs_per_second"], result["peak_jobs_per_second"]) == (0.7, 2)
    assert (result["recovery_seconds"], result["count"]) == (None, {**ONE + ONE, "untokenized": 0})


def test_an_instance_that_is_gone_is_lost() -> None:
    result, broken = result_of(completed(), lost=1)

    assert result["lost"] == 1
    assert broken == ["all that was scheduled completed", "nothing lost"]


def test_an_instance_that_never_ended_is_lost() -> None:
    result, broken = result_of(instance((State.PROCESSING, "node-1")), completed())

    assert result["lost"] == 1
    assert "nothing lost" in broken


def test_an_instance_that_failed_is_counted_as_failed() -> None:
    result, broken = result_of(instance((State.PROCESSING, "node-1"), (State.TERMINATED, "node-1")), single=Count())

    assert (result["failed"], result["lost"]) == (1, 0)
    assert broken == ["all that was scheduled completed"]


def test_a_second_completion_is_found_in_the_history() -> None:
    twice = instance((State.PROCESSING, "a"), (State.COMPLETED, "a"), (State.PROCESSING, "b"), (State.COMPLETED, "b"))

    assert result_of(twice)[1] == ["nothing completed twice"]


def test_a_result_of_a_stale_run_is_found_by_its_receipt() -> None:
    stale = instance((State.PROCESSING, "b"), (State.COMPLETED, "b"), fence=2, receipt=("a", 1))

    assert result_of(stale)[1] == ["nothing completed twice"]


def test_totals_that_differ_are_found() -> None:
    assert result_of(completed(), single=ONE + ONE)[1] == ["totals equal those of one process"]


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
    total = sum([ONE] * 5, Count())
    result, broken = result_of(*taken_over, ended_there, retried_there, single=total, kill=KILL, kill_wanted=True)

    assert (result["held_by_killed_node"], result["recovery_seconds"]) == (3, 4.5)
    assert broken == []


def test_there_is_no_recovery_while_anything_waits() -> None:
    waits = instance((State.PROCESSING, "node-1"), (State.SCHEDULED, "node-2"))
    back = instance(
        (State.PROCESSING, "node-1"), (State.SCHEDULED, "b"), (State.PROCESSING, "b"), (State.COMPLETED, "b")
    )
    result, broken = result_of(waits, back, kill=KILL, kill_wanted=True)

    assert result["recovery_seconds"] is None
    assert "peers took over all that was held" in broken


def test_a_kill_that_hit_nothing_proves_nothing() -> None:
    for kill in (None, KILL):
        assert result_of(completed(), kill=kill, kill_wanted=True)[1] == ["peers took over all that was held"]


CALLED, GOT = '["called", "order 1", "charge"]', '["got", "order 1", "charge", "a"]'


def test_a_step_that_ran_again_before_its_value_was_stored_is_no_fault() -> None:
    steps = steps_of([CALLED, CALLED, GOT, GOT])
    result, checks = evaluate([completed()], set(), ONE, None, kill_wanted=False, steps=steps)

    assert steps == Steps(names=1, run_again=1, accepted_twice=0)
    assert (result["steps_run_again"], result["values_accepted_twice"]) == (1, 0)
    assert checks[-1] == ("orders kept each value of a step", True, "1 steps")


@pytest.mark.parametrize("reports", [[], [CALLED], [CALLED, GOT, GOT.replace('"a"', '"b"')]])
def test_a_second_value_of_a_step_is_found_and_so_is_a_run_without_any(reports: list[str]) -> None:
    steps = steps_of(reports)

    assert not evaluate([completed()], set(), ONE, None, kill_wanted=False, steps=steps)[1][-1].kept
    assert steps.accepted_twice == (len(reports) == 3)


def test_the_best_second_is_the_one_in_which_most_ended() -> None:
    later = [
        instance((State.SCHEDULED, ""), (State.PROCESSING, "a"), (State.COMPLETED, "a")),
        instance((State.SCHEDULED, ""), (State.PROCESSING, "b"), (State.COMPLETED, "b")),
    ]

    assert result_of(completed(), *later)[0]["peak_jobs_per_second"] == 2


def test_what_was_killed_and_reported_is_in_the_result_and_none_without_it() -> None:
    taken = instance((State.PROCESSING, "node-1"), (State.PROCESSING, "node-2"), (State.COMPLETED, "node-2"))
    names = ("killed_node", "killed_leader", "held_by_killed_node", "steps_run_again", "values_accepted_twice")
    with_all, _ = evaluate([taken], {taken.id}, ONE, KILL, kill_wanted=True, steps=Steps(9, 6, 7))
    with_none, _ = evaluate([taken], {taken.id}, ONE, None, kill_wanted=False)
    assert [with_all[name] for name in names] == ["node-1", None, 1, 6, 7]
    assert [with_none[name] for name in names] == [None, None, 0, None, None]
    assert (with_all["recovery_seconds"], with_none["recovery_seconds"]) == (0.5, None)
