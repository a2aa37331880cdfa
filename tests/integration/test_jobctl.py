"""Each verb of jobctl, against a node in a process of its own, on Redis."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from peerjob import __version__
from support.jobctl import Jobctl
from support.processes import ChildProcess
from support.servers import Server

NOWHERE = "127.0.0.1:1"


@pytest.fixture(scope="module")
def target(redis_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    output = tmp_path_factory.mktemp("node") / "output"
    node = ChildProcess.python(
        "support.served_node", redis_server.url, f"ctl-{uuid4().hex[:8]}", "--name", "one", output=output
    )
    with node:
        yield node.wait_for(r"^serves (\S+)$").group(1)


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


def test_the_jobs_of_a_node_are_listed(jobctl: Jobctl) -> None:
    assert jobctl("list", "jobs", "-o", "name").lines == ["add", "fail", "nightly", "slow"]
    header, *rows = jobctl("list", "jobs").lines
    assert header.split() == ["KIND", "RECURS", "DESCRIPTION"]
    assert rows[0].split(maxsplit=2) == ["add", "-", "adds two numbers"]
    assert rows[2].split() == ["nightly", "0", "3", "*", "*", "*", "recurs"]
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


def test_an_unknown_instance_and_what_is_no_id_are_told_apart(jobctl: Jobctl) -> None:
    assert jobctl("get", "instance", str(uuid4())).status == 3
    assert jobctl("get", "instance", "twelve").status == 2


def test_no_node_is_one_line_that_says_what_to_do() -> None:
    answer = Jobctl({"PEERJOB_ADDRESS": NOWHERE})("list", "jobs")
    assert (answer.status, answer.out) == (4, "")
    assert len(answer.err.splitlines()) == 1
    assert "--address" in answer.err


def test_the_command_works_as_a_program(target: str) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("jobctl"), "get", "version", "-o", "name", "--address", target],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__}\n", "")
