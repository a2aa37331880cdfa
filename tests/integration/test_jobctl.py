"""Each verb of jobctl, against a daemon; what the daemon does on each engine is in the test of its RPCs."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from peerjob import Node, SystemClock, __version__
from peerjob.model.ids import IdSource
from support import fires
from support.division import in_matrix
from support.jobctl import Jobctl, begun, serving
from support.jobd import Jobd
from support.jobd import target as served_at
from support.rpc import losing_answer
from support.servers import Server
from support.waiting import PATIENCE

JOBCTL = Path(sys.executable).with_name("jobctl")
NOWHERE = "127.0.0.1:1"


@pytest.fixture
def jobctl(target: str) -> Jobctl:
    return Jobctl({"PEERJOB_ADDRESS": target})


def test_the_versions_of_the_command_and_of_the_node_are_shown(jobctl: Jobctl) -> None:
    assert jobctl("get", "version", "-o", "json").json == {"jobctl": __version__, "node": __version__}
    assert jobctl("get", "version").lines == [f"jobctl  {__version__}", f"node    {__version__}"]


def test_a_node_is_named_by_host_and_port_before_the_verb_or_after_it(target: str) -> None:
    host, _, port = target.rpartition(":")
    jobctl = Jobctl({"PEERJOB_ADDRESS": NOWHERE})

    assert jobctl("--host", host, "--port", port, "get", "version").status == 0
    assert jobctl("get", "version", "--host", host, "--port", port).status == 0
    assert jobctl("--address", NOWHERE, "get", "version", "--address", target).status == 0


def test_the_audit_log_shows_which_caller_did_what(jobctl: Jobctl) -> None:
    kind = f"gone-{uuid4().hex}"
    assert jobctl("schedule", kind, "hidden-word", "--allow-unknown").status == 0
    assert jobctl("cancel", "instances", "--kind", kind).status == 0
    begin = time.monotonic()
    while not (found := [one for one in jobctl("audit", "-o", "json").json if kind in one["criteria"]])[1:]:
        assert time.monotonic() < begin + PATIENCE

    assert [(one["verb"], one["count"], one["result"]) for one in found] == [
        ("CancelInstances", 1, "ok"),
        ("ScheduleJob", 1, "ok"),
    ]
    table = jobctl("audit", "--limit", "1000")
    assert table.lines[0].split() == ["TIME", "PRINCIPAL", "VERB", "CRITERIA", "COUNT", "RESULT"]
    assert any(kind in line and "anonymous" in line for line in table.lines)
    assert "hidden-word" not in "\n".join(table.lines)
    assert jobctl("audit", "--limit", "0").status == 2


def test_the_jobs_of_a_node_are_listed(jobctl: Jobctl) -> None:
    assert jobctl("list", "jobs", "-o", "name").lines == ["add", "fail", "nightly", "slow"]
    header, *rows = jobctl("list", "jobs").lines
    assert header.split() == ["KIND", "RECURS", "SIGNATURE", "NODES", "DESCRIPTION"]
    signature = ["(x:", "int,", "y:", "int)", "->", "int"]
    assert rows[0].split() == ["add", "-", *signature, "one", "adds", "two", "numbers"]
    assert rows[2].split()[:6] == ["nightly", "0", "3", "*", "*", "*"]
    assert rows[2].split()[-2:] == ["one", "recurs"]
    assert jobctl("list", "jobs", "-o", "json").json[2]["crontab"] == "0 3 * * *"


def test_nodes_are_listed_and_shown_wide(jobctl: Jobctl) -> None:
    (node,) = jobctl("list", "nodes", "-o", "json").json
    assert (node["name"], node["workers"], node["version"]) == ("one", 4, __version__)
    header, row = jobctl("list", "nodes", "-o", "wide").lines
    assert "KINDS" in header
    assert "add,fail,nightly,slow" in row


def test_schedules_are_listed_and_shown_one_by_one(jobctl: Jobctl) -> None:
    assert "nightly" in jobctl("list", "schedules", "-o", "name").lines
    assert jobctl("get", "schedule", "nightly", "-o", "json").json["crontab"] == "0 3 * * *"
    assert "crontab: 0 3 * * *" not in jobctl("get", "schedule", "nightly", "-o", "yaml").lines
    assert 'crontab: "0 3 * * *"' in jobctl("get", "schedule", "nightly", "-o", "yaml").lines
    missing = jobctl("get", "schedule", "nope")
    assert missing.status == 3
    assert missing.err.startswith("jobctl: no schedule 'nope'")


def test_no_instance_is_an_empty_answer_with_a_note(jobctl: Jobctl) -> None:
    answer = jobctl("list", "instances", "--tag", "nobody-has-it")
    assert (answer.status, answer.out, answer.err) == (0, "", "jobctl: no instance matches\n")
    assert jobctl("list", "instances", "--tag", "nobody-has-it", "-o", "json").json == []


def test_an_unknown_instance_and_an_invalid_id_have_different_errors(jobctl: Jobctl) -> None:
    assert jobctl("get", "instance", str(uuid4())).status == 3
    assert jobctl("get", "instance", "twelve").status == 2


def test_no_node_is_one_line_that_says_what_to_do() -> None:
    answer = Jobctl({"PEERJOB_ADDRESS": NOWHERE})("list", "jobs")
    assert (answer.status, answer.out) == (4, "")
    assert len(answer.err.splitlines()) == 1
    assert "--address" in answer.err


def test_the_command_works_as_a_program(target: str) -> None:
    done = subprocess.run(
        [JOBCTL, "get", "version", "-o", "name", "--address", target],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__}\n", "")


def as_program(*arguments: str, out: Any = subprocess.PIPE, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [JOBCTL, *arguments],
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=PATIENCE,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("encoding", ["ascii", in_matrix("latin-1", "ascii has fewer characters")])
def test_an_output_of_another_encoding_has_escapes(jobctl: Jobctl, target: str, encoding: str) -> None:
    made = jobctl("schedule", "add", "1", "2", "--tag", "price €", "-o", "json").json
    one = ("get", "instance", str(made["uuid"]), "--address", target)

    shown = as_program(*one, "-o", "json", PYTHONIOENCODING=encoding)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert json.loads(shown.stdout)["tags"] == ["price €"]
    assert "\\u20ac" in shown.stdout
    for more in ((), ("-o", "yaml"), ("--help",)):
        shown = as_program(*one, *more, PYTHONIOENCODING=encoding)
        assert (shown.returncode, shown.stderr) == (0, "")


def test_an_output_that_takes_nothing_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = as_program("--help", out=full)
    assert (done.returncode, done.stderr) == (
        1,
        "jobctl: the output cannot be written: [Errno 28] No space left on device\n",
    )


CLOSED = pytest.mark.matrix("other closed streams stay in make test")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("--version >&-", "the output cannot be written: [Errno 9] Bad file descriptor"),
        ("export - >&-", "standard output cannot be written: Bad file descriptor"),
        pytest.param("export - >&- <&-", "standard output cannot be written: Bad file descriptor", marks=CLOSED),
        pytest.param("import - <&-", "the export is not whole", marks=CLOSED),
    ],
)
def test_a_stream_that_the_caller_has_closed_is_one_line(tmp_path: Path, command: str, message: str) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    with Node(url).blocking():
        pass
    done = subprocess.run(
        ["sh", "-c", f'"$0" {command}', JOBCTL],
        capture_output=True,
        env=os.environ | {"PEERJOB_STORE": url},
        timeout=PATIENCE,
        check=False,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"jobctl: {message}")


# -- schedule --------------------------------------------------------------------------------------------------------


def test_a_run_is_scheduled_with_arguments_as_text_and_waited_for(jobctl: Jobctl) -> None:
    done = jobctl("schedule", "add", "40", "2", "--wait", "-o", "json").json
    assert (done["state"], done["result"], done["arguments"]) == ("Completed", 42, ["40", "2"])


def test_arguments_may_be_json_or_named(jobctl: Jobctl) -> None:
    assert jobctl("schedule", "add", "--json-args", "[1, 2]", "-w", "-o", "json").json["result"] == 3
    assert jobctl("schedule", "add", "--json-args", '{"x": 1, "y": 3}', "-w", "-o", "json").json["result"] == 4
    assert jobctl("schedule", "add", "1", "--arg", "y=4", "-w", "-o", "json").json["result"] == 5
    assert jobctl("schedule", "add", "--wait", "-o", "json", "--", "-1", "1").json["result"] == 0


def test_every_option_of_a_run_reaches_the_node(jobctl: Jobctl) -> None:
    made = jobctl(
        *("schedule", "add", "1", "2", "--after", "1h", "--priority", "7", "--tag", "a", "--tag", "b", "--key", "k"),
        *("--max-retries", "forever", "--retry-on", "OSError", "--no-retry-on", "TimeoutError", "--backoff", "1s"),
        *("--backoff-factor", "2", "--backoff-max", "1m", "--backoff-jitter", "0.1", "--timeout", "5s"),
        *("--run-in", "thread", "--on-store-loss", "continue", "--max-crashes", "2", "--retention", "1h", "-o", "json"),
    ).json
    assert (made["state"], made["priority"], made["tags"], made["key"]) == ("Scheduled", 7, ["a", "b"], "k")
    assert (made["max_retries"], made["timeout"]) == (None, 5)

    again = jobctl("schedule", "add", "1", "2", "--key", "k", "-o", "name")
    assert again.lines == [made["uuid"]]
    assert again.err == "jobctl: an instance with this key exists already\n"

    at = jobctl("schedule", "add", "1", "2", "--at", "2099-01-01T00:00+01:00", "-o", "json").json
    assert at["schedule_at"] == "2098-12-31T23:00:00+00:00"


def test_a_run_that_fails_is_shown_and_makes_the_status_1(jobctl: Jobctl) -> None:
    answer = jobctl("schedule", "fail", "on purpose", "--wait", "-o", "name")
    assert answer.status == 1
    assert answer.err == f"jobctl: instance {answer.out.strip()} ended in Terminated: ValueError: on purpose\n"


def test_a_wait_may_have_an_end(jobctl: Jobctl) -> None:
    assert jobctl("schedule", "add", "1", "1", "--after", "1h", "--wait", "--within", "0.1").status == 6


def test_a_recurrence_makes_a_schedule(jobctl: Jobctl) -> None:
    made = jobctl(
        *("schedule", "add", "1", "2", "--cron", "0 4 * * *", "--timezone", "Europe/Berlin", "--name", "sums"),
        *("--description", "adds", "--jitter", "5s", "--overlap", "queue", "--queue-limit", "2"),
        *("--misfire", "run_all", "--misfire-limit", "9", "--start-deadline", "1h", "--priority", "3", "-o", "json"),
    ).json
    assert (made["name"], made["crontab"], made["timezone"]) == ("sums", "0 4 * * *", "Europe/Berlin")
    assert (made["jitter"], made["overlap"], made["queue_limit"]) == (5, "queue", 2)
    assert (made["misfire"], made["misfire_limit"], made["start_deadline"]) == ("run_all", 9, 3600)
    assert (made["arguments"], made["priority"], made["description"]) == (["1", "2"], 3, "adds")
    assert jobctl("schedule", "add", "1", "2", "--every", "1h", "--name", "sums", "-o", "json").json["every"] == 3600


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nope"], 3, "known: add, fail, nightly, slow"),
        (["add", "1"], 2, "y"),
        (["add", "1", "two"], 2, "two"),
        (["add", "1", "--json-args", "[2]"], 2, "no other arguments"),
        (["add", "--json-args", "7"], 2, "JSON array"),
        (["add", "--arg", "x"], 2, "NAME=VALUE"),
        (["add", "1", "2", "--at", "2099-01-01"], 2, "time zone"),
        (["add", "1", "2", "--cron", "* *"], 2, "* *"),
        (["add", "1", "2", "--name", "x"], 2, "--cron or --every"),
        (["add", "1", "2", "--every", "1h", "--wait"], 2, "has no end"),
        (["add", "1", "2", "--max-retries", "many"], 2, "forever"),
        (["add", "1", "2", "--retry-on", "Nope"], 2, "Nope"),
        (["add", "1", "2", "--backoff-max", "1m"], 2, "--backoff"),
        (["add", "1", "2", "--run-in", "space"], 2, "space"),
    ],
)
def test_a_call_that_cannot_be_scheduled_is_reported_in_one_line(
    jobctl: Jobctl, arguments: list[str], status: int, message: str
) -> None:
    answer = jobctl("schedule", *arguments)
    assert (answer.status, answer.out, len(answer.err.splitlines())) == (status, "", 1), answer.err
    assert message in answer.err


# -- cancel, retry ---------------------------------------------------------------------------------------------------


def test_instances_are_cancelled_by_what_they_have_in_common(jobctl: Jobctl) -> None:
    made = [jobctl("schedule", "add", "1", "1", "--after", "1h", "--tag", "c", "-o", "name").out for _ in range(2)]
    assert sorted(jobctl("cancel", "instances", "--tag", "c", "-o", "name").lines) == sorted("".join(made).split())
    assert jobctl("list", "instances", "--tag", "c", "--state", "cancelled", "-o", "name").lines == [
        *reversed("".join(made).split())
    ]


def test_an_instance_is_cancelled_by_its_id_and_only_once(jobctl: Jobctl) -> None:
    uuid = jobctl("schedule", "add", "1", "1", "--after", "1h", "-o", "name").out.strip()
    assert jobctl("cancel", "instance", uuid, "-o", "json").json[0]["state"] == "Cancelled"
    again = jobctl("cancel", "instances", uuid)
    assert (again.status, again.out, again.err) == (1, "", f"jobctl: instance {uuid} is Cancelled already\n")


def test_delayed_instances_run_now_and_the_others_are_refused(jobctl: Jobctl) -> None:
    made = [jobctl("schedule", "add", "1", "1", "--after", "1h", "-o", "name").out.strip() for _ in range(3)]
    late, other, cancelled = made
    jobctl("cancel", "instances", cancelled)
    mixed = jobctl("run-now", late, cancelled, other, "-o", "name")
    refused = f"jobctl: instance {cancelled} is Cancelled; only one that waits can run now\n"
    assert (mixed.status, mixed.out.split(), mixed.err) == (1, [late, other], refused)
    assert jobctl("wait", late, other, "--within", "60").status == 0
    assert jobctl("run-now", str(uuid4())).status == 3
    assert jobctl("run-now").status == 2


@pytest.mark.parametrize("verb", [["run-now"], ["cancel", "instances"]])
def test_an_unknown_id_keeps_no_other_from_its_turn_and_an_invalid_one_keeps_all(
    jobctl: Jobctl, verb: list[str]
) -> None:
    made = [jobctl("schedule", "add", "1", "1", "--after", "1h", "-o", "name").out.strip() for _ in range(2)]
    invalid = jobctl(*verb, made[0], "no-id", made[1])
    assert (invalid.status, invalid.out) == (2, "")
    unknown = str(uuid4())
    mixed = jobctl(*verb, made[0], unknown, made[1], "-o", "name")
    assert (mixed.status, mixed.out.split()) == (3, made)
    assert unknown in mixed.err


def test_what_was_done_before_the_node_went_away_is_shown(target: str, jobctl: Jobctl) -> None:
    made = [jobctl("schedule", "add", "1", "1", "--after", "1h", "-o", "name").out.strip() for _ in range(2)]
    with losing_answer(target, answers=1) as lossy:
        lost = jobctl("run-now", *made, "-o", "name", PEERJOB_ADDRESS=lossy)
    assert (lost.status, lost.out.split()) == (4, made[:1]), lost.err


def test_a_command_that_runs_instances_now_can_be_repeated(target: str, jobctl: Jobctl) -> None:
    late = jobctl("schedule", "add", "1", "1", "--after", "1h", "-o", "name").out.strip()
    with losing_answer(target) as lossy:
        lost = jobctl("run-now", late, PEERJOB_ADDRESS=lossy)
    assert (lost.status, lost.out) == (4, ""), lost.err
    (id,) = re.findall(r"the same command with --id (\S+) makes nothing twice", lost.err)
    assert jobctl("wait", late, "--within", "60").status == 0
    assert jobctl("run-now", late, "--id", id, "-o", "json").json[0]["state"] == "Completed"
    assert jobctl("run-now", late).status == 1


def test_what_is_over_is_tried_again(jobctl: Jobctl) -> None:
    uuid = jobctl("schedule", "add", "1", "1", "--wait", "--tag", "r", "-o", "name").out.strip()
    (again,) = jobctl("retry", "instances", uuid, "-o", "json").json
    assert again["retry_of"] == uuid
    waiting = jobctl("schedule", "add", "1", "1", "--after", "1h", "-o", "name").out.strip()
    assert jobctl("retry", "instances", waiting).status == 1
    assert jobctl("retry", "instances", "--tag", "r", "--state", "completed", "-o", "name").lines


def test_a_retry_that_is_repeated_with_its_id_makes_nothing_twice(jobctl: Jobctl) -> None:
    tag = f"t{uuid4().hex}"
    uuids = [jobctl("schedule", "add", "1", "1", "--wait", "-t", tag, "-o", "name").out.strip() for _ in range(2)]
    for chosen in (uuids, ["--tag", tag, "--state", "completed"]):
        id = IdSource(SystemClock()).one()
        before = int(jobctl("count", "--tag", tag).out)
        first = jobctl("retry", "instances", *chosen, "--id", id, "-o", "name").lines
        assert int(jobctl("count", "--tag", tag).out) == before + len(first) > before
        jobctl("wait", "--tag", tag)
        assert jobctl("retry", "instances", *chosen, "--id", id.upper(), "-o", "name").lines == first
        assert int(jobctl("count", "--tag", tag).out) == before + len(first)
    for wrong in ("x", str(uuid4())):
        answer = jobctl("retry", "instances", uuids[0], "--id", wrong)
        assert (answer.status, "id: expected a UUID" in answer.err) == (2, True), answer.err


def test_a_schedule_that_is_repeated_with_its_id_makes_nothing_twice(jobctl: Jobctl) -> None:
    id, tag = IdSource(SystemClock()).one(), f"t{uuid4().hex}"
    first = jobctl("schedule", "add", "1", "2", "--id", id, "--tag", tag, "--wait", "-o", "json")
    again = jobctl("schedule", "add", "5", "6", "--id", id, "--tag", tag, "-o", "json")
    assert (first.json["uuid"], first.json["result"]) == (id, 3) == (again.json["uuid"], again.json["result"])
    assert again.err == ""
    assert jobctl("count", "--tag", tag).lines == ["1"]
    assert jobctl("schedule", "add", "1", "2", "--id", id, "--every", "1d").status == 2


@pytest.mark.parametrize("verb", ["retry", "trigger", "schedule"])
def test_a_command_whose_answer_is_lost_tells_how_to_repeat_it(jobctl: Jobctl, target: str, verb: str) -> None:
    name, tag = f"daily-{uuid4().hex[:6]}", f"t{uuid4().hex}"
    uuid = jobctl("schedule", "add", "1", "1", "--wait", "--tag", tag, "-o", "name").out.strip()
    jobctl("schedule", "add", "1", "2", "--every", "1d", "--name", name, "--tag", tag)
    command = {
        "retry": ("retry", "instances", uuid),
        "trigger": ("schedules", "trigger", name),
        "schedule": ("schedule", "add", "1", "1", "--tag", tag),
    }[verb]
    with losing_answer(target) as lossy:
        lost = jobctl(*command, PEERJOB_ADDRESS=lossy)
    assert (lost.status, lost.out) == (4, ""), lost.err
    (id,) = re.findall(r"the same command with --id (\S+) makes nothing twice", lost.err)
    assert jobctl("count", "--tag", tag).lines == ["2"]
    assert len(jobctl(*command, "--id", id, "-o", "name").lines) == 1
    assert jobctl("count", "--tag", tag).lines == ["2"]


@pytest.mark.parametrize("verb", ["cancel", "retry"])
def test_nothing_happens_to_everything_unless_that_is_said(jobctl: Jobctl, verb: str) -> None:
    answer = jobctl(verb, "instances")
    assert answer.status == 2
    assert "--all" in answer.err
    assert jobctl(verb, "instances", "--all", "--kind", "add").status == 2


def test_instances_are_counted(jobctl: Jobctl) -> None:
    for _ in range(2):
        jobctl("schedule", "add", "1", "1", "--wait", "--tag", "counted")
    assert jobctl("count", "--tag", "counted").lines == ["2"]
    assert jobctl("count", "--tag", "counted", "--state", "terminated", "-o", "json").json == {"count": 0}


def test_wait_ends_when_the_instances_are_final(jobctl: Jobctl) -> None:
    brief, failing = (
        jobctl("schedule", *what, "--tag", "waited", "-o", "name").out.strip()
        for what in (("slow", "1", "0.3"), ("fail", "why not"))
    )
    assert jobctl("wait", brief, "--within", "60", "-o", "json").json[0]["state"] == "Completed"
    both = jobctl("wait", brief, failing, "-o", "name")
    assert (both.status, both.out.split()) == (1, [brief, failing])
    assert jobctl("wait", "--tag", "waited").lines == []
    assert jobctl("wait", "--tag", "none").err == "jobctl: no instance matches\n"

    long = jobctl("schedule", "slow", "1", "30", "--tag", "waited", "-o", "name").out.strip()
    late = jobctl("wait", long, "--within", "0.1s")
    assert (late.status, late.err) == (6, "jobctl: not all of them are final after 0.1s\n")
    assert jobctl("wait", "--tag", "waited", "--within", "0.1s").status == 6
    assert jobctl("wait").status == 2
    assert jobctl("wait", str(uuid4())).status == 3
    jobctl("cancel", "instances", long)


# -- clear -----------------------------------------------------------------------------------------------------------


def test_what_is_over_is_cleared_by_when_it_was_made(jobctl: Jobctl) -> None:
    uuid = jobctl("schedule", "slow", "1", "0", "--wait", "-o", "name").out.strip()
    queued = jobctl("schedule", "add", "1", "1", "--after", "1h", "-o", "name").out.strip()

    assert jobctl("clear", "logs", "--older-than", "1h", "-y", "-o", "json").json == {"count": 0}
    assert jobctl("logs", uuid).lines
    assert jobctl("clear", "logs", "--yes", "-o", "json").json["count"] >= 1
    empty = jobctl("logs", uuid)
    assert (empty.status, empty.out, empty.err) == (0, "", "jobctl: no line matches\n")
    assert len(jobctl("history", uuid, "-o", "name").lines) == 4
    assert jobctl("clear", "history", "--after", "2026-01-01T00:00Z", "-y", "-o", "json").json["count"] >= 1
    assert jobctl("history", uuid, "-o", "name").lines == ["Completed"]
    assert jobctl("clear", "instances", "--before", "2026-01-01T00:00Z", "-y").lines == ["0 instances removed"]
    assert jobctl("clear", "instances", "-y", "-o", "json").json["count"] >= 1
    assert jobctl("get", "instance", uuid).status == 3
    assert jobctl("get", "instance", queued).status == 0
    assert jobctl("clear", "instances", "--before", "yesterday", "-y").status == 2

    assert jobctl("clear", "all", "--yes").status == 0
    assert jobctl("count").lines == ["0"]
    assert jobctl("list", "jobs").status == 0


@pytest.mark.parametrize("what", ["instances", "history", "logs", "all"])
def test_nothing_is_cleared_without_a_terminal_to_confirm(jobctl: Jobctl, what: str) -> None:
    uuid = jobctl("schedule", "slow", "1", "0", "--wait", "-o", "name").out.strip()
    unasked = jobctl("clear", what)
    assert (unasked.status, unasked.out) == (2, "")
    assert "--yes" in unasked.err
    assert len(jobctl("history", uuid, "-o", "name").lines) == 4
    assert jobctl("logs", uuid).lines


def test_nothing_is_cleared_without_a_confirmation(jobctl: Jobctl, target: str) -> None:
    uuid = jobctl("schedule", "add", "1", "1", "--wait", "-o", "name").out.strip()
    clear = ("clear", "instances", "--after", "2026-01-01T00:00Z", "--address", target)

    screen, status = at_terminal(*clear, typed=b"n\n")
    assert (status, "nothing was removed" in screen) == (1, True)
    assert "all final instances that were created at or after 2026-01-01 00:00:00Z? [y/N]" in screen
    assert at_terminal(*clear, typed=b"\x03")[1] == 130
    assert jobctl("get", "instance", uuid).status == 0

    assert at_terminal(*clear, typed=b"y\n")[1] == 0
    assert jobctl("get", "instance", uuid).status == 3


# -- logs, history, watch --------------------------------------------------------------------------------------------


def test_the_logs_of_an_instance_are_shown_and_followed_to_its_end(jobctl: Jobctl) -> None:
    uuid = jobctl("schedule", "slow", "3", "0.1", "-o", "name").out.strip()
    followed = jobctl("logs", uuid, "-f").lines
    assert [line.split(maxsplit=3)[2:] for line in followed] == [["INFO", f"line {n}"] for n in range(3)]
    assert jobctl("logs", uuid).lines == followed
    assert jobctl("logs", uuid, "--level", "error", "--level", "warn").lines == []
    first, *_ = (json.loads(line) for line in jobctl("logs", uuid, "-o", "json").lines)
    assert (first["message"], first["node"], first["attempt"]) == ("line 0", "one", 1)
    assert jobctl("logs", uuid, "--level", "loud").status == 2
    assert jobctl("logs", str(uuid4())).status == 3


def test_the_history_of_an_instance_is_shown(jobctl: Jobctl) -> None:
    uuid = jobctl("schedule", "add", "1", "1", "--wait", "-o", "name").out.strip()
    states = [entry["state"] for entry in jobctl("history", uuid, "-o", "json").json]
    assert states == ["Created", "Scheduled", "Processing", "Completed"]
    assert [row.split()[2] for row in jobctl("history", uuid).lines[1:]] == states


def test_a_watch_of_one_instance_shows_what_happens_and_ends_with_it(jobctl: Jobctl) -> None:
    uuid = jobctl("schedule", "slow", "3", "1", "--after", "1", "-o", "name").out.strip()
    lines = jobctl("watch", uuid).lines
    assert all(f" {uuid} slow " in line for line in lines)
    assert [line for line in lines if "INFO line" in line]
    assert lines[-1].endswith("Completed on one")
    assert [line.split(maxsplit=3)[3] for line in jobctl("watch", uuid).lines] == [
        "slow Completed on one",
        *(f"slow INFO line {n}" for n in range(3)),
    ]
    assert jobctl("watch", str(uuid4())).status == 3
    for option in (("--kind", "sleep"), ("--state", "Completed"), ("--tag", "x")):
        refused = jobctl("watch", uuid, *option)
        assert (refused.status, "either a UUID or --kind" in refused.err) == (2, True), refused


def test_a_watch_in_a_terminal_is_a_table(jobctl: Jobctl, target: str) -> None:
    uuid = jobctl("schedule", "slow", "2", "0.2", "--after", "1", "-o", "name").out.strip()
    screen = in_terminal("watch", uuid, "--address", target)
    assert "UUID" in screen
    assert f"{uuid}" in screen
    assert "Completed" in screen
    screen, status = at_terminal("watch", str(uuid4()), "--address", target)
    assert (status, "no instance" in screen, "UUID" in screen) == (3, True, False), screen


def test_what_several_instances_logged_and_went_through_is_listed(jobctl: Jobctl) -> None:
    made = [jobctl("schedule", "slow", "1", "0", "--wait", "--tag", "l", "-o", "name").out.strip() for _ in range(2)]
    lines = jobctl("list", "logs", "--tag", "l").lines
    assert [line.split()[:2] for line in lines] == [[uuid, "slow"] for uuid in reversed(made)]
    assert all(line.endswith(" INFO  line 0") for line in lines)
    none = jobctl("list", "logs", "--tag", "l", "--level", "error")
    assert (none.status, none.out, none.err) == (0, "", "jobctl: no line matches\n"), none
    (entry,) = jobctl("list", "history", "--tag", "l", "-s", "completed", "-n", "1", "-o", "json").json
    assert (entry["uuid"], entry["state"]) == (made[1], "Completed")
    assert len(jobctl("list", "history", "--tag", "l").lines) == 1 + 2 * 4


def in_terminal(*arguments: str) -> str:
    """All that the command writes to a terminal of 120 columns until it ends well."""
    screen, status = at_terminal(*arguments)
    assert status == 0, screen
    return screen


def _as_in_a_shell() -> None:
    """Let Ctrl-C reach a program and end it, also if a shell started the tests in the background."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def at_terminal(*arguments: str, typed: bytes = b"", once: bytes = b"]: ") -> tuple[str, int]:
    """All that the command writes to a terminal of 120 columns, and its status; `typed` is typed once it asks.

    And again if nothing comes of it: Python misses a Ctrl-C in the moment between a prompt and the wait for an answer.
    """
    control, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    child = subprocess.Popen(
        [JOBCTL, *arguments],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm"},
        start_new_session=True,
        preexec_fn=_as_in_a_shell,  # noqa: PLW1509
    )
    os.close(terminal)
    written, pressed, until = b"", 0.0, time.monotonic() + PATIENCE
    with contextlib.suppress(OSError):  # the other end is closed
        while True:
            if time.monotonic() > until:
                child.kill()
                child.wait()
                raise AssertionError(f"{arguments} did not end: {written.decode()}")
            if select.select([control], [], [], 0.5)[0]:
                written += os.read(control, 65_536)
            if typed and once in written and time.monotonic() > pressed + 5:
                os.write(control, typed)
                pressed = time.monotonic()
    os.close(control)
    return written.decode(), child.wait(PATIENCE)


