"""Small file systems, which can be filled."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path

WHY_NOT = "only root can mount a small file system, and a container may forbid it"


class SmallDisk:
    """A mounted file system of its own, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def full(self) -> Generator[None]:
        """No byte more fits on it."""
        ballast = self.folder / "ballast"
        try:
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                room = os.statvfs(self.folder)
                with contextlib.suppress(OSError):
                    os.posix_fallocate(file.fileno(), 0, max(1, room.f_bavail * room.f_frsize))
                file.seek(0, os.SEEK_END)
                while file.write(b"x" * 4096):
                    pass
            yield
        finally:
            ballast.unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk(size: str) -> Generator[SmallDisk | None]:
    """A file system of this size, such as "256m"; None where this process cannot mount one."""
    mount = shutil.which("mount")
    with tempfile.TemporaryDirectory(prefix="disk-") as home:
        folder = Path(home, "disk")
        folder.mkdir()
        command = [str(mount), "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if os.getuid() or mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
            yield None
            return
        try:
            yield SmallDisk(folder)
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
