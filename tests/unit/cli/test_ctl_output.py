"""How jobctl shows what it found."""

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from peerjob.cli.console import ExitStatus, run
from peerjob.cli.ctl.audit import AUDIT
from peerjob.cli.ctl.cluster import KINDS, tallies
from peerjob.cli.ctl.errors import error_report
from peerjob.cli.ctl.output import Column, Format, Printer, TableView
from peerjob.cli.ctl.tables import FIRES
from peerjob.cli.ctl.yaml import to_yaml
from peerjob.handles.schedule import FireEntry
from peerjob.handles.stats import Stats
from peerjob.model.ages import age, until
from peerjob.model.audit import AuditRecord
from peerjob.model.clock import to_us
from peerjob.model.errors import (
    AuthError,
    JobFailed,
    JobTimedOut,
    NodeUnavailableError,
    OptionError,
    StoreFullError,
    UnknownKindError,
)
from peerjob.model.firing import FireOutcome, FireRecord
from peerjob.model.printable import printable
from peerjob.model.state import State

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOSTILE = ("\x1b[31m", "\x9b31m", "\u202eabc", "a\u2066b", "\x7f", "\U000e0041", "\u2028", "\ufeff")
"""Texts of nodes that would command a terminal."""
PEOPLE: TableView[dict[str, Any]] = TableView(
    columns=(
        Column(title="NAME", text=lambda one: one["name"]),
        Column(title="MORE", text=lambda one: str(one["more"]), wide=True),
    ),
    name=lambda one: one["name"],
    plain=lambda one: one,
    nothing="nobody",
)
ANN: dict[str, Any] = {"name": "Ann", "more": [1, 2]}
BOB: dict[str, Any] = {"name": "Bob\x1b[2J", "more": None}


@pytest.mark.parametrize(
    ("format", "text"),
    [
        (Format.TABLE, "NAME\nAnn\nBob\\x1b[2J\n"),
        (Format.NAME, "Ann\nBob\\x1b[2J\n"),
        (Format.YAML, '- name: Ann\n  more:\n    - 1\n    - 2\n- name: "Bob\\u001b[2J"\n  more: null\n'),
    ],
)
def test_a_list_has_the_form_that_was_asked_for(format: Format, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Printer(format).many([ANN, BOB], PEOPLE)
    shown = capsys.readouterr().out
    assert "".join(f"{line.rstrip()}\n" for line in shown.splitlines()) == text


@pytest.mark.parametrize(
    ("format", "text", "rows"),
    [
        (Format.JSON, '{\n  "all": 1\n}\n', '{\n  "all": 1\n}\n'),
        (Format.YAML, "all: 1\n", "all: 1\n"),
        (Format.TABLE, "one\ntwo\n", "NAME\nAnn\n"),
        (Format.NAME, "one\ntwo\n", "Ann\n"),
    ],
)
def test_a_text_and_a_summary_have_the_form_that_was_asked_for(
    format: Format, text: str, rows: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Printer(format).text("one\ntwo", {"all": 1})
    assert capsys.readouterr().out == text
    Printer(format).summary({"all": 1}, [ANN], PEOPLE)
    shown = capsys.readouterr().out
    assert "".join(f"{line.rstrip()}\n" for line in shown.splitlines()) == rows


def test_json_is_the_values_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    Printer(Format.JSON).many([ANN, BOB], PEOPLE)
    assert json.loads(capsys.readouterr().out) == [ANN, BOB]


def test_what_is_no_terminal_gets_lines_of_any_length(capsys: pytest.CaptureFixture[str]) -> None:
    Printer(Format.TABLE).many([{"name": "x" * 500, "more": None}], PEOPLE)
    assert "x" * 500 in capsys.readouterr().out


def test_what_is_no_terminal_has_the_width_that_is_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    Printer(Format.TABLE).many([{"name": "x" * 500, "more": None}], PEOPLE)
    assert [len(line.rstrip()) for line in capsys.readouterr().out.splitlines()] == [4, 60]


def test_the_columns_of_wide_are_left_out_of_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    Printer(Format.WIDE).many([ANN], PEOPLE)
    assert capsys.readouterr().out.split() == ["NAME", "MORE", "Ann", "[1,", "2]"]


def test_nothing_is_said_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    Printer(Format.TABLE).many([], PEOPLE)
    assert tuple(capsys.readouterr()) == ("", "jobctl: nobody\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (119, "119s"), (120, "2m"), (7_260, "2h01m"), (172_800, "2d"), (-30, "in 30s")],
)
def test_an_age_is_short(seconds: int, text: str) -> None:
    assert age(NOW - timedelta(seconds=seconds), NOW) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(180, "in 3m"), (0.9, "in 0s"), (0, "in 0s"), (-0.9, "in 0s"), (-1, "1s late"), (-300, "5m late")],
)
def test_a_planned_moment_in_the_past_is_late(seconds: float, text: str) -> None:
    assert until(NOW + timedelta(seconds=seconds), NOW) == text
    assert until(None, NOW) == "-"