# -- schedules -------------------------------------------------------------------------------------------------------


@pytest.fixture
def hourly(jobctl: Jobctl) -> str:
    """A schedule that is not due during the test, at any time of the day."""
    name = f"hourly-{uuid4().hex[:6]}"
    assert jobctl("schedule", "add", "1", "2", "--cron", fires.hourly(), "--name", name).status == 0
    return name


def test_a_schedule_is_paused_with_a_note_and_resumed(jobctl: Jobctl, hourly: str) -> None:
    assert jobctl("schedules", "pause", hourly, "--note", "moving", "-o", "json").json["note"] == "moving"
    assert "paused" in jobctl("schedules", "list").out
    assert jobctl("schedules", "resume", hourly, "-o", "json").json["paused"] is False


def test_a_schedule_is_triggered_and_tells_what_it_fired(jobctl: Jobctl, hourly: str) -> None:
    made = jobctl("schedules", "trigger", hourly, "-o", "name").out.strip()
    (fire,) = jobctl("schedules", "fires", hourly, "-o", "json").json
    assert (fire["outcome"], fire["instance"]) == ("triggered", made)
    assert made in jobctl("schedules", "fires", hourly).out


def test_a_trigger_that_is_repeated_with_its_id_makes_nothing_twice(jobctl: Jobctl, hourly: str) -> None:
    id = IdSource(SystemClock()).one()
    for _ in range(2):
        assert jobctl("schedules", "trigger", hourly, "--id", id, "-o", "name").lines == [id]
    assert len(jobctl("schedules", "fires", hourly, "-o", "json").json) == 1


