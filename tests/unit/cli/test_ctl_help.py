"""The help of jobctl, which needs no node."""

import re
from typing import Any

import pytest

from peerjob.cli.ctl.settings import OPTIONS
from peerjob.version import __version__
from support.jobctl import ROOT, VERBS, Jobctl

jobctl = Jobctl({})


def plain(text: str) -> str:
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def test_the_verbs_are_those_that_are_documented() -> None:
    assert [" ".join(path) for path in VERBS] == [
        "audit",
        "backup",
        "cancel instances",
        "clear all",
        "clear history",
        "clear instances",
        "clear logs",
        "count",
        "drain",
        "export",
        "get instance",
        "get schedule",
        "get version",
        "history",
        "import",
        "leader",
        "limits list",
        "limits set",
        "list history",
        "list instances",
        "list jobs",
        "list logs",
        "list nodes",
        "list schedules",
        "logs",
        "pause",
        "resume",
        "retry instances",
        "retry-flow",
        "run-now",
        "schedule",
        "schedules backfill",
        "schedules explain",
        "schedules fires",
        "schedules get",
        "schedules list",
        "schedules pause",
        "schedules remove",
        "schedules resume",
        "schedules trigger",
        "show",
        "signal",
        "stats",
        "top",
        "undrain",
        "wait",
        "watch",
        "why",
        "workers list",
        "workers resize",
    ]


def test_the_version_needs_no_node() -> None:
    answer = jobctl("--version")
    assert (answer.status, answer.out, answer.err) == (0, f"peerjob {__version__}\n", "")


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_each_verb_has_a_help_that_tells_every_option_with_its_default(path: tuple[str, ...]) -> None:
    answer = jobctl(*path, "--help")
    assert (answer.status, answer.err) == (0, "")
    text = plain(answer.out)
    assert "--output" in text
    assert "see jobctl --help" in text
    paragraphs = (command_at(path).help or "").split("\n\n")
    assert not any("\n" in paragraph for paragraph in paragraphs), "the width of the terminal breaks its lines"
    for option in own_options(path):
        assert f"{option.opts[0]} " in text
        default = (
            option.required or option.is_flag or option.default is not None or isinstance(option.show_default, str)
        )
        assert default, f"{option.opts[0]} shows no default"


def command_at(path: tuple[str, ...]) -> Any:
    command: Any = ROOT
    for name in path:
        command = command.commands[name]
    return command


def own_options(path: tuple[str, ...]) -> list[Any]:
    return [one for one in command_at(path).params if one.name not in OPTIONS and one.opts[0].startswith("-")]


def test_the_help_tells_the_connection_and_the_exit_statuses() -> None:
    text = plain(jobctl("--help").out)
    for name in set(OPTIONS) - {"output"}:
        assert f"--{name.replace('_', '-')} " in text
    for word in ("127.0.0.1:59051", "PEERJOB_ADDRESS", "3 not found", "4 no node", "--install-completion"):
        assert word in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nope",), "nope"),
        (("list", "nope"), "see jobctl list --help"),
        (("retry", "01a22f91"), "No such command '01a22f91': expected instances (see jobctl retry --help)"),
        (("list", "jobs", "--nope"), "--nope"),
        (("list", "jobs", "-o", "xml"), "xml"),
        (("list", "jobs", "--port", "0"), "--port"),
        (("list", "jobs", "--address", "a:b"), "host:port"),
        (("list", "jobs", "--address", "a:1", "--host", "b"), "one of them"),
        (("list", "instances", "--state", "nope"), "nope"),
        (("list", "instances", "--before", "yesterday"), "2026-01-31T08:00Z"),
        (("get", "instance"), "UUID"),
        (("workers", "resize", "0"), "N"),
        (("schedules", "backfill", "x"), "--from"),
        (("schedules", "backfill", "x", "--from", "2026-01-02T00:00Z", "--to", "2026-01-02T00:00Z"), "after --from"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments: tuple[str, ...], message: str) -> None:
    answer = jobctl(*arguments)
    assert (answer.status, answer.out, len(answer.err.splitlines())) == (2, "", 1), answer.err
    assert answer.err.startswith("jobctl: ")
    assert message in answer.err


def test_without_a_verb_the_help_is_shown() -> None:
    answer = jobctl()
    assert answer.status == 2
    assert "Usage: jobctl" in answer.out + answer.err


@pytest.mark.parametrize(
    "words", ["list node", "get instances", "cancel instance", "clear log", "worker list", "schedule --help"]
)
def test_singular_and_plural_name_the_same(words: str) -> None:
    answer = jobctl(*words.split(), "--help")

    assert answer.status == 0, answer.err


def test_an_unknown_object_is_refused() -> None:
    answer = jobctl("list", "nothings")

    assert answer.status == 2
    assert "nothings" in answer.err
