"""`jobd run` as a process, with jobs of the test's own."""

import itertools
import sys
from collections.abc import Mapping
from pathlib import Path

from support.processes import ChildProcess

JOBD = Path(sys.executable).with_name("jobd")
READY = "ready to run"
JOBS = '''
import asyncio
from pathlib import Path

from peerjob import Job


def double(x: int) -> int:
    return 2 * x


async def held(path: str) -> str:
    """Go on until a file exists."""
    while not Path(path).exists():
        await asyncio.sleep(0.02)
    return path


double_job = Job("double", double)
held_job = Job("held", held)
'''


class Jobd:
    """Starts daemons that run the module `shop.jobs` in a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.module = folder / "shop" / "jobs.py"
        self.module.parent.mkdir()
        self.module.with_name("__init__.py").touch()
        self.module.write_text(JOBS)
        self._serial = itertools.count(1)
        self.children: list[ChildProcess] = []

    def launch(self, *arguments: str, env: Mapping[str, str] | None = None) -> ChildProcess:
        """Start the command in the folder, without waiting for anything."""
        output = self.folder / f"jobd-{next(self._serial)}.log"
        child = ChildProcess([JOBD, *arguments], output=output, env=env, cwd=self.folder)
        self.children.append(child)
        return child

    def run(self, *options: str, env: Mapping[str, str] | None = None) -> ChildProcess:
        """Start a daemon that serves on any ports, and wait until it is at work."""
        ports = ("--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0")
        child = self.launch("run", "shop.jobs", *ports, *options, env=env)
        child.wait_for(READY)
        return child

    def close(self) -> None:
        for child in self.children:
            child.close()


def target(child: ChildProcess) -> str:
    """Where a daemon serves gRPC."""
    return child.wait_for(r"serves gRPC on (\S+?)\"?(,|$)")[1]
