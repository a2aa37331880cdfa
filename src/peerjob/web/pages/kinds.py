"""Kinds: what the nodes can run, and the form that schedules one run."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

from peerjob.handles.registered_job import RegisteredJob
from peerjob.model.activity import Distribution, KindActivity
from peerjob.model.durable import FLOW_KIND
from peerjob.model.errors import ArgumentError, EncodeError, OptionError, PayloadTooLargeError, ScheduleError
from peerjob.model.job import Job
from peerjob.model.query import Query
from peerjob.model.rights import Role
from peerjob.model.state import State
from peerjob.web.durations import took
from peerjob.web.fields import WHOLE, Field, fields_of
from peerjob.web.given import GivenArguments, form_of, problems_by_field, read_arguments, shown_again
from peerjob.web.page import action, page
from peerjob.web.samples import Sample
from peerjob.web.visit import Done, Shown, Visit

PAGE = 100
SAMPLE = 200
"""Instances whose durations a page of a kind shows: the latest of the last day."""
DAY = timedelta(days=1)
OPTIONS = ("after", "at", "priority", "key", "tags")
"""Options of the form, as `with_options` takes them."""


# -- the list ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class KindLine:
    """A kind with its counts."""

    kind: str
    job: RegisteredJob | None
    """None: no node knows the kind, but there are instances of it."""
    waiting: int
    running: int
    failed: int
    unserved: int
    activity: KindActivity

    @property
    def is_on_each_node(self) -> bool:
        """Whether it is the kind of flows, which no node publishes, and nodes run it."""
        return self.kind == FLOW_KIND and not self.unserved


async def kinds(visit: Visit) -> Shown:
    """The kinds, filtered by text."""
    jobs, sample = await asyncio.gather(visit.manager.registered_jobs(), visit.served.samples.current())
    by_kind = {job.kind: job for job in jobs}
    text = visit.param("q").casefold()
    names = [kind for kind in sorted(by_kind.keys() | sample.stats.counts.keys()) if text in kind.casefold()]
    begin = visit.offset(len(names), PAGE)
    rows = [_row(kind, by_kind.get(kind), sample) for kind in names[begin : begin + PAGE]]
    return Shown("kinds.html", rows=rows, total=len(names), begin=begin, page=PAGE)


def _row(kind: str, job: RegisteredJob | None, sample: Sample) -> KindLine:
    stats, activity = sample.stats, KindActivity()
    if sample.activity is not None:
        activity = sample.activity.kinds.get(kind, activity)
    return KindLine(
        kind=kind,
        job=job,
        waiting=stats.total(State.CREATED | State.SCHEDULED, kind),
        running=stats.total(State.PROCESSING, kind),
        failed=stats.total(State.TERMINATED | State.TIMED_OUT, kind),
        unserved=stats.unserved.get(kind, 0),
        activity=activity,
    )


# -- one kind ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class EndedRuns:
    """The latest instances that ended, with outcomes and durations."""

    size: int
    states: Counter[str]
    durations: Sequence[float]
    """Seconds from the first start to the end, the shortest first."""
    last_runs: Sequence[float]
    """Seconds of the last run alone, the shortest first; empty if no instance waited after a run."""

    @property
    def bars(self) -> list[tuple[str, int]]:
        """How many durations are within each bound that occurs."""
        counts = Counter(
            next((bound for bound in Distribution.BOUNDS if duration <= bound), Distribution.BOUNDS[-1])
            for duration in self.durations
        )
        return [(f"{bound:g} s", counts[bound]) for bound in Distribution.BOUNDS if counts[bound]]


def quantile(durations: Sequence[float], share: float) -> float:
    """The duration that this share of sorted durations does not exceed."""
    return durations[min(len(durations) - 1, int(share * len(durations)))]


async def kind(visit: Visit) -> Shown:
    """One kind, with its form."""
    name = visit.path_value("kind")
    job = await _job(visit, name)
    fields = fields_of(None if job is None else job.json_schema)
    form: dict[str, str] = {}
    if again := visit.param("again"):
        old = await visit.manager.lookup_instance(again)
        form = form_of(fields, old.args, old.kwargs)
    return await _shown(visit, name, job, fields, form, GivenArguments())


async def _job(visit: Visit, name: str) -> RegisteredJob | None:
    jobs = await visit.manager.registered_jobs(name, schemas=True)
    return jobs[0] if jobs else None


async def _shown(
    visit: Visit,
    name: str,
    job: RegisteredJob | None,
    fields: Sequence[Field],
    form: dict[str, str],
    given: GivenArguments,
) -> Shown:
    sample, ended = await asyncio.gather(visit.served.samples.current(), _ended(visit, name))
    return Shown(
        "kind.html",
        status=422 if given.problems else 200,
        kind=name,
        job=job,
        row=_row(name, job, sample),
        ended=ended,
        quantile=quantile,
        fields=fields,
        form=form,
        problems=given.problems,
        whole=WHOLE,
        usable=visit.may_use(name),
    )


async def _ended(visit: Visit, kind: str) -> EndedRuns:
    query = Query(kind=kind, state=State.FINAL, after=visit.now - DAY, limit=SAMPLE, order="desc")
    ended = await visit.manager.lookup_instances(query)
    times = [seconds for instance in ended if (seconds := took(instance.record.history, visit.now)) is not None]
    return EndedRuns(
        size=len(ended),
        states=Counter(str(instance.state) for instance in ended),
        durations=sorted(seconds.whole for seconds in times),
        last_runs=sorted(seconds.last for seconds in times) if any(instance.waited for instance in times) else (),
    )


# -- scheduling one ----------------------------------------------------------------------------------------------------


async def schedule(visit: Visit) -> Done | Shown:
    """Schedule one run of a kind."""
    name = visit.given("kind")
    await visit.check_runs(name)
    visit.act.criteria = f"kind={name}"
    job = await _job(visit, name)
    if job is None:
        raise OptionError("kind", name, "a kind that a live node runs")
    fields = fields_of(job.json_schema)
    form = {key: values[0] for key, values in visit.fields.items() if values}
    given = read_arguments(fields, form)
    options = _options(form, given)
    if not given.problems:
        try:
            handle: Job[..., Any, Any] = Job(name)
            call = (handle.with_options(**cast("Any", options)) if options else handle).call(
                *given.args, **given.kwargs
            )
            made, notice = await visit.schedule_form(call)
        except ArgumentError as error:
            given.problems.update(problems_by_field(error.problems, fields))
        except OptionError as error:
            given.problems[error.option if error.option in OPTIONS else ""] = [str(error)]
        except (ScheduleError, EncodeError, PayloadTooLargeError) as error:
            given.problems[""] = [str(error)]
        else:
            return Done(to=visit.url(f"/instances/{made.id}"), notice=notice)
    visit.act.count = 0
    return await _shown(visit, name, job, fields, shown_again(fields, form), given)


def _options(form: dict[str, str], given: GivenArguments) -> dict[str, Any]:
    """The options of a form; adds to the problems of `given`."""
    options: dict[str, Any] = {name: text for name in OPTIONS if (text := form.get(name, "").strip())}
    if "tags" in options:
        options["tags"] = tuple(tag for tag_text in options["tags"].split(",") if (tag := tag_text.strip()))
    if "priority" in options:
        try:
            options["priority"] = int(options["priority"][:20])
        except ValueError:
            given.problems["priority"] = [f"expected a whole number, got {options['priority']!r}"]
    return options


ROUTES = (
    page("/kinds", kinds, title="Kinds"),
    page("/kinds/{kind:path}", kind),
    action("/kinds/schedule", schedule, role=Role.OPERATOR, verb="ScheduleJob", adds=True),
)