def test_a_trigger_that_makes_nothing_says_why(jobctl: Jobctl) -> None:
    name = f"slow-{uuid4().hex[:6]}"
    jobctl("schedule", "slow", "1", "20", "--cron", "0 3 29 2 *", "--name", name)
    uuid = jobctl("schedules", "trigger", name, "-o", "name").out.strip()
    again = jobctl("schedules", "trigger", name)
    assert (again.status, again.out) == (1, "")
    assert "no instance was created: " in again.err
    jobctl("cancel", "instances", uuid)


def test_the_past_of_a_schedule_is_made_up_for(jobctl: Jobctl, hourly: str) -> None:
    span = ("--from", "2026-01-01T00:00Z", "--to", "2026-01-01T03:00Z")
    done = jobctl("schedules", "backfill", hourly, *span, "-o", "json").json
    assert done["times"] == 3
    assert jobctl("schedules", "backfill", hourly, "--from", "2026-01-01", "--to", "2026-01-02").status == 2


def test_a_schedule_and_a_cron_text_are_explained(jobctl: Jobctl, hourly: str) -> None:
    explained = jobctl("schedules", "explain", hourly, "-o", "json").json
    assert (explained["spec"].split()[1:], explained["timezone"]) == (["*"] * 4, "UTC")
    assert len(explained["fires"]) == 5
    text = jobctl("schedules", "explain", "0 3 * * 1", "--timezone", "Europe/Berlin", "-n", "2").out
    assert text.startswith("0 3 * * 1  (Europe/Berlin)")
    assert "clock changes" in text
    assert Jobctl({"PEERJOB_ADDRESS": NOWHERE})("schedules", "explain", "@daily").status == 0
    assert jobctl("schedules", "explain", "* *").status == 2
    jobctl("schedule", "add", "1", "2", "--every", "1h", "--name", hourly)
    assert jobctl("schedules", "explain", hourly, "-o", "json").json["words"] == "every 1h"


