"""`jobctl schedule`: each option of the command line sets the one that it names, and no other."""

import itertools
from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_args

import pytest

from peerjob.cli.ctl.commands import ClientSession
from peerjob.cli.ctl.job_options import DEFINED, JobOptions
from peerjob.cli.ctl.schedule import schedule
from peerjob.cli.ctl.settings import settings_of
from peerjob.cli.settings import options_of
from peerjob.model.clock import SystemClock
from peerjob.model.errors import OptionError, Retry
from peerjob.model.job import Call
from peerjob.model.policy import Backoff


class Made(Exception):  # it ends the command where the call is made
    """What would be sent."""


class SilentClient:
    """A client that sends nothing."""

    clock = SystemClock()

    async def __aenter__(self) -> "SilentClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is open."""

    def __getattr__(self, verb: str) -> Any:
        async def send(*given: Any) -> None:
            raise Made(verb, given[-1])

        return send


class Offline(ClientSession):
    """A session without a node."""

    def client(self) -> Any:
        return SilentClient()


async def run(**given: Any) -> None:
    """Run the command with some options."""
    table = {field.name: given.pop(field.name) for field in fields(JobOptions) if field.name in given}
    await schedule(Offline(settings_of({}, {})), "kind", options=JobOptions(**table), **given)


async def made(**given: Any) -> tuple[str, Call[Any]]:
    """The verb that a command line calls, and the call."""
    with pytest.raises(Made) as caught:
        await run(**given)
    verb, call = caught.value.args
    return verb, call


CRON = {"cron": "0 3 * * *"}
OPTIONS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"at": "2099-01-01T00:00Z"}, {}),
    ({"after": "5m"}, {}),
    ({"timezone": "Europe/Berlin", "at": "2099-01-01T00:00"}, {}),
    ({"after": "5m", "jitter": "1s"}, {}),
    ({"name": "n", **CRON}, {}),
    ({"description": "d", **CRON}, {}),
    ({"overlap": "queue", **CRON}, {}),
    ({"queue_limit": 3, "overlap": "queue", **CRON}, {}),
    ({"misfire": "skip", **CRON}, {}),
    ({"misfire_limit": 3, "misfire": "run_all", **CRON}, {}),
    ({"start_deadline": "1h", **CRON}, {}),
    ({"every": "1h"}, {}),
    ({"priority": 3}, {}),
    ({"max_retries": "3"}, {"max_retries": 3}),
    ({"max_retries": "forever"}, {"max_retries": None}),
    ({"retry_on": ["OSError", "Retry"]}, {"retry_on": (OSError, Retry)}),
    ({"no_retry_on": ["OSError"]}, {"no_retry_on": (OSError,)}),
    ({"backoff": "5s"}, {}),
    ({"timeout": "5s"}, {}),
    ({"run_in": "thread"}, {}),
    ({"on_store_loss": "continue"}, {}),
    ({"max_crashes": 1}, {}),
    ({"key": "k"}, {}),
    ({"tag": ["a", "b"]}, {"tags": ("a", "b")}),
    ({"retention": "1h"}, {}),
]


@pytest.mark.parametrize(("given", "other"), OPTIONS, ids=itertools.count())
async def test_an_option_sets_what_it_names(given: dict[str, Any], other: dict[str, Any]) -> None:
    """`other` are options that have another value than the text; the others have the text itself."""
    verb, call = await made(**given)
    assert verb == ("add_known_schedule" if {"cron", "every"} & given.keys() else "schedule_known")
    names = {"tag": "tags"}
    expected: dict[str, Any] = {names.get(name, name): value for name, value in given.items()} | other
    assert dict(call.job.options) == dict(call.job.with_options(**expected).options)
    assert call.job.options.keys() == expected.keys()


async def test_the_parts_of_a_backoff_are_one_option() -> None:
    _, call = await made(backoff="1s", backoff_factor=3.0, backoff_max="9s", backoff_jitter=0.5)
    assert call.job.options["backoff"] == Backoff.exponential(initial="1s", factor=3.0, max="9s", jitter=0.5)
    with pytest.raises(OptionError, match=r"the first wait.*, got 'nothing'"):
        await made(backoff_max="9s")


@pytest.mark.parametrize("given", [{"json_args": '["hunter2"'}, {"json_args": '["hunter2"]', "arguments": ["1"]}])
async def test_arguments_that_cannot_be_read_are_not_repeated(given: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="--json-args") as refused:
        await run(**given)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "verb"),
    [
        ({}, "schedule_known"),
        ({"allow_unknown": True}, "schedule_as"),
        ({"every": "1h"}, "add_known_schedule"),
        ({"every": "1h", "allow_unknown": True}, "add_schedule"),
    ],
)
async def test_a_kind_must_be_known_unless_that_is_said(given: dict[str, Any], verb: str) -> None:
    assert (await made(**given))[0] == verb


NEEDED: dict[str, dict[str, Any]] = {
    "jitter": {"after": "5m"},
    "overlap": CRON,
    "queue_limit": {"overlap": "queue", **CRON},
    "misfire": CRON,
    "misfire_limit": {"misfire": "run_all", **CRON},
    "backoff_factor": {"backoff": "1s", "backoff_max": "9s", "backoff_jitter": 0.5},
    "backoff_max": {"backoff": "1s", "backoff_factor": 3.0, "backoff_jitter": 0.5},
    "backoff_jitter": {"backoff": "1s", "backoff_factor": 3.0, "backoff_max": "9s"},
}
"""By option, the others with which it has an effect."""
IN_WORDS = {
    DEFINED,
    "none",
    "now",
    "the kind",
    "no bound",
    "as the store is configured",
    "a new one",
    "no limit",
    "the node's; --at needs one unless it has an offset",
}
"""Defaults that are no value: an option that is left out is not sent, so the job, the node or the store decides."""


def named_defaults() -> dict[str, Any]:
    """By option, the value that the help gives as the default."""
    found: dict[str, Any] = {}
    for parameter in options_of(schedule, environment=False):
        shown = next((one.show_default for one in getattr(parameter.annotation, "__metadata__", ())), None)
        if isinstance(shown, str) and shown not in IN_WORDS:
            kinds = get_args(parameter.annotation.__origin__)
            number: Callable[[str], Any] = int if int in kinds else float if float in kinds else str
            found[parameter.name] = number(shown)
    return found


def test_each_default_with_a_value_is_tried() -> None:
    assert named_defaults().keys() == NEEDED.keys()


@pytest.mark.parametrize("name", NEEDED)
async def test_an_option_left_out_has_the_default_of_its_help(name: str) -> None:
    default = named_defaults()[name]
    (_, without), (_, given) = await made(**NEEDED[name]), await made(**NEEDED[name], **{name: default})

    assert without.job.options.get("backoff") == given.job.options.get("backoff")
    assert without.job.timing == given.job.timing
