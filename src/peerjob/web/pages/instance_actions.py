"""What can be done with one instance: cancel it, run it now, retry it, schedule it again with other arguments."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from peerjob.handles.instance import Instance
from peerjob.model.errors import (
    ArgumentError,
    NodeStateError,
    NodeStoppedError,
    OptionError,
    PayloadTooLargeError,
    UnknownKindError,
)
from peerjob.model.ids import checked_id
from peerjob.model.job import Job
from peerjob.model.json_text import json_value, to_json
from peerjob.model.printable import printable_json
from peerjob.model.rights import Role
from peerjob.model.secret import MASK
from peerjob.web.fields import fields_of
from peerjob.web.page import action, page
from peerjob.web.security import RefusedError
from peerjob.web.values import arguments_text, has_mask, has_masked, masked_like, pretty
from peerjob.web.visit import Done, Shown, Visit


async def cancel(visit: Visit) -> Done:
    """Cancel an instance."""
    id = _id(visit)
    done = await visit.manager.cancel_instance(id)
    visit.act.count = int(done)
    notice = "Cancelled." if done else "The instance was final already."
    return Done(to=visit.url(f"/instances/{id}"), notice=notice)


async def run_now(visit: Visit) -> Done:
    """Make a delayed instance due at once."""
    id = _id(visit)
    try:
        moved = await visit.manager.run_now(id, id=visit.request_id())
    except NodeStoppedError:
        raise
    except NodeStateError as error:
        raise RefusedError(409, f"{error}.") from None
    visit.act.count = int(moved)
    return Done(to=visit.url(f"/instances/{id}"), notice="Due now." if moved else "The instance was due already.")


async def signal(visit: Visit) -> Done:
    """Give the instance the value of a signal, as JSON."""
    id, name, text = _id(visit), visit.need("name"), visit.need("value")
    visit.act.criteria = f"uuid={id} name={name}"
    try:
        accepted = await visit.manager.signal(id, name, json_value(text))
    except NodeStoppedError:
        raise
    except NodeStateError as error:
        raise RefusedError(409, f"{error}.") from None
    visit.act.count = int(accepted)
    notice = "The signal has its value." if accepted else "The signal has another value, or its wait has timed out."
    return Done(to=visit.url(f"/instances/{id}"), notice=notice)


async def retry(visit: Visit) -> Done:
    """Schedule an instance again, as it was."""
    id = _id(visit)
    instance = await visit.manager.lookup_instance(id)
    await visit.scope.check_repeats(visit.manager, [instance])
    if not instance.state.is_final:
        raise RefusedError(409, f"The instance is {instance.state}; only a final one is retried.")
    made = await visit.manager.retry_instance(id, id=await visit.repeat_id())
    visit.act.count = 1
    return Done(to=visit.url(f"/instances/{made.id}"), notice="This instance repeats the other one.")


async def ask_again(visit: Visit) -> Shown:
    """The form for other arguments."""
    instance = await visit.manager.lookup_instance(visit.param("id"))
    return _form(instance, arguments_text(instance))


async def again(visit: Visit) -> Shown | Done:
    """Schedule an instance of the same kind with other arguments."""
    instance = await visit.manager.lookup_instance(visit.need("id"))
    visit.act.criteria = f"kind={instance.kind}"
    await visit.check_runs(instance.kind)
    text = visit.given("arguments")
    try:
        given = _arguments(text)
        if await visit.manager.registered_jobs(instance.kind):
            made, notice = await visit.schedule_form(
                Job[..., Any, Any](instance.kind).call(*given.args, **given.kwargs)
            )
        else:
            # an alias, or a kind that no node knows, which raises
            made, notice = await visit.manager.schedule(instance.kind, *given.args, **given.kwargs), "Scheduled."
            visit.act.count = int(made.is_new)
    except (ArgumentError, UnknownKindError, PayloadTooLargeError, OptionError) as error:
        visit.act.count = 0
        return _form(instance, await _without_secrets(visit, instance, text), str(error))
    return Done(to=visit.url(f"/instances/{made.id}"), notice=notice)


def _form(instance: Instance[Any], text: str, problem: str = "") -> Shown:
    status = 422 if problem else 200
    return Shown(
        "again.html", status=status, instance=instance, arguments=text, problem=problem, masked=has_masked(instance)
    )


async def _without_secrets(visit: Visit, instance: Instance[Any], text: str) -> str:
    """The edited text with "***" for its secrets; if they cannot be found in it, the text as it was at first."""
    jobs = await visit.manager.registered_jobs(instance.kind, schemas=True)
    fields = fields_of(jobs[0].json_schema) if jobs else []
    secrets = {field.name for field in fields if field.secret}
    if not secrets and not has_masked(instance):
        return printable_json(text)
    if not fields:
        return arguments_text(instance)
    try:
        given = msgspec.json.decode(text, type=_Given)
    except (ValueError, RecursionError):
        return arguments_text(instance)
    args = [MASK if index < len(fields) and fields[index].secret else value for index, value in enumerate(given.args)]
    kwargs = {name: MASK if name in secrets else value for name, value in given.kwargs.items()}
    old = {"args": list(instance.args), "kwargs": instance.kwargs}
    return pretty(masked_like({"args": args, "kwargs": kwargs}, json.loads(to_json(old))))


class _Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    args: list[Any] = []
    kwargs: dict[str, Any] = {}


def _arguments(text: str) -> _Given:
    try:
        given = msgspec.json.decode(text, type=_Given)
        masked = has_mask(given.args) or has_mask(given.kwargs)
    except (ValueError, RecursionError) as error:
        expected = f'JSON such as {{"args": [1], "kwargs": {{"name": "x"}}}} ({error})'
        # the text can contain a secret
        raise OptionError("arguments", f"{len(text):,} characters", expected) from None
    if masked:
        raise OptionError("arguments", MASK, "the secret itself: this text only stands for it")
    return given


def _id(visit: Visit) -> str:
    id = checked_id(visit.need("id"))
    visit.act.criteria = f"uuid={id}"
    return id


ROUTES = (
    action("/instance/cancel", cancel, verb="CancelInstance"),
    action("/instance/run-now", run_now, verb="RunNow"),
    action("/instance/signal", signal, verb="Signal"),
    action("/instance/retry", retry, verb="RetryInstance", adds=True),
    page("/instance/again", ask_again, role=Role.OPERATOR),
    action("/instance/again", again, verb="ScheduleJob", adds=True),
)