def test_a_schedule_is_removed(jobctl: Jobctl, hourly: str) -> None:
    assert jobctl("schedules", "remove", hourly).status == 0
    assert jobctl("schedules", "remove", hourly).status == 3
    assert jobctl("schedules", "pause", hourly).status == 3


# -- the cluster -----------------------------------------------------------------------------------------------------


def test_the_leader_is_shown(jobctl: Jobctl) -> None:
    found = jobctl("leader", "-o", "json").json
    assert found["name"] == "one"
    assert found["term"] >= 1
    assert jobctl("leader").lines[1].split()[0] == "one"


def test_stats_are_shown_by_kind_and_state(jobctl: Jobctl) -> None:
    assert jobctl("schedule", "add", "1", "1", "--wait").status == 0
    plain = jobctl("stats", "-o", "json").json
    assert plain["nodes"] == 1
    assert plain["counts"]["add"]["Completed"] >= 1
    header, *rows = jobctl("stats").lines
    assert header.split()[:2] == ["KIND", "SCHEDULED"]
    assert any(row.split()[0] == "add" for row in rows)


def test_workers_are_listed_and_resized(jobctl: Jobctl) -> None:
    assert jobctl("workers", "list", "-o", "name").lines == ["0", "1", "2", "3"]
    assert jobctl("workers").lines == jobctl("workers", "list").lines
    assert jobctl("schedules", "-o", "json").json == jobctl("list", "schedules", "-o", "json").json
    assert jobctl("workers", "resize", "6").status == 0
    assert len(jobctl("workers", "list", "-o", "json").json) == 6
    assert jobctl("workers", "resize", "4").status == 0
    assert jobctl("workers", "resize", "0").status == 2


