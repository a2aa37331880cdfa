"""Clocks of nodes that are set wrong, by libfaketime."""

from collections.abc import Mapping
from pathlib import Path

from support.true_time import OFFSET, offset_ns

LIBRARY = Path("faketime", "libfaketimeMT.so.1")
FOLDERS = (
    Path("/usr/lib/x86_64-linux-gnu"),
    Path("/usr/lib/aarch64-linux-gnu"),
    Path("/usr/lib"),
    Path("/usr/local/lib"),
)
JUMP = 30.0
"""Seconds by which a clock is set forwards or back."""
WHY_NOT = "no libfaketime (Debian: apt-get install libfaketime)"


def faketime() -> Path | None:
    """The library that stands between a process and the clock of the machine."""
    return next((found for folder in FOLDERS if (found := folder / LIBRARY).exists()), None)


class FakeClock:
    """The wall clock of one process. The monotonic clocks of the process stay right, as when a clock is set."""

    def __init__(self, library: Path, file: Path) -> None:
        self._library = library
        self._file = file
        self.set(0.0)

    def set(self, ahead: float) -> None:
        """Set it so many seconds ahead of the machine's (behind, where negative)."""
        part = self._file.with_suffix(".part")
        part.write_text(f"{ahead:+.3f}\n")
        part.rename(self._file)  # no reader finds half of it

    @property
    def env(self) -> Mapping[str, str]:
        """The variables for the process."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",  # seconds; a file that is read at each look at the clock costs much
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            OFFSET: str(offset_ns()),
        }
