"""Outcomes on their way to the store: in order, bounded, each batch of one incarnation; and claims that differ."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerjob.model.durable import Step
from peerjob.model.record import MAX_BATCH, MAX_BATCH_BYTES, Ack, Action, Claim, Held, Outcome
from peerjob.node.work.durable_state import DurableState, Write
from peerjob.node.work.in_flight import InFlight, StoreRequest
from peerjob.node.work.reconciler import Reconciler
from peerjob.node.work.run import HeldClaims, Run
from peerjob.node.work.unsent_reports import MAX_PENDING, MAX_PENDING_BYTES, UnsentReports, Waker
from peerjob.store.rules import digest


def a_run(id: str, incarnation: str = "first", fence: int = 1) -> Run:
    claim = Claim(
        id=id, kind="k", fence=fence, spec=b"", priority=0, due_us=0, attempts=1, crashes=0, losses=0, at_us=0
    )  # fmt: skip
    return Run(claim, incarnation, 0.0)


def an_end(run: Run, size: int = 0) -> Outcome:
    return Outcome(id=run.claim.id, fence=run.claim.fence, action=Action.COMPLETE, result=bytes(size))


def none_unsent(held_claims: HeldClaims) -> UnsentReports:
    return UnsentReports(held_claims, Waker())


def filled(*sizes: int, incarnations: str = "") -> UnsentReports:
    unsent = none_unsent(HeldClaims("first"))
    for at, size in enumerate(sizes):
        run = a_run(str(at), incarnations[at] if incarnations else "first")
        unsent.add(run, an_end(run, size))
    return unsent


def batches(unsent: UnsentReports) -> list[list[str]]:
    found: list[list[str]] = []
    while batch := unsent.take():
        found.append([run.claim.id for run, _ in batch])
    return found


def test_a_batch_is_of_one_incarnation() -> None:
    assert batches(filled(0, 0, 0, 0, 0, incarnations="aabba")) == [["0", "1"], ["2", "3"], ["4"]]


def test_a_batch_is_of_one_incarnation_after_others_were_taken() -> None:
    unsent = filled(0, 0, 0, incarnations="aab")
    assert [run.claim.id for run, _ in unsent.take()] == ["0", "1"]
    for id, incarnation in (("3", "b"), ("4", "c"), ("5", "c")):
        unsent.add(a_run(id, incarnation), an_end(a_run(id, incarnation)))
    assert batches(unsent) == [["2", "3"], ["4", "5"]]
    unsent.add(a_run("6", "c"), an_end(a_run("6", "c")))
    unsent.add(a_run("7", "a"), an_end(a_run("7", "a")))
    assert batches(unsent) == [["6"], ["7"]]


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
    unsent = filled(*[MAX_PENDING_BYTES // 8] * 8)
    batches(unsent)
    assert not unsent.full
    assert len(unsent) == 0


# -- claims of the node and of the store


@pytest.mark.parametrize("what", ["lost", "ended", "ends in this batch"])
async def test_a_start_that_cannot_be_stored_any_more_is_lost(what: str) -> None:
    """The body of a suspect waits for the answer, and would hold its worker for ever."""
    unsent, run = none_unsent(HeldClaims("first")), a_run("a")
    start = asyncio.ensure_future(unsent.commit_start(run))
    await asyncio.sleep(0)
    run.lost, run.ended = what == "lost", what == "ended"
    assert unsent.take_reports([(run, an_end(run))] if what == "ends in this batch" else [], 7.0) == []
    await asyncio.sleep(0)
    assert start.done()
    assert not start.result()
    assert not unsent.awaited


async def test_a_stored_start_has_the_time_of_its_report() -> None:
    """From then on, a crash counts for the instance."""
    unsent, run = none_unsent(HeldClaims("first")), a_run("a")
    start = asyncio.ensure_future(unsent.commit_start(run))
    await asyncio.sleep(0)
    ((_, outcome),) = unsent.take_reports([], 7.0)
    assert (run.started_at, outcome.started) == (7.0, True)
    assert run.acked is not None
    run.acked.set_result(Ack.DONE)
    assert await start


@pytest.mark.parametrize("what", ["lost", "of another incarnation"])
async def test_steps_of_a_claim_that_is_gone_are_lost(what: str) -> None:
    held_claims = HeldClaims("first")
    unsent, run, state = none_unsent(held_claims), a_run("a"), DurableState()
    write = Write((Step("step", b"1"),), (), alone=False)
    unsent.write(run, state, write)
    run.lost = what == "lost"
    if not run.lost:
        held_claims.incarnation = "second"
    assert unsent.take_reports([], 0.0) == []
    assert write.answer.result() is Ack.LOST
    assert not unsent.awaited


async def test_reports_that_do_not_fit_into_a_batch_come_with_the_next() -> None:
    held_claims = HeldClaims("first")
    unsent = none_unsent(held_claims)
    runs = [a_run(f"{number:04}") for number in range(2 * MAX_BATCH + 1)]
    for run in runs:
        run.task, run.progress = asyncio.current_task(), b"half"
        held_claims.add(run)
    unsent._report()  # pyright: ignore[reportPrivateUsage]  # as its timer does
    sizes = []
    while unsent.has_reports:
        sizes.append(len(unsent.take_reports([], 0.0)))
    unsent.close()
    assert sizes == [MAX_BATCH, MAX_BATCH, 1]


def test_the_end_of_an_old_claim_leaves_the_newer_one_of_its_instance() -> None:
    held_claims, old, new = HeldClaims("first"), a_run("a", fence=1), a_run("a", fence=2)
    held_claims.add(old)
    held_claims.add(new)
    held_claims.remove(old)
    assert held_claims.get("a") is new
    held_claims.remove(new)
    assert len(held_claims) == 0


def a_reconciler(held_claims: HeldClaims, unsent: UnsentReports) -> tuple[Reconciler, InFlight]:
    in_flight = InFlight(unsent)
    reconciler = Reconciler(held_claims=held_claims, in_flight=in_flight, unsent_reports=unsent, waker=Waker())
    return reconciler, in_flight


def test_a_difference_counts_after_two_answered_rounds() -> None:
    """The first of them may have been on its way when the difference was seen, and the store's view older than it."""
    held_claims = HeldClaims("first")
    unsent = none_unsent(held_claims)
    reconciler, in_flight = a_reconciler(held_claims, unsent)
    gone = a_run("gone")
    held_claims.add(gone)
    held = [Held("stranded", 5)]
    for _ in range(2):
        reconciler.compare(held)
        assert (len(unsent), gone.lost) == (0, False)
        in_flight.rounds += 1
    reconciler.compare(held)
    returned = [(outcome.id, outcome.fence, outcome.action, run.incarnation) for run, outcome in unsent.take()]
    assert returned == [("stranded", 5, Action.HAND_BACK, "first")]
    assert gone.lost