def test_a_kind_is_paused_shown_and_resumed(jobctl: Jobctl) -> None:
    empty = jobctl("limits")
    assert (empty.out, empty.err) == ("", "jobctl: no limit: no kind has one, and none is paused\n")
    unknown = jobctl("pause", "--kind", "none")
    assert (unknown.status, "--allow-unknown" in unknown.err, "jobctl list jobs" in unknown.err) == (3, False, True)
    paused = jobctl("pause", "--kind", "add", "--note", "a test")
    assert (paused.status, paused.err) == (0, "jobctl: kind add is paused\n")
    try:
        header, row = jobctl("limits").lines
        assert header.split() == ["LIMIT", "RUNNING", "OF", "RATE", "WAITING", "STATE", "KINDS"]
        assert row.split() == ["(add)", "0", "-", "-", "0", "paused", "add"]
        (plain,) = jobctl("limits", "-o", "json").json
        assert (plain["kinds"], plain["state"], plain["note"], plain["name"]) == (["add"], "paused", "a test", None)
        uuid = jobctl("schedule", "add", "1", "1", "-o", "name").out.strip()
        assert "kind 'add' is paused: a test; jobctl resume --kind add lets nodes claim it" in jobctl("why", uuid).out
        assert "(without a key)" in jobctl("limits", "--kind", "add").out
    finally:
        assert jobctl("resume", "--kind", "add").err == "jobctl: nodes claim kind add\n"
    assert jobctl("wait", uuid, "--within", "30").status == 0
    assert jobctl("limits", "--kind", "none").err == "jobctl: no key: no unfinished instance of this kind is due\n"


