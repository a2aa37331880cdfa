"""ONE-FIRE: each nominal time of a schedule is accounted for once, and makes one instance at most."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping

from peerjob.model.firing import FireOutcome, FireRecord, Overlap
from peerjob.model.recurrence import recurrence_of
from peerjob.model.spec import decode_spec

from .evidence import Evidence, Ledger, Run, Violation
from .owners import described, lost_touch

MADE = (FireOutcome.FIRED, FireOutcome.BACKFILLED)
CLOCK_ERROR_US = 2_000_000
"""How far the clocks of nodes may be off that compare them over slow connections."""
JUDGED = (FireOutcome.FIRED, FireOutcome.TRIGGERED)
"""Fires that `overlap` holds for; a backfill does not ask it."""


def one_fire(evidence: Evidence) -> Iterator[Violation]:
    """ONE-FIRE: for each schedule and nominal time at most one instance, and a record for each nominal time.

    * No two records of instances, by hand excepted, name the same nominal time; no two name the same instance.
    * Records that move a schedule on never overlap: a nominal time belongs to one of them.
    * Of a schedule that kept its definition, the records account for each nominal time from the first to the last one,
      and for no other time; `count` of a stretch is the number of its times.
    * Each instance of a schedule stands in the ledger under its nominal time, unless the ledger no longer reaches back.
    * No time is fired before it comes, by the clocks of the nodes.
    * With an overlap other than "allow", no two bodies of one schedule run at once, those of backfills aside. The
      exceptions are those of ONE-OWNER.
    """
    made: dict[str, dict[int, list[str]]] = {}
    for record in evidence.records.values():
        spec = decode_spec(record.spec)
        if spec.schedule and not spec.retry_of:
            made.setdefault(spec.schedule, {}).setdefault(spec.nominal_us, []).append(record.id)
    for ledger in evidence.ledgers:
        for text in itertools.chain(
            _twice(ledger),
            _unaccounted(ledger),
            _unknown(evidence, ledger, made.get(ledger.name, {})),
            _early(evidence, ledger),
            _side_by_side(evidence, ledger),
        ):
            yield Violation("ONE-FIRE", ledger.name, text)


def _twice(ledger: Ledger) -> Iterator[str]:
    nominals = Counter(record.nominal_us for record in ledger.records if record.instance and record.outcome in MADE)
    instances = Counter(record.instance for record in ledger.records if record.instance)
    for nominal_us, count in nominals.items():
        if count > 1:
            yield f"nominal time {nominal_us} has {count} instances"
    for id, count in instances.items():
        if count > 1:
            yield f"instance {id} stands in {count} records"
    advancing = [record for record in ledger.records if _advances(record)]
    for before, after in itertools.pairwise(sorted(advancing, key=lambda record: record.nominal_us)):
        if after.nominal_us <= _last(before):
            yield f"nominal time {after.nominal_us} belongs to two records: {before.outcome} and {after.outcome}"


def _unaccounted(ledger: Ledger) -> Iterator[str]:
    if len({(one.cron, one.every_us, one.anchor_us, one.timezone) for one in ledger.definitions}) != 1:
        return
    recurrence = recurrence_of(ledger.definitions[0])
    times: list[int] = []
    for record in ledger.records:
        if not _advances(record):
            continue
        stretch = list(recurrence.times(record.nominal_us - 1, _last(record)))
        if len(stretch) != record.count:
            yield f"the stretch from {record.nominal_us} counts {record.count} times and has {len(stretch)}"
        times += stretch
    known_us = ledger.row.trimmed_us
    times = sorted(moment for moment in times if moment > known_us)
    if not times:
        return
    backfilled = {record.nominal_us for record in ledger.records if record.outcome is FireOutcome.BACKFILLED}
    # a backfill may be about times that a pause, which still goes on, has not accounted for
    until_us = ledger.row.last_us if ledger.row.next_us is None else min(ledger.row.last_us, ledger.row.next_us - 1)
    expected = set(recurrence.times(times[0] - 1, until_us))
    if missing := expected - set(times) - backfilled:
        yield f"{len(missing)} nominal times have no record, the first is {min(missing)}"
    if extra := set(times) - expected:
        yield f"{len(extra)} times have a record and are not nominal, the first is {min(extra)}"


def _unknown(evidence: Evidence, ledger: Ledger, made: Mapping[int, list[str]]) -> Iterator[str]:
    by_hand = {record.instance for record in ledger.records if record.outcome is FireOutcome.TRIGGERED}
    known = {record.instance: record.nominal_us for record in ledger.records if record.instance}
    for nominal_us, ids in made.items():
        scheduled = [id for id in ids if id not in by_hand]
        # a ledger that was trimmed, or that a removal took away, says nothing about older times
        if nominal_us <= ledger.row.trimmed_us or nominal_us <= ledger.row.created_us + evidence.skew_us:
            continue
        if len(scheduled) > 1:
            yield f"nominal time {nominal_us} has the instances {', '.join(scheduled)}"
        for id in scheduled:
            if known.get(id) != nominal_us:
                yield f"instance {id} of {nominal_us} stands in the ledger under {known.get(id)}"


def _early(evidence: Evidence, ledger: Ledger) -> Iterator[str]:
    begun = {run.id: run.begin_us for run in reversed(evidence.runs)}
    tolerance_us = evidence.skew_us + CLOCK_ERROR_US
    for record in ledger.records:
        if record.outcome is not FireOutcome.FIRED:
            continue
        if record.at_us < record.nominal_us:
            yield f"{record.nominal_us} was fired at {record.at_us}, before it came"
        elif begun.get(record.instance, record.nominal_us) + tolerance_us < record.nominal_us:
            yield f"{record.nominal_us} was fired before it came: its body began at {begun[record.instance]}"


def _side_by_side(evidence: Evidence, ledger: Ledger) -> Iterator[str]:
    if any(definition.overlap is Overlap.ALLOW for definition in ledger.definitions):
        return
    ids = {record.instance for record in ledger.records if record.instance and record.outcome in JUDGED}
    runs = sorted((run for run in evidence.runs if run.id in ids), key=lambda run: run.begin_us)
    latest: Run | None = None
    for run in runs:
        if latest is not None and latest.id != run.id and _overlap(evidence, latest, run):
            yield f"two bodies run at once: {latest.id} {described(latest)} and {run.id} {described(run)}"
        if latest is None or (evidence.over_us(latest) or evidence.ended_us) <= (
            evidence.over_us(run) or evidence.ended_us
        ):
            latest = run


def _overlap(evidence: Evidence, before: Run, after: Run) -> bool:
    over_us = evidence.over_us(before)
    if over_us is not None and after.begin_us >= over_us:
        return False
    return not lost_touch(evidence, before)


def _advances(record: FireRecord) -> bool:
    """Whether a record accounts for a nominal time; a trigger that was skipped is no leader's, and has no term."""
    return record.outcome.advances and not (record.outcome is FireOutcome.SKIPPED and not record.coordinator)


def _last(record: FireRecord) -> int:
    return record.until_us or record.nominal_us
