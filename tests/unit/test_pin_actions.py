"""The actions of the workflows get the hashes of their tags, from repositories of git."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "pin_actions.py"
AUTHOR = {f"GIT_{role}_{part}": "a@b" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
WORKFLOW = """steps:
  - uses: actions/checkout@v4
  - uses: actions/cache/restore@v4
  - uses: pypa/publish@release/v1
  - uses: some/other@0123456789012345678901234567890123456789 # v1
"""

pytestmark = [pytest.mark.one_python, pytest.mark.matrix("about a command of maintainers")]


class Hub:
    """Repositories in a folder, which git takes for those of GitHub."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            **AUTHOR,
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.file://{folder}/.insteadOf",
            "GIT_CONFIG_VALUE_0": "https://github.com/",
        }

    def git(self, repository: str, *arguments: str) -> str:
        home = self.folder / repository
        home.mkdir(parents=True, exist_ok=True)
        command = ["git", "-c", "init.defaultBranch=main", *arguments]
        done = subprocess.run(command, cwd=home, env=self.environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def repository(self, name: str, *refs: list[str]) -> str:
        """Make a repository with one commit, and run commands of git for its refs; the hash of the commit."""
        self.git(name, "init", "-q")
        self.git(name, "commit", "-q", "--allow-empty", "-m", name)
        for ref in refs:
            self.git(name, *ref)
        return self.git(name, "rev-parse", "main")


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path / "hub")


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    path = tmp_path / "tree" / ".github" / "workflows" / "test.yml"
    path.parent.mkdir(parents=True)
    path.write_text(WORKFLOW)
    return path


def ran(hub: Hub, workflow: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        cwd=workflow.parents[2],
        env=hub.environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_tags_and_branches_become_hashes_of_commits(hub: Hub, workflow: Path) -> None:
    checkout = hub.repository("actions/checkout", ["tag", "-a", "v4", "-m", "annotated"])
    cache = hub.repository("actions/cache", ["tag", "v4"])
    publish = hub.repository("pypa/publish", ["branch", "release/v1"])
    told = ran(hub, workflow, "--check")
    assert told.returncode == 1
    assert [line.partition(" ")[0] for line in told.stdout.splitlines()] == [
        "actions/cache@v4",
        "actions/checkout@v4",
        "pypa/publish@release/v1",
    ]

    assert ran(hub, workflow).returncode == 0

    pinned = f"""steps:
  - uses: actions/checkout@{checkout} # v4
  - uses: actions/cache/restore@{cache} # v4
  - uses: pypa/publish@{publish} # release/v1
  - uses: some/other@0123456789012345678901234567890123456789 # v1
"""
    assert workflow.read_text() == pinned
    assert ran(hub, workflow, "--check").returncode == 0
    assert ran(hub, workflow).returncode == 0
    assert workflow.read_text() == pinned


def test_an_unknown_tag_or_repository_is_one_line_and_changes_nothing(hub: Hub, workflow: Path) -> None:
    missing = ran(hub, workflow)
    assert missing.returncode == 1
    assert missing.stderr.startswith("pin_actions: git cannot read https://github.com/actions/cache: ")
    hub.repository("actions/cache", ["tag", "v3"])
    untagged = ran(hub, workflow)
    assert untagged.stderr == "pin_actions: https://github.com/actions/cache has neither a tag nor a branch v4\n"
    assert workflow.read_text() == WORKFLOW