def test_top_shows_nodes_queues_and_the_leader(jobctl: Jobctl, target: str) -> None:
    assert jobctl("schedule", "add", "1", "1", "--after", "1h").status == 0
    counts = jobctl("stats", "-o", "json").json["counts"].values()
    running, queued = (sum(one.get(state, 0) for one in counts) for state in ("Processing", "Scheduled"))
    assert queued > running
    for shown in (jobctl("top").out, in_terminal("top", "-n", "2", "-d", "0.1", "--address", target)):
        assert "1 node, 4 workers, " in shown
        assert f"{running} running, {queued} queued" in shown
        assert "one leads" in shown
        assert "NODE" in shown
        assert "KIND" in shown


@pytest.mark.parametrize(("typed", "status"), [(b"q", 0), (b"\x03", 130)], ids=["q", "Ctrl-C"])
def test_a_key_ends_top(target: str, typed: bytes, status: int) -> None:
    screen, ended = at_terminal("top", "--address", target, typed=typed, once=b"one leads")
    assert (ended, "Traceback" in screen) == (status, False)


def test_a_node_is_drained(redis_server: Server, tmp_path: Path) -> None:
    with contextlib.closing(Jobd(tmp_path)) as jobd:
        jobctl = Jobctl({"PEERJOB_ADDRESS": served_at(serving(jobd, redis_server.url, f"ctl-{uuid4().hex[:8]}"))})
        uuid = jobctl("schedule", "slow", "1", "100", "-o", "name").out.strip()
        begun(jobctl, uuid)
        assert jobctl("drain", "--within", "0.1").status == 6
        jobctl("cancel", "instances", uuid)
        drained = jobctl("drain", "--within", "60")
        assert jobctl("schedule", "add", "1", "1", "--wait", "--within", "0.3").status == 6
        (node,) = jobctl("list", "nodes", "-o", "json").json
        assert node["intake"] == "drained"
        assert (drained.status, drained.err) == (0, f"jobctl: node {node['name']} is drained\n")
        unknown = jobctl("undrain", "elsewhere")
        assert (unknown.status, f"'elsewhere' (live: {node['name']})" in unknown.err) == (3, True)
        assert jobctl("workers", "resize", "3").err == f"jobctl: node {node['name']} has 3 workers now\n"
        for given in ((), (node["name"],), (node["incarnation"],)):
            assert jobctl("undrain", *given).err == f"jobctl: node {node['name']} takes work\n"
        assert jobctl("schedule", "add", "1", "1", "--wait", "--within", "60").status == 0


