"""`jobctl`, run in the test's own process against daemons in others."""

import contextlib
import io
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main

from peerjob.cli.console import run
from peerjob.cli.ctl.errors import error_report
from peerjob.cli.jobctl import app
from support.jobd import READY, Jobd
from support.processes import ChildProcess
from support.waiting import PATIENCE

TESTS = Path(__file__).parents[1]
ROOT = typer.main.get_command(app)


def verbs(command: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """The verbs below a command, each as the words that name it."""
    below = getattr(command, "commands", None)
    if below is None:
        yield path
    for name, one in (below or {}).items():
        yield from verbs(one, *path, name)


VERBS = sorted(verbs(ROOT))


class Answer(NamedTuple):
    """What a command left."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        assert self.status == 0, self.err
        return self.out.splitlines()


class Jobctl:
    """Runs verbs; `environment` is all that the command finds of PEERJOB_*."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = {"PEERJOB_CONFIG": "", "XDG_CONFIG_HOME": "/nonexistent", **environment}

    def __call__(self, *arguments: str, **environment: str) -> Answer:
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            for name, value in {**self._environment, **environment}.items():
                patch.setenv(name, value)
            status = run(ROOT, "jobctl", list(arguments), error_report)
        return Answer(status, out.getvalue(), err.getvalue())


def begun(jobctl: Jobctl, uuid: str) -> str:
    """Wait until an instance runs, and say on which node."""
    until = time.monotonic() + PATIENCE
    while (found := jobctl("get", "instance", uuid, "-o", "json").json)["state"] != "Processing":
        assert time.monotonic() < until, found
    return str(found["node"])


def serving(jobd: Jobd, url: str, namespace: str, name: str = "one", *options: str) -> ChildProcess:
    """A daemon with the jobs of `support.served_jobs`, at work."""
    child = jobd.launch(
        *("run", "support.served_jobs", "--app-dir", str(TESTS), "--store", url, "--namespace", namespace),
        *("--name", name, "--workers", "4", "--listen", "127.0.0.1:0"),
        *("--metrics-listen", "127.0.0.1:0", *options),
    )
    child.wait_for(READY)
    return child
