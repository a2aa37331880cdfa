"""Outcomes on their way to the store: in order, bounded, each batch of one incarnation; and claims that differ."""

from typing import cast

import pytest

from peerjob.model.record import MAX_BATCH, MAX_BATCH_BYTES, Action, Claim, Held, Outcome
from peerjob.node.work.claim_loop import ClaimLoop
from peerjob.node.work.hint_wait import HintedClaim
from peerjob.node.work.outcomes import MAX_PENDING, MAX_PENDING_BYTES, Outbox
from peerjob.node.work.reconciler import Reconciler
from peerjob.node.work.run import HeldClaims, Run


def a_run(id: str, incarnation: str = "first", fence: int = 1) -> Run:
    claim = Claim(
        id=id, kind="k", fence=fence, spec=b"", priority=0, due_us=0, attempts=1, crashes=0, losses=0, at_us=0
    )  # fmt: skip
    return Run(claim, incarnation, 0.0)


def an_end(run: Run, size: int = 0) -> Outcome:
    return Outcome(id=run.claim.id, fence=run.claim.fence, action=Action.COMPLETE, result=bytes(size))


def an_outbox(held_claims: HeldClaims) -> Outbox:
    return Outbox(held_claims)


def filled(*sizes: int, incarnations: str = "") -> Outbox:
    outbox = an_outbox(HeldClaims("first"))
    for at, size in enumerate(sizes):
        run = a_run(str(at), incarnations[at] if incarnations else "first")
        outbox.add(run, an_end(run, size))
    return outbox


def batches(outbox: Outbox) -> list[list[str]]:
    found: list[list[str]] = []
    while batch := outbox.take():
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
    outbox = filled(*[MAX_PENDING_BYTES // 8] * 8)
    batches(outbox)
    assert not outbox.full
    assert len(outbox) == 0


# -- claims of the node and of the store


def test_the_end_of_an_old_claim_leaves_the_newer_one_of_its_instance() -> None:
    held_claims, old, new = HeldClaims("first"), a_run("a", fence=1), a_run("a", fence=2)
    held_claims.add(old)
    held_claims.add(new)
    held_claims.remove(old)
    assert held_claims.get("a") is new
    held_claims.remove(new)
    assert len(held_claims) == 0


class Waiting:
    """As much of a wait for hints as a reconciler asks for."""

    claim: HintedClaim | None = None


class Answered:
    """As much of a claim loop as a reconciler asks for."""

    rounds = 7
    unsettled = False

    def __init__(self) -> None:
        self.hint_wait = Waiting()


def a_reconciler(held_claims: HeldClaims, claim_loop: Answered, outbox: Outbox) -> Reconciler:
    return Reconciler(
        held_claims=held_claims,
        outbox=outbox,
        claim_loop=cast(ClaimLoop, claim_loop),
    )


def test_a_difference_counts_after_two_answered_rounds() -> None:
    """The first of them may have been on its way when the difference was seen, and the store's view older than it."""
    claim_loop, held_claims = Answered(), HeldClaims("first")
    outbox = an_outbox(held_claims)
    reconciler = a_reconciler(held_claims, claim_loop, outbox)
    gone = a_run("gone")
    held_claims.add(gone)
    held = [Held("stranded", 5)]
    for _ in range(2):
        reconciler.compare(held)
        assert (len(outbox), gone.lost) == (0, False)
        claim_loop.rounds += 1
    reconciler.compare(held)
    returned = [(outcome.id, outcome.fence, outcome.action, run.incarnation) for run, outcome in outbox.take()]
    assert returned == [("stranded", 5, Action.HAND_BACK, "first")]
    assert gone.lost


def test_a_difference_that_was_settled_counts_anew() -> None:
    claim_loop, outbox = Answered(), an_outbox(HeldClaims("first"))
    reconciler = a_reconciler(HeldClaims("first"), claim_loop, outbox)
    for settled in (None, ()):
        reconciler.compare([Held("a", 5)])
        claim_loop.rounds += 1
        reconciler.compare(settled)
        claim_loop.rounds += 1
        reconciler.compare([Held("a", 5)])
        assert len(outbox) == 0
        claim_loop.rounds += 5
        reconciler.compare(settled)


@pytest.mark.parametrize("ends", [False, True])
def test_a_claim_that_came_or_ended_between_two_comparisons_counts_anew(ends: bool) -> None:
    """The claims of the store are of the moment of its answer, and an event loop that lags compares them late."""
    claim_loop, held_claims = Answered(), HeldClaims("first")
    outbox = an_outbox(held_claims)
    reconciler = a_reconciler(held_claims, claim_loop, outbox)
    run, stored = a_run("a"), [Held("a", 1)]
    reconciler.compare(stored)  # the answer to the claim is on its way
    claim_loop.rounds += 1
    held_claims.add(run)
    if ends:
        claim_loop.rounds += 1
        held_claims.remove(run)
    late = stored if ends else []  # by a store that reads the claim before its end, or after its end
    for rounds in (0, 1):
        claim_loop.rounds += rounds
        reconciler.compare(late)
        assert (len(outbox), run.lost) == (0, False)
    claim_loop.rounds += 1
    reconciler.compare(late)  # so the difference stays
    assert (len(outbox), run.lost) == (int(ends), not ends)


def test_comparisons_count_while_the_claim_loop_has_nothing_to_send() -> None:
    """As on a node whose workers are all busy."""
    claim_loop, held_claims = Answered(), HeldClaims("first")
    outbox = an_outbox(held_claims)
    reconciler = a_reconciler(held_claims, claim_loop, outbox)
    gone = a_run("gone")
    held_claims.add(gone)
    for _ in range(2):
        reconciler.compare([Held("stranded", 5)])
        claim_loop.unsettled = True  # a request is under way, and its answer can settle the difference
        reconciler.compare([Held("stranded", 5)])
        claim_loop.unsettled = False
        assert (len(outbox), gone.lost) == (0, False)
    reconciler.compare([Held("stranded", 5)])
    assert len(outbox) == 1
    assert gone.lost
