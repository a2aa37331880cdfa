"""The options of `jobctl schedule` that change a job: for one run, or for a schedule."""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated, Any, cast

import typer

from peerjob.model import errors
from peerjob.model.definition import DEFAULT_MISFIRE_LIMIT, DEFAULT_QUEUE_LIMIT
from peerjob.model.errors import OptionError
from peerjob.model.policy import Backoff

WHEN, HOW, RECURRENCE = "When", "How it runs", "Recurrence"
"""The titles of the panels in which the help shows the options."""
DEFINED = "as the job defines it"
RECURRENT = ("name", "description", "overlap", "queue_limit", "misfire", "misfire_limit", "start_deadline")
"""The options that only a schedule has."""
CONVERTED = (
    "max_retries",
    "retry_on",
    "no_retry_on",
    "backoff",
    "backoff_factor",
    "backoff_max",
    "backoff_jitter",
    "tag",
)
"""The options whose values `with_options` takes in another form, or under another name."""


def option(help: str, *names: str, panel: str = HOW, default: str = DEFINED, metavar: str | None = None) -> Any:
    """An option whose value the job or the store decides, unless it is given. `default` is the text in the help."""
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=default, metavar=metavar)


_when, _recurrence = partial(option, panel=WHEN), partial(option, panel=RECURRENCE)


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """The options, as given on the command line. Of those left out, the job, the node or the store decides."""

    at: Annotated[str | None, _when("Run at this time.", metavar="TIME", default="now")] = None
    after: Annotated[str | None, _when("Run after this delay.", metavar="DURATION", default="now")] = None
    cron: Annotated[str | None, _recurrence("Add or change a schedule with a cron text.", default="none")] = None
    every: Annotated[
        str | None,
        _recurrence("Add or change a schedule with an interval.", metavar="DURATION", default="none"),
    ] = None
    timezone: Annotated[
        str | None,
        _when("The time zone of --cron and --at.", default="the node's; --at needs one unless it has an offset"),
    ] = None
    name: Annotated[str | None, _recurrence("The name of the schedule.", default="the kind")] = None
    description: Annotated[str | None, _recurrence("The purpose of the schedule.", default="none")] = None
    jitter: Annotated[
        str | None,
        _when("The maximum random delay after the time of --at, --after or --cron.", metavar="DURATION", default="0"),
    ] = None
    overlap: Annotated[
        str | None,
        _recurrence(
            "If the previous instance is not final: allow, skip, queue or replace.", default="skip", metavar="WHAT"
        ),
    ] = None
    queue_limit: Annotated[
        int | None,
        _recurrence("The most instances that wait, with queue.", default=str(DEFAULT_QUEUE_LIMIT), metavar="N"),
    ] = None
    misfire: Annotated[
        str | None,
        _recurrence("For times that no leader fired: skip, run_once or run_all.", default="run_once", metavar="WHAT"),
    ] = None
    misfire_limit: Annotated[
        int | None,
        _recurrence("The most missed times that run, with run_all.", default=str(DEFAULT_MISFIRE_LIMIT), metavar="N"),
    ] = None
    start_deadline: Annotated[
        str | None,
        _recurrence("The maximum lateness of a fire.", metavar="DURATION", default="no bound"),
    ] = None
    priority: Annotated[int | None, option("Lower numbers run first.", "--priority", "-p", metavar="N")] = None
    max_retries: Annotated[str | None, option("The most retries: a number, or forever.", metavar="N")] = None
    retry_on: Annotated[list[str] | None, option("The class of an error to retry.", metavar="ERROR")] = None
    no_retry_on: Annotated[list[str] | None, option("The class of an error never to retry.", metavar="ERROR")] = None
    backoff: Annotated[str | None, option("The wait before a retry, or before the first one.", metavar="DURATION")] = (
        None
    )
    backoff_factor: Annotated[float | None, option("The factor between two waits.", metavar="X", default="1")] = None
    backoff_max: Annotated[str | None, option("The longest wait.", metavar="DURATION", default="5m")] = None
    backoff_jitter: Annotated[float | None, option("The random share of a wait.", metavar="0..1", default="0")] = None
    timeout: Annotated[str | None, option("The time limit of one run.", metavar="DURATION")] = None
    run_in: Annotated[str | None, option("Where the job runs: auto, async, thread or process.", metavar="WHERE")] = None
    on_store_loss: Annotated[str | None, option("If the node loses the store: cancel or continue.", metavar="WHAT")] = (
        None
    )
    max_crashes: Annotated[int | None, option("The node deaths that the instance survives.", metavar="N")] = None
    key: Annotated[
        str | None,
        option(
            "At most one instance of a kind and key at a time; a second call returns that instance.", default="none"
        ),
    ] = None
    tag: Annotated[list[str] | None, option("A label; may be repeated.", "--tag", "-t", default="none")] = None
    retention: Annotated[
        str | None,
        option("How long the final instance is kept.", metavar="DURATION", default="as the store is configured"),
    ] = None

    @property
    def recurs(self) -> bool:
        """Whether the options define a schedule."""
        return self.cron is not None or self.every is not None

    def given(self) -> dict[str, Any]:
        """The options that were given, as `Job.with_options` takes them; raises OptionError."""
        names = [field.name for field in fields(self) if field.name not in CONVERTED]
        options = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.tag:
            options["tags"] = tuple(self.tag)
        if self.max_retries is not None:
            options["max_retries"] = _retries(self.max_retries)
        for option, classes in (("retry_on", self.retry_on), ("no_retry_on", self.no_retry_on)):
            if classes:
                options[option] = _error_classes(option, classes)
        if (backoff := self._backoff()) is not None:
            options["backoff"] = backoff
        self._check_misplaced(options)
        return options

    def _check_misplaced(self, options: dict[str, Any]) -> None:
        """Raise OptionError for an option that has no effect beside the others."""
        if self.recurs:
            return
        if misplaced := [option for option in RECURRENT if option in options]:
            raise OptionError(f"--{misplaced[0].replace('_', '-')}", options[misplaced[0]], "--cron or --every with it")
        if self.jitter is not None and self.at is None and self.after is None:
            raise OptionError("--jitter", self.jitter, "--at, --after, --cron or --every with it")

    def _backoff(self) -> Any:
        factor, longest, jitter = self.backoff_factor, self.backoff_max, self.backoff_jitter
        if factor is None and longest is None and jitter is None:
            return self.backoff
        if self.backoff is None:
            raise OptionError("--backoff", "nothing", "the first wait, since other --backoff options are set")
        return Backoff.exponential(
            initial=self.backoff,
            factor=1.0 if factor is None else factor,
            max="5m" if longest is None else longest,
            jitter=0.0 if jitter is None else jitter,
        )


def _retries(text: str) -> int | None:
    if text.casefold() in ("forever", "inf"):
        return None
    if not text.isdecimal():
        raise OptionError("--max-retries", text, "a whole number of 0 or more, or forever")
    return int(text)


def _error_classes(option: str, names: Iterable[str]) -> tuple[type[BaseException], ...]:
    classes = [getattr(builtins, name, None) or getattr(errors, name, None) for name in names]
    for name, error_class in zip(names, classes, strict=True):
        if not (isinstance(error_class, type) and issubclass(error_class, BaseException)):
            raise OptionError(f"--{option.replace('_', '-')}", name, "a built-in error class, or one of peerjob")
    return tuple(cast("list[type[BaseException]]", classes))
