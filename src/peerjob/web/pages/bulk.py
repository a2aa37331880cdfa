"""Cancel, retry or remove several instances: first the count and a question, then steps with a progress bar.

Each step is a form, and its answer contains the next form. So a step starts only while its reader has the page open,
any process of the application can do it, and without JavaScript the reader starts each step with a button.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from peerjob.model.errors import OptionError
from peerjob.model.ids import checked_id
from peerjob.model.query import Query
from peerjob.model.rights import Role
from peerjob.web import steps
from peerjob.web.filters import ROWS, Filters, parse_time
from peerjob.web.page import action
from peerjob.web.security import RefusedError
from peerjob.web.steps import Verb
from peerjob.web.visit import Done, Shown, Visit

DONE: dict[Verb, str] = {"cancel": "Cancelled", "retry": "Scheduled again", "clear": "Removed"}
RPC: dict[Verb, str] = {"cancel": "CancelInstances", "retry": "RetryInstances", "clear": "ClearInstances"}
BY_TIME = (
    "The store removes final instances by their time of creation only. To remove some, filter the list by “Created "
    "after” and “Created before” and by nothing else, and choose “all that match”."
)


async def act(visit: Visit) -> Shown | Done:
    """Ask, or do a step."""
    given = visit.need("verb")
    if given not in DONE:
        raise OptionError("verb", given, f"one of {', '.join(DONE)}")
    verb: Verb = given
    if verb == "clear" and not visit.may(Role.ADMIN):
        visit.act.verb = RPC[verb]
        raise RefusedError(403, f"This {visit.needs(Role.ADMIN)}.")
    filters = Filters.read(lambda name: visit.given(f"f_{name}"))
    if visit.given("scope") == "all":
        return await _all(visit, verb, filters)
    return await _selected(visit, verb, filters)


async def _selected(visit: Visit, verb: Verb, filters: Filters) -> Shown | Done:
    ids = [checked_id(id) for id in visit.fields.get("id", [])]
    back = visit.url("/instances", **filters.fields())
    if not ids:
        return Done(to=back, notice="No instance was selected.")
    if len(ids) > ROWS:
        raise OptionError("id", len(ids), f"at most {ROWS} instances")
    if verb == "clear":
        raise RefusedError(400, f"Nothing was removed: selected rows cannot be removed alone. {BY_TIME}")
    if not visit.given("go"):
        return Shown("bulk_ask.html", verb=verb, filters=filters, ids=ids, count=len(ids), exact=True, until="")
    visit.act.verb, visit.act.criteria = RPC[verb], f"uuid={','.join(ids)}"
    if verb == "retry" and visit.scope.is_limited:
        # one that is gone does not count, as in `act_on`
        old = [instance for id in ids for instance in await visit.manager.lookup_instances(Query(uuid=id))]
        await visit.scope.check_repeats(visit.manager, old)
    visit.act.count = await steps.act_on(visit.manager, verb, ids, visit.repeat_id)
    return Done(to=back, notice=f"{DONE[verb]}: {visit.act.count:,} of {len(ids):,}.")


async def _all(visit: Visit, verb: Verb, filters: Filters) -> Shown:
    if filters.error:
        raise OptionError("error", filters.error, "no text: select rows, or leave the text out")
    if visit.principal.rights.kinds and not filters.kind:
        raise RefusedError(400, "Your rights are limited to some kinds: give one of them in the filters.")
    if verb == "clear" and not filters.only_times:
        raise RefusedError(400, f"Nothing was removed: the filters {filters} are more than times. {BY_TIME}")
    # instances that come after the question do not belong to its answer
    until = parse_time("until", visit.given("until"), visit.now) or visit.now
    query = filters.query(until)
    query = replace(query, before=until if query.before is None else min(until, query.before))
    wanted = steps.matching(verb, query)
    values: dict[str, Any] = {"verb": verb, "filters": filters, "until": until.isoformat()}
    if not visit.given("go"):
        # the counters know no time; for the question, what came in the last moment does not matter
        plain = replace(query, before=None) if not filters.before else query
        counted = steps.matching(verb, plain)
        count, exact = (0, True) if counted is None else await steps.count(visit.manager, counted)
        return Shown("bulk_ask.html", ids=[], count=count, exact=exact, **values)
    visit.act.verb, visit.act.criteria = RPC[verb], f"query={filters}"
    done, total = _number(visit, "done"), _number(visit, "total")
    if wanted is not None and verb == "retry" and visit.scope.is_limited:
        if wanted.kind is not None:
            await visit.check_runs(wanted.kind)
        else:
            await visit.scope.check_system(visit.manager, wanted)
    result = steps.StepResult(count=0, after=None)
    if wanted is not None:
        if (begin := parse_time("after", visit.given("after"), visit.now)) is not None:
            wanted = replace(wanted, after=begin, cursor=visit.given("cursor") or None)
        # the next steps of this form must not find what this one makes
        check = partial(visit.scope.check_repeats, visit.manager) if verb == "retry" else None
        result = await steps.step(visit.manager, verb, wanted, partial(visit.repeat_id, since=until), check=check)
    visit.act.count = result.count
    done += result.count
    after = "" if result.after is None else result.after.isoformat()
    values |= {"after": after, "cursor": result.cursor or "", "finished": not after}
    return Shown("bulk_step.html", done=done, total=max(total, done), name=DONE[verb], **values)


def _number(visit: Visit, name: str) -> int:
    given = visit.given(name) or "0"
    if not given.isdecimal() or len(given) > 12:
        raise OptionError(name, given, "a number")
    return int(given)


ROUTES = (action("/instances/act", act, verb="", adds=True),)
