"""Make all of a release ready, and check it: `make release`, on a clean tree with the version and the changelog.

The steps without a program come first, so that a mistake costs no build. Each other step runs a target of make, and
keeps its output in build/release. The first step that fails ends the command with one line and the status 1. It makes
no tag and sends nothing: the last line names the commands that do.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path.cwd()
LOGS = Path("build", "release")
VERSION = re.compile(r"\d+\.\d+\.\d+((a|b|rc)\d+)?")
OF_MAKE = {"ARGS", "ENGINE", "FROM", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
"""What make hands down to its programs. A target that a step makes must not get the arguments of `make release`."""
FAILED = re.compile(r"make(\[\d+\])?: \*\*\* ")
ENTRY = re.compile(r"^- ", re.MULTILINE)


ENGINE = Path("tests", "compose", "run.sh")
"""Runs a command on the machine's Docker engine, or on one of its own."""


class RefusedError(Exception):
    """The tree is no release."""


class LeftOutError(Exception):
    """This machine cannot do the step."""


class Release:
    """The steps for one tree."""

    def __init__(self, earlier: str | None, engine: str) -> None:
        self.version = self._version()
        self._engine = engine
        self._earlier = earlier
        self.made: list[Path] = []
        """The files of the release."""

    @staticmethod
    def _version() -> str:
        text = (ROOT / "src" / "peerjob" / "version.py").read_text()
        found = re.search(r'^__version__ = "(.*)"$', text, re.MULTILINE)
        return found[1] if found else ""

    # -- what git and the documents say ------------------------------------------------------------------------------

    def tree(self) -> str:
        """Nothing differs from the commit."""
        changed = _git("status", "--porcelain").splitlines()
        if changed:
            raise RefusedError(
                f"{len(changed)} files differ from the commit, such as {changed[0][3:]}: commit or remove them"
            )
        return f"commit {_git('rev-parse', '--short', 'HEAD')}"

    def number(self) -> str:
        """The version is one, and no other commit has its tag."""
        if not VERSION.fullmatch(self.version):
            raise RefusedError(
                f"src/peerjob/version.py has {self.version!r}, expected a version such as 0.1.0 or 0.2.0rc1"
            )
        tagged = _git("rev-parse", "--quiet", "--verify", f"refs/tags/v{self.version}^{{commit}}", check=False)
        if tagged and tagged != _git("rev-parse", "HEAD"):
            raise RefusedError(
                f"the tag v{self.version} is another commit: raise __version__ in src/peerjob/version.py"
            )
        return self.version

    def changelog(self) -> str:
        """The section of the version has a date and entries, and all entries are in it."""
        titles, texts = _sections((ROOT / "CHANGELOG.md").read_text())
        unreleased = sum(
            len(ENTRY.findall(text)) for title, text in zip(titles, texts, strict=True) if title == "[Unreleased]"
        )
        if unreleased:
            raise RefusedError(f"CHANGELOG.md has {unreleased} entries under Unreleased: move them to [{self.version}]")
        for title, text in zip(titles, texts, strict=True):
            if re.fullmatch(rf"\[{re.escape(self.version)}\] - \d{{4}}-\d\d-\d\d", title):
                entries = len(ENTRY.findall(text))
                if not entries:
                    raise RefusedError(f"the section {title} of CHANGELOG.md has no entries")
                return f"{entries} entries"
        near = next((title for title in titles if self.version in title), "none")
        raise RefusedError(
            f"CHANGELOG.md has no section `## [{self.version}] - YYYY-MM-DD`; of this version it has: {near}"
        )

    def earlier(self) -> str:
        """There is an earlier release, or a commit in its place."""
        tag = _git("describe", "--tags", "--abbrev=0", "--match", "v[0-9]*", "HEAD^", check=False)
        self._earlier = self._earlier or tag
        if not self._earlier:
            raise RefusedError(
                "there is no earlier release to upgrade from: name a commit, as in make release FROM=COMMIT"
            )
        if not _git("rev-parse", "--quiet", "--verify", f"{self._earlier}^{{commit}}", check=False):
            raise RefusedError(f"git has no commit {self._earlier!r} to upgrade from")
        return self._earlier

    # -- what make builds --------------------------------------------------------------------------------------------

    def lint(self) -> str:
        """Style, types, and generated files that are fresh."""
        _run("lint", "make", "lint")
        return "style, types and generated files"

    def docs(self) -> str:
        """The site."""
        _run("docs", "make", "docs")
        return f"{_built(Path('build', 'site', 'index.html')).parent}"

    def dist(self) -> str:
        """The sdist and the wheel, in clean environments with each extra."""
        _run("dist", "make", "dist")
        names = (f"peerjob-{self.version}.tar.gz", f"peerjob-{self.version}-py3-none-any.whl")
        self.made += [_built(Path("dist", name)) for name in names]
        return ", ".join(names)

    def sbom(self) -> str:
        """The packages of the image."""
        _run("sbom", "make", "sbom")
        self.made.append(_built(Path("build", "sbom", "peerjob.cdx.json")))
        return str(self.made[-1])

    def image(self) -> str:
        """The image, which tells the version."""
        if not self._engine:
            self._need_engine()
        name = f"peerjob:{self.version}"
        command = 'docker build --tag "$0" . >&2; docker run --rm "$0" --version'
        # the engine's own preparations print lines before
        printed = _run("image", "sh", str(ENGINE), self._engine, "sh", "-euc", command, name)
        told = printed.strip().rpartition("\n")[2]
        if self.version not in told.split():
            raise RefusedError(f"the image tells the version {told!r}, expected {self.version}")
        return f"{name}, on stand-ins of its base images" if self._engine else name

    @staticmethod
    def _need_engine() -> None:
        other = "as root on Debian, ENGINE=own starts one"
        engine = shutil.which("docker")
        if engine is None:
            raise LeftOutError(f"there is no docker command; {other}")
        asked = subprocess.run([engine, "version", "--format", "{{.Server.Version}}"], capture_output=True, check=False)
        if asked.returncode:
            raise LeftOutError(f"no Docker engine answers (DOCKER_HOST, or its socket); {other}")

    def upgrade(self) -> str:
        """Nodes of the earlier release and of this one share a namespace, forwards and back."""
        _run("upgrade", "make", "upgrade", f"FROM={self._earlier}")
        return f"from {self._earlier} and back, on each store"

    def steps(self) -> dict[str, Callable[[], str]]:
        checks = {
            "tree": self.tree,
            "version": self.number,
            "changelog": self.changelog,
            "earlier release": self.earlier,
        }
        return checks | {
            "lint": self.lint,
            "docs": self.docs,
            "dist": self.dist,
            "sbom": self.sbom,
            "image": self.image,
            "upgrade": self.upgrade,
            # a target of make can have changed a file that git tracks
            "tree after all": self.tree,
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="earlier", help="the commit to upgrade from; default: the last tag")
    parser.add_argument(
        "--engine", default="", help="`own` starts a Docker engine for the image; default: the machine's"
    )
    given = parser.parse_args()
    release = Release(given.earlier or None, given.engine)
    left_out: list[str] = []
    for name, step in release.steps().items():
        began = time.monotonic()
        try:
            told = step()
        except LeftOutError as error:
            left_out.append(name)
            told = f"LEFT OUT: {error}"
        except RefusedError as error:
            print(f"make release: {name}: {error}", file=sys.stderr)
            return 1
        print(f"{name:16} {time.monotonic() - began:4.0f} s  {told}", flush=True)
    for path in release.made:
        print(f"{hashlib.sha256((ROOT / path).read_bytes()).hexdigest()}  {path}")
    if left_out:
        print(f"left out, so do it on another machine: {', '.join(left_out)}")
    tag = f"v{release.version}"
    print(f"all is ready. To publish: git tag --sign --message {tag} {tag} && git push origin {tag}")
    return 0


def _sections(text: str) -> tuple[list[str], list[str]]:
    """The titles and the texts of the sections of the changelog."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    return [title.strip() for title in parts[::2]], parts[1::2]


def _git(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RefusedError(f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout.rstrip() if done.returncode == 0 else ""


def _run(step: str, *command: str) -> str:
    """Run a program, and keep and return its output. Raises RefusedError."""
    log = LOGS / f"{step.replace(' ', '-')}.log"
    (ROOT / LOGS).mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name not in OF_MAKE}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    (ROOT / log).write_text(done.stdout)
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        # make names the target that failed, and waits for those beside it, which go on writing
        end = next((number for number, line in enumerate(lines) if FAILED.match(line)), len(lines))
        said = [line for line in lines[:end] if not line.startswith("make")] or lines or ["no output"]
        raise RefusedError(f"`{' '.join(command)}` failed: {said[-1].strip()} (all of it: {log})")
    return done.stdout


def _built(path: Path) -> Path:
    if not (ROOT / path).exists():
        raise RefusedError(f"{path} was not built")
    return path


if __name__ == "__main__":
    sys.exit(main())
