"""`jobctl`: an option of a verb changes what the verb asks the node for."""

import re
from typing import Any

import pytest

from peerjob.cli.console import ExitStatus
from peerjob.cli.ctl.commands import ClientSession
from peerjob.cli.ctl.errors import CommandError
from peerjob.cli.ctl.settings import OPTIONS
from peerjob.model.clock import SystemClock
from peerjob.model.errors import OptionError
from support.jobctl import ROOT, VERBS

VALUES: dict[str, list[str]] = {
    "--kind": ["k"],
    "--state": ["completed"],
    "--tag": ["t"],
    "--before": ["2026-01-02T00:00Z"],
    "--after": ["2025-01-02T00:00Z"],
    "--older-than": ["1d"],
    "--limit": ["7"],
    "--oldest": [],
    "--within": ["5s"],
    "--note": ["n"],
    "--prefix": ["p"],
    "--waiting": [],
    "--parent": ["01a21978-c6a6-71be-985e-8eb6fc76268b"],
    "--level": ["error"],
    "--concurrency": ["7"],
    "--rate": ["1/s"],
    "--burst": ["7"],
    "--from": ["2025-01-01T06:00Z"],
    "--to": ["2025-01-01T18:00Z"],
    "--node": ["n"],
}
"""Each option that the first call shows, and a value that is not its default."""
UNSHOWN = {
    *("--yes", "--all"),  # they ask the user nothing
    *("--id", "--clear"),  # the first is a new one for each command, the other goes with no number
    *("--store", "--store-file", "--namespace"),  # of verbs that ask no node
    *("--follow", "--tree", "--lines", "--interval", "--count"),  # they change later calls
}
"""Options that the first call does not show."""
BASE: dict[str, list[str]] = {
    "wait": ["--kind", "other"],
    "cancel instance": ["--kind", "other"],
    "cancel instances": ["--kind", "other"],
    "retry instance": ["--kind", "other"],
    "retry instances": ["--kind", "other"],
    "clear instances": ["--yes"],
    "clear history": ["--yes"],
    "clear logs": ["--yes"],
    "limits list": ["--kind", "other"],
    "limits set": ["--kind", "other", "--concurrency", "2"],
    "limits set NAME": ["name", "--concurrency", "2"],
    "pause": ["--kind", "other"],
    "resume": ["--kind", "other"],
    "schedules pause": ["name"],
    "schedules fires": ["name"],
    "schedules backfill": ["name", "--from", "2025-01-01T00:00Z", "--to", "2025-01-02T00:00Z"],
    "logs": ["01a21978-c6a6-71be-985e-8eb6fc76268b"],
    "workers resize": ["3"],
}
"""What else a verb needs. A verb with a name in capitals has two forms."""
LEFT_OUT = {"limits set": {"--rate", "--burst"}, "limits set NAME": {"--kind"}, "logs": {"--level"}}
"""Options that one of two forms does not take, and one that only a later call shows."""
ELSEWHERE = {"schedule", "schedules explain"}
"""Verbs with tests of their own: one has an option for each option of a job, the other asks no node."""


class Asked(Exception):  # it ends the command where the first call is made
    """The verb that is called, and its arguments."""


class Client:
    """A client that sends no request."""

    clock = SystemClock()

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is open."""

    def __getattr__(self, verb: str) -> Any:
        def ask(*args: Any, **kwargs: Any) -> None:
            kwargs.pop("id", None)  # a new one for each command
            raise Asked(verb, args, kwargs)

        return ask


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClientSession, "client", lambda _: Client())


def asked(verb: str, *arguments: str) -> tuple[Any, ...]:
    with pytest.raises(Asked) as caught:
        ROOT.main([*verb.split(), *arguments], standalone_mode=False)
    return caught.value.args


def options() -> list[tuple[str, str]]:
    """Verbs, and their options that change what is asked for."""
    found: list[tuple[str, str]] = []
    for path in VERBS:
        command: Any = ROOT
        for name in path:
            command = command.commands[name]
        verb = " ".join(path)
        if verb not in ELSEWHERE:
            own = [one.opts[0] for one in command.params if one.name not in OPTIONS and one.opts[0].startswith("--")]
            forms = [verb, f"{verb} NAME"] if f"{verb} NAME" in BASE else [verb]
            found += [(form, one) for form in forms for one in own if one not in UNSHOWN | LEFT_OUT.get(form, set())]
    return found


@pytest.mark.parametrize(("verb", "option"), options())
def test_an_option_changes_what_is_asked_for(verb: str, option: str) -> None:
    base = BASE.get(verb, [])
    verb = verb.removesuffix(" NAME")
    assert asked(verb, *base, option, *VALUES[option]) != asked(verb, *base)


@pytest.mark.parametrize("option", [["--prefix", "p"], ["--waiting"]], ids=lambda one: one[0])
def test_options_for_keys_need_a_kind(option: list[str]) -> None:
    with pytest.raises(OptionError, match=f"--kind: expected a kind with {option[0]}, got None"):
        ROOT.main(["limits", *option], standalone_mode=False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--clear", "--rate", "1/s"], "--rate: expected no number with --clear, got '1/s'"),
        (["--clear", "--note", "x"], "--note: expected no note with --clear, which removes the note too, got 'x'"),
        ([], "limits set: expected --concurrency, --rate, --burst or --clear, got 'no number'"),
    ],
    ids=["both", "a note", "neither"],
)
def test_a_limit_is_set_or_cleared(given: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        ROOT.main(["limits", "set", "db", *given], standalone_mode=False)


@pytest.mark.parametrize("option", [["--kind", "k"], ["--state", "completed"], ["--tag", "t"]], ids=lambda one: one[0])
def test_watch_takes_an_instance_or_a_selection(option: list[str]) -> None:
    uuid = "01a21978-c6a6-71be-985e-8eb6fc76268b"
    with pytest.raises(CommandError, match="either a UUID or --kind") as caught:
        ROOT.main(["watch", uuid, *option], standalone_mode=False)
    assert caught.value.status is ExitStatus.USAGE
