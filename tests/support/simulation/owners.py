"""NO-LOSS and ONE-OWNER."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from peerjob.model.codec import decode_value
from peerjob.model.durable import FLOW_KIND
from peerjob.model.spec import decode_spec
from peerjob.model.state import State

from .evidence import Evidence, Run, Violation

AWAKE_US = 1_000_000
"""How long a body may go on after its node came back from a pause: the node then learns that its claim is lost."""

LATE_US = 5_000_000
"""How long the answer to a claim may be under way."""


def no_loss(evidence: Evidence) -> Iterator[Violation]:
    """NO-LOSS: an instance from an answer to a caller is final at the end, and only retention removes it.

    * Each id that `schedule`, a retry, a trigger or the ledger named is in the store, unless it was cleared.
    * At rest each instance is final: none waits, and none is claimed.
    * A Completed instance has a run, under the fence of its record, whose body returned.
    """
    named = {order.id: "a caller" for order in evidence.orders.values()}
    for ledger in evidence.ledgers:
        named |= {record.instance: f"the ledger of {ledger.name}" for record in ledger.records if record.instance}
    for id, source in named.items():
        if id not in evidence.records and id not in evidence.cleared:
            yield Violation("NO-LOSS", id, f"{source} named it, and the store does not have it")
    runs = evidence.runs_of()
    for id, record in evidence.records.items():
        if not record.state.is_final:
            yield Violation("NO-LOSS", id, f"it is {record.state!s} when all is at rest, owner {record.owner!r}")
        if record.kind == FLOW_KIND:
            continue  # its body writes nothing down
        if record.state is State.COMPLETED and not any(
            run.fence == record.fence and run.ending == "returned" for run in runs.get(id, ())
        ):
            yield Violation("NO-LOSS", id, f"it is Completed, and no body returned under fence {record.fence}")


def one_owner(evidence: Evidence) -> Iterator[Violation]:
    """ONE-OWNER: one claim at a time, and one accepted outcome.

    * Of one instance, each run has a fence of its own, and a later run has a higher fence.
    * The fence of a record is not lower than the fence of any run.
    * The result is the one that the body under the record's fence returned.
    * A run begins only when the run before it is over. The exceptions are those of docs/guarantees.md: the earlier
      body was on a node that was paused, until a second after the node came back; the body ignores cancellation, and
      its node had lost touch; its job goes on when the store is lost.
    * If a caller got the answer "cancelled", the instance stays Cancelled. No body begins much later than a lease after
      that, since a claim from before may have been answered late.
    """
    for id, runs in evidence.runs_of().items():
        for before, after in itertools.pairwise(runs):
            if after.fence <= before.fence:
                yield Violation("ONE-OWNER", id, f"fence {after.fence} on {after.node} follows fence {before.fence}")
            elif overlap(evidence, before, after):
                yield Violation("ONE-OWNER", id, f"two bodies run at once: {described(before)} and {described(after)}")
        record = evidence.records.get(id)
        if record is None:
            continue
        if record.fence < max(run.fence for run in runs):
            yield Violation("ONE-OWNER", id, f"its fence {record.fence} is below that of a run")
        if record.state is State.COMPLETED:
            result = None if record.result is None else decode_value(record.result)
            accepted = [run.result for run in runs if run.fence == record.fence]
            if accepted and result not in accepted:
                text = f"its result {result!r} is not {accepted[0]!r} of fence {record.fence}"
                yield Violation("ONE-OWNER", id, text)
    yield from _stays_cancelled(evidence)


def _stays_cancelled(evidence: Evidence) -> Iterator[Violation]:
    runs = evidence.runs_of()
    for order in evidence.orders.values():
        if order.cancelled_us is None:
            continue
        record = evidence.records.get(order.id)
        if record is not None and record.state is not State.CANCELLED:
            yield Violation("ONE-OWNER", order.id, f"a caller heard of its cancellation, and it is {record.state!s}")
        for run in runs.get(order.id, ()):
            if run.begin_us > order.cancelled_us + evidence.ttl_us + LATE_US and not evidence.away(
                run, "paused", "cut off"
            ):
                yield Violation("ONE-OWNER", order.id, f"a body began long after the cancellation: {described(run)}")


def overlap(evidence: Evidence, before: Run, after: Run) -> bool:
    """Whether two bodies run at once, and nothing that the guarantees name excuses it."""
    over_us = evidence.over_us(before)
    if over_us is not None and after.begin_us >= over_us:
        return False
    for absence in evidence.away(before, "paused"):
        back_us = absence.until_us
        if back_us is None or (
            after.begin_us <= back_us + AWAKE_US and over_us is not None and over_us <= back_us + AWAKE_US
        ):
            return False
    return not ((before.stubborn or _continues(evidence, before)) and lost_touch(evidence, before))


def _continues(evidence: Evidence, run: Run) -> bool:
    """Whether a run goes on when its node loses the store."""
    record = evidence.records.get(run.id)
    return record is None or decode_spec(record.spec).overrides.get("on_store_loss") == "continue"


def lost_touch(evidence: Evidence, run: Run) -> bool:
    """Whether the node of a run was away from the store, or lost its claims, while the body ran."""
    return run.asked == "lost" or bool(evidence.away(run, "paused", "cut off"))


def described(run: Run) -> str:
    """A run in a few words."""
    return f"fence {run.fence} on {run.node} from {run.begin_us} to {run.end_us} ({run.ending or 'no end'})"
