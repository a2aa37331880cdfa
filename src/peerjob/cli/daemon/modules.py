"""The modules with a daemon's jobs, which it can import again while it runs."""

from __future__ import annotations

import importlib
import logging
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import peerjob
from peerjob import Job, Node, OptionError
from peerjob.model.job import collect_jobs
from peerjob.model.listed import listed
from peerjob.node.body.errors import message_of

logger = logging.getLogger("peerjob.daemon")

Jobs = list[Job[..., Any, Any]]
_PACKAGE = f"{peerjob.__path__[0]}/"


class JobModules:
    """Modules by name. They are imported at the start, and again at a reload."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)

    def load(self) -> Jobs:
        """Import the modules; raises OptionError for a module that cannot be imported or has no job."""
        return [job for name in self._names for job in _jobs_of(name)]

    def reload(self, node: Node) -> None:
        """Import the modules again, with their submodules and the modules of their jobs, and register the jobs.

        Removed kinds are no longer registered, and running jobs continue with the old code. If the reload fails,
        nothing changes; raises OptionError, or ScheduleError for an invalid recurrence.
        """
        old = node.jobs()
        removed = self._forget(old)
        importlib.invalidate_caches()
        try:
            new = self.load()
            node.register(new)
        except BaseException:
            _restore(removed)
            raise
        before, after = {job.kind for job in old}, {job.kind for job in new}
        for kind in sorted(before - after):
            node.unregister(kind)
        logger.info(
            "reloaded the job modules: %d kind(s); new: %s; removed: %s",
            len(after),
            listed(after - before),
            listed(before - after),
        )

    def _forget(self, jobs: Jobs) -> dict[str, ModuleType]:
        """Remove the modules from sys.modules, so that the next import runs them again; the removed modules."""
        homes = {str(getattr(job.executor, "__module__", "")) for job in jobs if job.executor is not None}
        ours = {
            name
            for name in sys.modules
            if name in homes or any(f"{name}.".startswith(f"{given}.") for given in self._names)
        }
        return {name: sys.modules.pop(name) for name in ours - {"__main__"} if not f"{name}.".startswith("peerjob.")}


def _jobs_of(name: str) -> Jobs:
    if not name:
        raise OptionError("MODULE", name, "the name of a module with jobs, such as app.jobs")
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:  # the import runs user code, which can raise any error
        raise OptionError("MODULE", name, f"a module that can be imported ({_reason(name, error)})") from error
    jobs = collect_jobs(module)
    if not jobs:
        raise OptionError("MODULE", name, "a module with jobs (none of its attributes is a Job or a JobGroup)")
    return jobs


def _reason(name: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
        return f"there is no {error.name} in {sys.path[0]} or among what is installed"
    where = ""
    frames = traceback.extract_tb(error.__traceback__)
    if not isinstance(error, SyntaxError) and frames:
        # the line that calls peerjob, not the one of peerjob that refuses the call
        last = next((frame for frame in reversed(frames) if not frame.filename.startswith(_PACKAGE)), frames[-1])
        where = f" at {last.filename}:{last.lineno}"
    return f"{type(error).__name__}: {message_of(error)}{where}"


def _restore(modules: dict[str, ModuleType]) -> None:
    for name, module in modules.items():
        sys.modules[name] = module
        package, _, own = name.rpartition(".")
        if package in sys.modules:
            setattr(sys.modules[package], own, module)
