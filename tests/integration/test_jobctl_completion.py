"""What the shell offers after TAB, asked as bash asks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

JOBCTL = Path(sys.executable).with_name("jobctl")


def offered(line: str, **environment: str) -> list[str]:
    """The words for the end of a line; the last word may be empty."""
    asked = {"_JOBCTL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    ran = subprocess.run(
        [JOBCTL], env=os.environ | asked | environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stderr == ""
    return ran.stdout.split()


ALIKE = pytest.mark.matrix("the names of kinds and schedules stay in make test for another command")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("jobctl list instances --kind ", {"add", "fail", "nightly", "slow"}),
        pytest.param("jobctl schedule a", {"add"}, marks=ALIKE),
        ("jobctl schedules pause ", {"nightly"}),
        pytest.param("jobctl get schedule n", {"nightly"}, marks=ALIKE),
        ("jobctl drain ", {"one"}),
    ],
)
def test_names_come_from_the_live_cluster(target: str, line: str, words: set[str]) -> None:
    end, offers = line.rpartition(" ")[2], offered(line, PEERJOB_ADDRESS=target)
    assert words <= {*offers}
    assert all(word.startswith(end) for word in offers)


def test_options_of_the_connection_count(target: str) -> None:
    assert offered(f"jobctl --address {target} drain ") == ["one"]
    assert offered(f"jobctl drain --address {target} ") == ["one"]


def test_states_need_no_cluster() -> None:
    assert offered("jobctl list instances --state c") == ["created", "cancelled", "completed"]


def test_contexts_come_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[contexts.shop]\nport = 1\n[contexts.staging]\nport = 2\n[contexts.other]\nport = 3\n")

    assert offered("jobctl --context s", PEERJOB_CONFIG=str(file)) == ["shop", "staging"]
    assert offered("jobctl --context s", PEERJOB_CONFIG=str(tmp_path / "missing.toml")) == []


def test_a_cluster_that_does_not_answer_completes_nothing() -> None:
    assert offered("jobctl drain ", PEERJOB_ADDRESS="127.0.0.1:1") == []
