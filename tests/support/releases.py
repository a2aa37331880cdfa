"""Two releases for a test of upgrades: the previous one, and this tree.

Until there is a release, both are made of this tree: nodes of the later one add to each record that they write what a
later release could add (`support.builds`). From the first release tag on, the earlier nodes run the tagged tree. The
variable UPGRADE_FROM names another commit to begin with.

`before_flows` is the last tree that reads no namespace with steps and children. A clone without its commit has a
node of this tree instead, which tells that it reads an older layout.
"""

import os
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from peerjob.store.rules import FLOWS_LAYOUT

ROOT = Path(__file__).parents[2]
BEFORE_FLOWS = "d5f24e20ab5c59a016b2a8210df904c6e887d034"


@dataclass(frozen=True)
class Release:
    """A tree that node processes run."""

    name: str
    root: Path = ROOT
    adds: bool = False
    """Whether its nodes add to records what this tree does not know."""
    reads: int = 0
    """The highest layout that its nodes read, if it is lower than that of the tree."""

    @property
    def path(self) -> str:
        """Where Python looks for the package and for the test helpers of this release."""
        return f"{self.root / 'src'}:{self.root / 'tests'}"


def two_releases(folder: Path) -> tuple[Release, Release]:
    """The earlier and the later release; the tree of a tag or a commit is unpacked into the folder."""
    commit = os.environ.get("UPGRADE_FROM") or latest_tag()
    if commit is None:
        return Release("this tree"), Release("a later one", adds=True)
    return unpacked(commit, folder), Release("this tree")


def before_flows(folder: Path) -> Release:
    """The last tree without layout 4; this tree, if the clone is too shallow, or if there is no git."""
    command = ["git", "cat-file", "-e", f"{BEFORE_FLOWS}^{{tree}}"]
    try:
        is_there = subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        is_there = False
    return unpacked(BEFORE_FLOWS, folder) if is_there else Release("an older layout", reads=FLOWS_LAYOUT - 1)


def latest_tag() -> str | None:
    """The latest release before this commit; None if there is none, or no git."""
    command = ["git", "describe", "--tags", "--abbrev=0", "--match", "v[0-9]*", "HEAD^"]
    try:
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return found.stdout.strip() or None


def unpacked(commit: str, folder: Path) -> Release:
    """The tree of a commit."""
    archive, root = folder / "release.tar", folder / "release"
    subprocess.run(["git", "archive", f"--output={archive}", commit], cwd=ROOT, check=True)
    with tarfile.open(archive) as packed:
        packed.extractall(root, filter="tar")
    return Release(commit, root)
