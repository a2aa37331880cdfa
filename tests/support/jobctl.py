"""`jobctl`, run in the test's own process against a node in another one."""

import contextlib
import io
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest

from peerjob.cli.console import run
from peerjob.cli.ctl.failures import refusal_of
from peerjob.cli.jobctl import app


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
            status = run(app, "jobctl", list(arguments), refusal_of)
        return Answer(status, out.getvalue(), err.getvalue())