@given(st.text())
def test_shown_text_commands_no_terminal(text: str) -> None:
    assert printable(text).isprintable()


@pytest.mark.parametrize("text", ["yes", "null", "1", "a: b", "- a", "", "a\nb", "#", "1.5", "~", "é", "0x1", "a "])
def test_doubtful_text_stands_in_quotes_in_yaml(text: str) -> None:
    assert to_yaml(text) == json.dumps(text) + "\n"


def test_yaml_has_nested_lists_and_empty_things() -> None:
    assert to_yaml([[1, [2]], {}, [], {"a b": {"c": []}}]) == "- - 1\n  - - 2\n- {}\n- []\n- a b:\n    c: []\n"


def test_in_a_narrow_terminal_the_last_columns_go_and_the_first_stay_legible(
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = {"ID": "i" * 36, "KIND": "slow", "STATE": "Processing", "AGE": "3s", "NODE": "web-1"}
    view = TableView[dict[str, str]](
        columns=tuple(Column(title=title, text=itemgetter(title), whole=title == "ID") for title in row),
        name=str,
        plain=dict,
    )
    out = Printer(Format.TABLE)
    out.console = Console(width=44, file=io.StringIO())
    out.many([row], view)

    _, line = cast("io.StringIO", out.console.file).getvalue().splitlines()
    assert line.split() == ["i" * 36, "slow"]
    assert capsys.readouterr().err == "jobctl: no room for STATE, AGE, NODE: use a wider terminal, or -o json\n"


@pytest.mark.parametrize(
    ("width", "heads", "cells"),
    [
        (40, ["TIME", "PRINCIP…", "VERB"], ["2026-01-01", "00:00:00Z", "alice", "Schedul…"]),
        (50, ["TIME", "PRINCIP…", "VERB", "CRITERIA"], ["2026-01-01", "00:00:00Z", "alice", "Schedul…", "kind=ma…"]),
    ],
)
def test_a_cut_text_of_the_audit_log_has_a_mark(width: int, heads: list[str], cells: list[str]) -> None:
    record = AuditRecord(
        id="1",
        at_us=to_us(NOW),
        principal="alice",
        address="-",
        verb="ScheduleJob",
        criteria="kind=mail.send",
        count=1,
        result="ok",
        node="a",
    )
    out = Printer(Format.TABLE)
    out.console = Console(width=width, file=io.StringIO())
    out.many([record], AUDIT)
    assert [line.split() for line in cast("io.StringIO", out.console.file).getvalue().splitlines()] == [heads, cells]
    assert out.table([], AUDIT).row_count == 0


def test_a_narrow_terminal_leaves_out_empty_columns_and_cuts_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    stats = Stats(counts={"k" * 60: {State.SCHEDULED: 1_234_567, State.COMPLETED: 7_654_321}})
    out = Printer(Format.TABLE)
    out.console = Console(width=60, file=io.StringIO())
    out.many(tallies(stats), KINDS)
    head, row = cast("io.StringIO", out.console.file).getvalue().splitlines()
    assert head.split() == ["KIND", "SCHEDULED", "COMPLETED"]
    assert row.split() == ["k" * 37 + "…", "1234567", "7654321"]
    assert capsys.readouterr().err == ""


def test_the_fires_of_a_schedule_fit_into_80_columns() -> None:
    fire = FireRecord(nominal_us=to_us(NOW), outcome=FireOutcome.FIRED, instance="i" * 36)
    times = FireRecord(nominal_us=to_us(NOW), outcome=FireOutcome.COALESCED, count=100)
    out = Printer(Format.TABLE)
    out.console = Console(width=80, file=io.StringIO())
    out.many([FireEntry("nightly", fire), FireEntry("nightly", times)], FIRES)
    assert "…" not in cast("io.StringIO", out.console.file).getvalue()


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (OptionError("x", 1, "2"), ExitStatus.USAGE, "expected 2"),
        (UnknownKindError("add", ["sub"]), ExitStatus.NOT_FOUND, "(known: sub); `jobctl list jobs`"),
        (UnknownKindError("add", list(map(str, range(10_000)))), ExitStatus.NOT_FOUND, " and 9,990 more); `jobctl"),
        (NodeUnavailableError(["h:1"], "gone"), ExitStatus.UNREACHABLE, "gone (h:1); check --address"),
        (NodeUnavailableError(["h:1"], "a certificate"), ExitStatus.UNREACHABLE, "; check --tls-ca"),
        (
            NodeUnavailableError(["h:1"], "the node's certificate has expired"),
            ExitStatus.UNREACHABLE,
            "; renew the files of --tls-cert",
        ),
        (AuthError("no"), ExitStatus.REFUSED, "token"),
        (JobFailed("id", "ValueError", "bad"), ExitStatus.FAILED, "ValueError: bad"),
        (JobTimedOut("id"), ExitStatus.FAILED, "timed out"),
        (TimeoutError("late"), ExitStatus.TIME_OVER, "late"),
        (StoreFullError("full"), ExitStatus.FAILED, "full"),
    ],
)
def test_an_error_has_a_status_and_says_what_to_do(error: Exception, status: ExitStatus, expected: str) -> None:
    refusal = error_report(error)
    assert refusal is not None
    assert refusal.status == status
    assert expected in refusal.message


