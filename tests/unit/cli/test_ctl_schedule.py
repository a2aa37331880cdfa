"""`jobctl schedule`: each option of the command line sets the one that it names, and no other."""

import itertools
from typing import Any

import pytest

from peerjob.cli.ctl.commands import ClientSession
from peerjob.cli.ctl.schedule import schedule
from peerjob.cli.ctl.settings import settings_of
from peerjob.model.clock import SystemClock
from peerjob.model.errors import Retry
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


async def made(**given: Any) -> tuple[str, Call[Any]]:
    """The verb that a command line calls, and the call."""
    with pytest.raises(Made) as caught:
        await schedule(Offline(settings_of({}, {})), "kind", **given)
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
