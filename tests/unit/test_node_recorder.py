"""Outcomes on their way to the store: in order, bounded, each batch of one incarnation; and claims that differ."""

from typing import cast

import pytest

from peerjob.model.record import MAX_BATCH, MAX_BATCH_BYTES, Action, Claim, Held, Outcome
from peerjob.node.work.claim_loop import ClaimLoop
from peerjob.node.work.held_claims import HeldClaims
from peerjob.node.work.outcome_queue import MAX_PENDING, MAX_PENDING_BYTES, OutcomeQueue
from peerjob.node.work.reconcile import Reconciler
from peerjob.node.work.run import Run


def a_run(id: str, incarnation: str = "first", fence: int = 1) -> Run:
    claim = Claim(
        id=id, kind="k", fence=fence, spec=b"", priority=0, due_us=0, attempts=1, crashes=0, losses=0, at_us=0
    )  # fmt: skip
    return Run(claim, incarnation, 0.0)


def an_end(run: Run, size: int = 0) -> Outcome:
    return Outcome(id=run.claim.id, fence=run.claim.fence, action=Action.COMPLETE, result=bytes(size))


def filled(*sizes: int, incarnations: str = "") -> OutcomeQueue:
    recorder = OutcomeQueue(lambda: None)
    for at, size in enumerate(sizes):
        run = a_run(str(at), incarnations[at] if incarnations else "first")
        recorder.add(run, an_end(run, size))
    return recorder


def batches(recorder: OutcomeQueue) -> list[list[str]]:
    found: list[list[str]] = []
    while batch := recorder.take():
        found.append([run.claim.id for run, _ in batch])
    return found


def test_a_batch_is_of_one_incarnation() -> None:
    assert batches(filled(0, 0, 0, 0, 0, incarnations="aabba")) == [["0", "1"], ["2", "3"], ["4"]]


def test_a_batch_is_bounded_by_number_and_by_bytes_and_always_holds_one() -> None:
    assert [len(batch) for batch in batches(filled(*[0] * (MAX_BATCH + 1)))] == [MAX_BATCH, 1]
    half, whole = MAX_BATCH_BYTES // 2, 2 * MAX_BATCH_BYTES
    assert batches(filled(half, half, half)) == [["0"], ["1"], ["2"]]
    assert batches(filled(0, whole, 0)) == [["0"], ["1"], ["2"]]
    assert batches(filled(half, 0, 0)) == [["0", "1", "2"]]


@pytest.mark.parametrize(("count", "size"), [(MAX_PENDING, 0), (8, MAX_PENDING_BYTES // 8)])
def test_what_waits_is_bounded_by_number_and_by_bytes(count: int, size: int) -> None:
    assert filled(*[size] * count).full
    assert not filled(*[size] * (count - 1)).full


def test_what_was_taken_makes_room() -> None:
    recorder = filled(*[MAX_PENDING_BYTES // 8] * 8)
    batches(recorder)
    assert not recorder.full
    assert len(recorder) == 0


# -- claims of the node and of the store


def test_the_end_of_an_old_claim_leaves_the_newer_one_of_its_instance() -> None:
    ledger, old, new = HeldClaims(), a_run("a", fence=1), a_run("a", fence=2)
    ledger.add(old)
    ledger.add(new)
    ledger.remove(old)
    assert ledger.get("a") is new
    ledger.remove(new)
    assert len(ledger) == 0


class Answered:
    """As much of a claim loop as a reconciler asks for."""

    incarnation = "first"
    turns = 7

    def hint(self) -> None: ...


def test_a_difference_counts_after_two_answered_turns() -> None:
    """The first of them may have been on its way when the difference was seen, and the store's view older than it."""
    turns, ledger, returned = Answered(), HeldClaims(), list[Run]()
    reconciler = Reconciler(ledger=ledger, turns=cast(ClaimLoop, turns), hand_back=returned.append)
    gone = a_run("gone")
    ledger.add(gone)
    held = [Held("stranded", 5)]
    for _ in range(2):
        reconciler.compare(held)
        assert (returned, gone.lost) == ([], False)
        turns.turns += 1
    reconciler.compare(held)
    assert [(run.claim.id, run.claim.fence, run.incarnation) for run in returned] == [("stranded", 5, "first")]
    assert gone.lost


def test_a_difference_that_was_settled_counts_anew() -> None:
    turns, returned = Answered(), list[Run]()
    reconciler = Reconciler(ledger=HeldClaims(), turns=cast(ClaimLoop, turns), hand_back=returned.append)
    for settled in (None, ()):
        reconciler.compare([Held("a", 5)])
        turns.turns += 1
        reconciler.compare(settled)
        turns.turns += 1
        reconciler.compare([Held("a", 5)])
        assert returned == []
        turns.turns += 5
        reconciler.compare(settled)
