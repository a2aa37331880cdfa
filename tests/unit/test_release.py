"""`make release` refuses what is no release in one line, and makes each part of one."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "release.py"
CHANGES = """# Changelog

## [Unreleased]

## [0.2.0] - 2026-11-30

### Added

- A thing.
- Another thing.

## [0.1.0] - 2026-10-01

- The first version.
"""
MAKEFILE = """lint:
\t@echo style
docs:
\t@mkdir -p build/site && touch build/site/index.html
dist:
\t@mkdir -p dist && touch dist/peerjob-0.2.0.tar.gz dist/peerjob-0.2.0-py3-none-any.whl
sbom:
\t@mkdir -p build/sbom && touch build/sbom/peerjob.cdx.json
upgrade:
\t@echo upgraded from $(FROM)
"""
DOCKER = """#!/bin/sh
case $1 in
version) echo 27.0 ;;
build) echo built ;;
run) echo "peerjob 0.2.0" ;;
esac
"""

pytestmark = [pytest.mark.one_python, pytest.mark.matrix("about a command of maintainers")]


class Tree:
    """A repository with what a release is made of. A target of its Makefile makes an empty file."""

    def __init__(self, home: Path, programs: Path) -> None:
        self.home = home
        self.programs = programs
        names = {f"GIT_{role}_{part}": "a@b" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
        self._environment = {
            **names,
            "PATH": f"{programs}:/usr/bin:/bin",
            "HOME": str(home),
            "DOCKER_HOST": "unix:///nowhere",
            "ARGS": "--arguments-of-the-release",
        }
        programs.mkdir(parents=True)
        home.mkdir(parents=True)
        self.git("init", "--quiet")
        self.write("src/peerjob/version.py", '__version__ = "0.2.0"\n')
        self.write("CHANGELOG.md", CHANGES)
        self.write("Makefile", MAKEFILE)
        self.write("tests/compose/run.sh", 'test "$1" = "" || echo "starting an engine ($1)"; shift; exec "$@"\n')
        self.write(".gitignore", "build\ndist\n")
        self.commit()

    def write(self, name: str, text: str) -> None:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def program(self, name: str, text: str) -> None:
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def git(self, *arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=self.home, env=self._environment, check=True)

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "A change")

    def release(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, SCRIPT, *arguments],
            cwd=self.home,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def refusal(self, *arguments: str) -> str:
        """What the command says when it refuses: one line."""
        done = self.release(*arguments)
        assert done.returncode == 1, done.stdout + done.stderr
        (line,) = done.stderr.splitlines()
        return line.removeprefix("make release: ")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path / "tree", tmp_path / "bin")
    made.git("tag", "v0.1.0")
    made.commit()
    return made


def test_a_release_is_made_of_all_parts(tree: Tree) -> None:
    tree.program("docker", DOCKER)
    done = tree.release()
    assert done.returncode == 0, done.stderr
    steps = [line.partition("  ")[0].strip() for line in done.stdout.splitlines() if " s  " in line]
    assert steps == [
        *("tree", "version", "changelog", "earlier release", "lint", "docs", "dist", "sbom", "image", "upgrade"),
        "tree after all",
    ]
    made = [line.split()[1] for line in done.stdout.splitlines() if len(line.partition(" ")[0]) == 64]
    assert made == [
        "dist/peerjob-0.2.0.tar.gz",
        "dist/peerjob-0.2.0-py3-none-any.whl",
        "build/sbom/peerjob.cdx.json",
    ]
    assert (tree.home / "build" / "release" / "upgrade.log").read_text() == "upgraded from v0.1.0\n"
    assert "left out" not in done.stdout
    assert done.stdout.endswith("git tag --sign --message v0.2.0 v0.2.0 && git push origin v0.2.0\n")


def test_a_machine_without_an_engine_leaves_the_image_out_and_says_so(tree: Tree) -> None:
    tree.program("docker", "#!/bin/sh\nexit 1\n")
    done = tree.release("--from", "HEAD^")
    assert done.returncode == 0, done.stderr
    assert "LEFT OUT: no Docker engine answers" in done.stdout
    assert "left out, so do it on another machine: image\n" in done.stdout
    assert (tree.home / "build" / "release" / "upgrade.log").read_text() == "upgraded from HEAD^\n"


def test_an_engine_of_its_own_builds_the_image(tree: Tree) -> None:
    tree.program("docker", DOCKER.replace("version) echo 27.0", "version) exit 1"))
    done = tree.release("--engine", "own")
    assert done.returncode == 0, done.stderr
    assert "peerjob:0.2.0, on stand-ins of its base images\n" in done.stdout
    assert (tree.home / "build" / "release" / "image.log").read_text().startswith("starting an engine (own)\n")


def test_a_tree_that_is_not_a_commit_is_refused(tree: Tree) -> None:
    tree.write("new.py", "")
    assert tree.refusal() == "tree: 1 files differ from the commit, such as new.py: commit or remove them"


def test_a_version_is_released_once(tree: Tree) -> None:
    tree.git("tag", "v0.2.0", "HEAD^")
    assert tree.refusal().startswith("version: the tag v0.2.0 is another commit: raise __version__")
    tree.git("tag", "--delete", "v0.2.0")
    tree.git("tag", "v0.2.0")
    assert tree.release().returncode == 0
    tree.write("src/peerjob/version.py", '__version__ = "0.2.x"\n')
    tree.commit()
    assert tree.refusal().startswith("version: src/peerjob/version.py has '0.2.x'")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("[Unreleased]\n", "[Unreleased]\n\n- Late.\n- Later.\n", "2 entries under Unreleased: move them to [0.2.0]"),
        (
            "[0.2.0] - 2026-11-30",
            "[0.2.0] - unreleased",
            "no section `## [0.2.0] - YYYY-MM-DD`; of this version it has: [0.2.0] - u",
        ),
        (
            "[0.2.0] - 2026-11-30",
            "[0.3.0] - 2026-11-30",
            "no section `## [0.2.0] - YYYY-MM-DD`; of this version it has: none",
        ),
        ("- A thing.\n- Another thing.\n", "", "the section [0.2.0] - 2026-11-30 of CHANGELOG.md has no entries"),
    ],
)
def test_the_changelog_tells_of_the_version(tree: Tree, old: str, new: str, told: str) -> None:
    tree.write("CHANGELOG.md", CHANGES.replace(old, new))
    tree.commit()
    refusal = tree.refusal()
    assert refusal.startswith("changelog: ")
    assert told in refusal


def test_the_first_release_names_a_commit_to_upgrade_from(tree: Tree) -> None:
    tree.git("tag", "--delete", "v0.1.0")
    assert tree.refusal().startswith("earlier release: there is no earlier release to upgrade from: name a commit")
    assert tree.refusal("--from", "nonsense") == "earlier release: git has no commit 'nonsense' to upgrade from"
    assert tree.release("--from", "HEAD^").returncode == 0


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "@echo style",
            "@echo bad style; exit 3",
            "lint: `make lint` failed: bad style (all of it: build/release/lint.log)",
        ),
        (
            "@echo style",
            "@echo bad style; echo 'make[1]: *** [Makefile:2: style] Error 3' >&2; echo types are fine; exit 2",
            "lint: `make lint` failed: bad style (all of it: build/release/lint.log)",
        ),
        ("peerjob-0.2.0.tar.gz", "peerjob-0.1.9.tar.gz", "dist: dist/peerjob-0.2.0.tar.gz was not built"),
        ("@echo upgraded", "@touch new; echo upgraded", "tree after all: 1 files differ from the commit, such as new"),
    ],
)
def test_a_step_that_fails_is_one_line(tree: Tree, old: str, new: str, told: str) -> None:
    tree.write("Makefile", MAKEFILE.replace(old, new))
    tree.commit()
    assert tree.refusal().startswith(told)


def test_an_image_of_another_version_is_refused(tree: Tree) -> None:
    tree.program("docker", DOCKER.replace("0.2.0", "0.1.0"))
    assert tree.refusal() == "image: the image tells the version 'peerjob 0.1.0', expected 0.2.0"