# -- why -------------------------------------------------------------------------------------------------------------


def test_why_tells_what_an_instance_waits_for(jobctl: Jobctl) -> None:
    def reasons(*arguments: str) -> list[str]:
        uuid = jobctl("schedule", *arguments, "-o", "name").out.strip()
        found: list[str] = jobctl("why", uuid, "-o", "json").json["reasons"]
        return found

    assert reasons("add", "1", "1", "--after", "1h")[0].startswith("it is delayed: due in 59m")
    assert reasons("nobody", "--allow-unknown")[0].startswith("no live node runs jobs of kind 'nobody' (one runs add")
    assert reasons("add", "1", "1", "--wait")[0] == "it is final: Completed after 1 try"
    failed = jobctl("schedule", "fail", "why not", "--wait", "-o", "name").out.strip()
    _, over, ended, _, *traceback = jobctl("why", failed).lines
    assert [over, ended] == ["  it is final: Terminated after 1 try", "  it ended with ValueError: why not"]
    assert (traceback[0], traceback[-1]) == ("Traceback (most recent call last):", "ValueError: why not")
    assert jobctl("get", "instance", failed, "-o", "json").json["traceback"].splitlines() == traceback
    assert f"{'traceback':<15}Traceback (most recent call last):" in jobctl("get", "instance", failed).out


