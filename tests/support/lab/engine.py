"""A podman that leaves nothing behind, and the image of a node in it."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from support.deploying import ROOT
from support.servers import MissingServerError

IMAGE = "peerjob:0.1.0"
BASE = "peerjob-test-root"
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
"""Else podman asks for more than a process without CAP_SYS_RESOURCE may have."""
_PYTHON = """FROM peerjob-test-root
RUN python3 -m venv /usr/local
COPY wheels /wheels
RUN printf '[global]\\nno-index = true\\nfind-links = /wheels\\n' >/etc/pip.conf
CMD ["python3"]
"""
_HOLD = "umount /sys/fs/cgroup/unified 2>/dev/null; echo ready; exec cat"
"""crun refuses the hybrid of both versions of cgroups, so the mount namespace of podman has the first one only."""


class Engine:
    """Runs podman in a mount namespace of its own, with images in build/pods; one at a time."""

    def __init__(self, holder: int) -> None:
        images = ROOT / "build" / "pods"
        images.mkdir(parents=True, exist_ok=True)
        # podman remembers this folder, too; the names of sockets in it must stay short
        state = Path(tempfile.gettempdir(), f"pods-{zlib.crc32(str(ROOT).encode()):08x}")
        folders = ("--root", str(images), "--runroot", str(state), "--tmpdir", str(state / "tmp"))
        self._words = ["nsenter", "-m", "-t", str(holder), "podman", *folders]

    async def run(self, *words: str | Path, check: bool = True, text: str | None = None) -> str:
        """Run a command of podman and return its output; raises RuntimeError if it fails."""
        process = await asyncio.create_subprocess_exec(
            *self._words,
            *map(str, words),
            stdin=subprocess.DEVNULL if text is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"},
        )
        out, errors = await process.communicate(None if text is None else text.encode())
        if check and process.returncode:
            raise RuntimeError(f"podman {' '.join(map(str, words))}: {errors.decode().strip()[-2000:]}")
        return out.decode().strip()

    async def clear(self) -> None:
        """Remove all containers."""
        for words in (("pod", "rm", "--time", "0", "--force"), ("rm", "--time", "0", "--force"), ("secret", "rm")):
            await self.run(*words, "--all", check=False)

    async def build(self) -> None:
        """Build the image of a node from this tree, upon a Debian root file system and its Python."""
        base = ROOT / "build" / "compose"
        await asyncio.to_thread(_base, base)
        build = ("build", "--quiet", "--network", "none", "--pull=never", "--format", "docker", *LIMITS)
        if not await self.run("images", "--quiet", BASE):
            await self.run("import", "--quiet", base / "root.tar", BASE)
        python = next(
            line.partition("=")[2]
            for line in (ROOT / "Dockerfile").read_text().splitlines()
            if line.startswith("ARG PYTHON_IMAGE=")
        )
        (base / "Dockerfile.pods").write_text(_PYTHON)
        await self.run(*build, "--tag", f"docker.io/library/{python}", "--file", base / "Dockerfile.pods", base)
        await self.run(*build, "--tag", IMAGE, ROOT)


@asynccontextmanager
async def engine() -> AsyncGenerator[Engine]:
    """A podman; raises MissingServerError where it cannot run."""
    if os.getuid() or not all(shutil.which(word) for word in ("podman", "crun", "nsenter", "unshare", "kubectl")):
        raise MissingServerError("pods need root, podman, crun and kubectl (Debian: podman crun kubernetes-client)")
    holder = await asyncio.create_subprocess_exec(
        *("unshare", "--mount", "sh", "-c", _HOLD), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    try:
        await holder.stdout.readline()
        yield Engine(holder.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            holder.kill()
        await holder.wait()


def _base(folder: Path) -> None:
    command = ["sh", str(ROOT / "tests" / "compose" / "base.sh"), str(folder), "files"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingServerError(f"no root file system could be made: {done.stderr.strip()[-500:]}")