def test_a_difference_that_was_settled_counts_anew() -> None:
    unsent = none_unsent(HeldClaims("first"))
    reconciler, in_flight = a_reconciler(HeldClaims("first"), unsent)
    for settled in (None, ()):
        reconciler.compare([Held("a", 5)])
        in_flight.rounds += 1
        reconciler.compare(settled)
        in_flight.rounds += 1
        reconciler.compare([Held("a", 5)])
        assert len(unsent) == 0
        in_flight.rounds += 5
        reconciler.compare(settled)


@pytest.mark.parametrize("ends", [False, True])
def test_a_claim_that_came_or_ended_between_two_comparisons_counts_anew(ends: bool) -> None:
    """The claims of the store are of the moment of its answer, and an event loop that lags compares them late."""
    held_claims = HeldClaims("first")
    unsent = none_unsent(held_claims)
    reconciler, in_flight = a_reconciler(held_claims, unsent)
    run, stored = a_run("a"), [Held("a", 1)]
    reconciler.compare(stored)  # the answer to the claim is on its way
    in_flight.rounds += 1
    held_claims.add(run)
    if ends:
        in_flight.rounds += 1
        held_claims.remove(run)
    late = stored if ends else []  # by a store that reads the claim before its end, or after its end
    for rounds in (0, 1):
        in_flight.rounds += rounds
        reconciler.compare(late)
        assert (len(unsent), run.lost) == (0, False)
    in_flight.rounds += 1
    reconciler.compare(late)  # so the difference stays
    assert (len(unsent), run.lost) == (int(ends), not ends)


def test_comparisons_count_while_the_claim_loop_has_nothing_to_send() -> None:
    """As on a node whose workers are all busy."""
    held_claims = HeldClaims("first")
    unsent = none_unsent(held_claims)
    reconciler, in_flight = a_reconciler(held_claims, unsent)
    gone = a_run("gone")
    held_claims.add(gone)
    for _ in range(2):
        reconciler.compare([Held("stranded", 5)])
        # a request is in flight, and its answer can end the difference
        in_flight.requests.append(StoreRequest(incarnation="first", entries=[], want=None, request="1"))
        reconciler.compare([Held("stranded", 5)])
        in_flight.requests.clear()
        assert (len(unsent), gone.lost) == (0, False)
    reconciler.compare([Held("stranded", 5)])
    assert len(unsent) == 1
    assert gone.lost


@given(st.lists(st.tuples(st.sampled_from(["add", "add", "remove", "remove again", "clear"]), st.integers(0, 3))))
def test_what_a_renewal_tells_is_what_is_held(steps: list[tuple[str, int]]) -> None:
    """A difference that stays makes the store compare all claims with each renewal."""
    held_claims, held, runs = HeldClaims("first"), dict[str, Run](), [a_run("3", fence=7)]
    for fence, (what, number) in enumerate(steps, 1):
        id = str(number)
        match what:
            case "add" if id not in held:
                held[id] = a_run(id, fence=1_000_000 * fence)
                runs.append(held[id])
                held_claims.add(held[id])
            case "remove" if id in held:
                held_claims.remove(held.pop(id))
            case "remove again" if (run := runs[number % len(runs)]) not in held.values():
                held_claims.remove(run)
            case "clear":
                assert held_claims.clear() == list(held.values())
                held.clear()
            case _:
                pass
        assert held_claims.summary() == (len(held), digest([run.claim.fence for run in held.values()]))