def test_why_tells_how_many_are_before_an_instance_that_is_queued(jobctl: Jobctl) -> None:
    running = [jobctl("schedule", "slow", "1", "100", "-t", "q", "-p", "0", "-o", "name").out.strip() for _ in range(4)]
    queued = [jobctl("schedule", "slow", "1", "100", "-t", "q", "-p", "1", "-o", "name").out.strip() for _ in range(3)]
    try:
        until = time.monotonic() + PATIENCE
        while "queued behind 2 others: 4 of the 4 workers" not in (text := jobctl("why", queued[2]).out):
            assert time.monotonic() < until, text  # a node takes some ahead, and puts them back
        assert text.startswith(f"{queued[2]} of slow: Scheduled\n")
        assert "it runs: on node one" in jobctl("why", running[0]).out
    finally:
        jobctl("cancel", "instances", "--tag", "q")


def test_why_tells_which_instance_is_in_the_way(jobctl: Jobctl) -> None:
    name = f"slow-{uuid4().hex[:6]}"
    jobctl("schedule", "slow", "1", "30", "--cron", "0 3 29 2 *", "--name", name, "--overlap", "queue")
    first, second = (jobctl("schedules", "trigger", name, "-o", "name").out.strip() for _ in range(2))
    try:
        message = f"it is parked: schedule {name} runs one at a time, and {first} is not final"
        assert message in jobctl("why", second).out
        assert f"its instance {first} is not final" in jobctl("why", name).out
    finally:
        jobctl("cancel", "instances", second, first)


def test_why_tells_about_schedules_too(jobctl: Jobctl, hourly: str) -> None:
    jobctl("schedules", "pause", hourly, "--note", "moving")
    assert jobctl("why", hourly, "-o", "json").json["reasons"][0] == "it is paused: moving"
    assert jobctl("why", "nothing-of-this-name").status == 3