def test_a_defect_is_not_hidden() -> None:
    assert error_report(KeyError("x")) is None


def test_a_text_of_several_lines_is_indented(capsys: pytest.CaptureFixture[str]) -> None:
    Printer(Format.TABLE).fields({"name": "Ann", "traceback": "Traceback:\n  in \x1b[2Jrun\nValueError: no\n"})
    assert capsys.readouterr().out.splitlines() == [
        "name       Ann",
        "traceback  Traceback:",
        "             in \\x1b[2Jrun",
        "           ValueError: no",
    ]


def test_empty_values_are_left_out_and_zero_is_none_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    empty: dict[str, Any] = {"none": None, "text": "", "list": [], "tuple": (), "object": {}}
    Printer(Format.TABLE).fields({**empty, "zero": 0, "no": False, "one": [0], "in": {"a": None}})
    assert capsys.readouterr().out.splitlines() == ["zero    0", "no      false", "one     [0]", 'in      {"a": null}']


@pytest.mark.parametrize("format", [Format.JSON, Format.YAML])
@pytest.mark.parametrize("hostile", HOSTILE)
def test_output_for_programs_commands_no_terminal(
    format: Format, hostile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    printer = Printer(format)
    printer._plain({"text": hostile, hostile: "é 語 😀"})  # pyright: ignore[reportPrivateUsage]
    printer.event(lambda: {"text": hostile}, "", "")
    text = capsys.readouterr().out
    assert text.replace("\n", "").isprintable()
    if format is Format.JSON:
        assert "é 語 😀" in text
        whole, event = text.rstrip("\n").rsplit("\n", 1)
        assert json.loads(whole) == {"text": hostile, hostile: "é 語 😀"}
        assert json.loads(event) == {"text": hostile}


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize(
    "error",
    [lambda text: UnknownKindError("mail", [text]), lambda text: JobFailed("an id", "ValueError", text)],
    ids=["of a node", "of a job"],
)
def test_an_error_commands_no_terminal(
    error: Callable[[str], Exception], hostile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(arguments: object, **_: object) -> None:
        raise error(f"{hostile} é 語 😀")

    assert run(command, "jobctl", [], error_report) != ExitStatus.OK
    text = capsys.readouterr().err
    assert text.startswith("jobctl: ")
    assert text.removesuffix("\n").isprintable()
    assert "é 語 😀" in text
