"""Draw the terminal pictures of the documentation from real runs: `make demo`, and `jobctl top` in three widths.

Each picture is the last screen of a command in a terminal, as an SVG in docs/assets. Run it on a quiet machine:

    make pictures            # all
    make pictures ARGS=top   # only the names that begin with this
"""

from __future__ import annotations

import asyncio
import io
import itertools
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pexpect
import pyte
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.style import Style
from rich.text import Text

from peerjob import Node

ASSETS = Path(__file__).parents[1] / "docs" / "assets"
BIN = Path(sys.executable).parent
LINES = 60
JOB = re.compile(r"^ *[\d.]+s  (?:slow \d+|the kill of \S+) is ")
TOP_WIDTHS = (60, 80, 120)
TOP_SECONDS = 65
"""The bars of `top` show a minute."""
FONT = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
# the template of rich loads a font from another host
FORMAT = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace(
    "Fira Code, monospace", FONT
)
JOBS = """
import asyncio

from peerjob import job


@job(kind="mail.send")
async def send(seconds: float) -> None:
    await asyncio.sleep(seconds)


@job(kind="report.make", max_retries=0)
async def make(seconds: float) -> None:
    await asyncio.sleep(seconds)
    if seconds > 7.5:
        raise ValueError("no data")


@job(kind="stock.count", every="5s")
async def count() -> None:
    await asyncio.sleep(0.2)
"""


def main() -> None:
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    if "demo".startswith(wanted):
        draw("demo", "jobd demo", without_jobs(screen([BIN / "jobd", "demo"], columns=92)))
    if "top".startswith(wanted):
        for width, lines in zip(TOP_WIDTHS, top_screens(), strict=True):
            draw(f"top-{width}", "jobctl top", lines)


# -- terminals -------------------------------------------------------------------------------------------------------


def screen(command: list[str | Path], *, columns: int, **environment: str) -> list[Text]:
    """Run a command in a terminal, and return its last screen without empty lines at its end."""
    shown = pyte.Screen(columns, LINES)
    stream = pyte.Stream(shown)
    with tempfile.TemporaryDirectory() as folder:
        child: pexpect.spawn[str] = pexpect.spawn(
            str(command[0]),
            [str(word) for word in command[1:]],
            cwd=folder,
            env={"PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin:/usr/sbin", "TERM": "xterm-256color", **environment},
            dimensions=(LINES, columns),
            encoding="utf-8",
            timeout=300,
        )
        while True:
            try:
                stream.feed(child.read_nonblocking(65_536, timeout=300))
            except pexpect.EOF:
                break
        child.close()
    if child.exitstatus:
        raise SystemExit(f"{command} failed:\n" + "\n".join(shown.display))
    lines = list(_styled(shown))
    while lines and not lines[-1].plain.strip():
        lines.pop()
    return lines


def _styled(shown: pyte.Screen) -> Iterator[Text]:
    for row in range(shown.lines):
        chars = (shown.buffer[row][column] for column in range(shown.columns))
        text = Text()
        for style, run in itertools.groupby(chars, _style):
            text.append("".join(char.data for char in run), style)
        text.rstrip()
        yield text


def _style(char: Any) -> Style:
    # the terminal calls its dark yellow brown
    color = {"default": None, "brown": "yellow"}.get(char.fg, char.fg)
    return Style(color=color, bold=char.bold)


def without_jobs(lines: list[Text]) -> list[Text]:
    """The lines, with dots for those of single jobs."""
    texts: list[Text] = []
    for omitted, run in itertools.groupby(lines, lambda line: bool(JOB.search(line.plain))):
        texts += [Text("     …", Style(dim=True))] if omitted else run
    return texts


def draw(name: str, title: str, lines: list[Text]) -> None:
    """Write a picture of the lines."""
    width = max(len(line.plain) for line in lines) + 1
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    for line in lines:
        console.print(line, no_wrap=True, crop=False)
    path = ASSETS / f"{name}.svg"
    path.write_text(console.export_svg(title=title, code_format=FORMAT, unique_id=name))
    print(path)


# -- a cluster to look at --------------------------------------------------------------------------------------------


def top_screens() -> list[list[Text]]:
    """The screens of `jobctl top` after a minute with two busy nodes."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as nodes:
        folder = Path(name)
        (folder / "shop.py").write_text(JOBS)
        store = f"sqlite://{folder}/peerjob.db?sync=normal"
        address = _started(nodes, folder, store, "web-1", "127.0.0.1:0")
        _started(nodes, folder, store, "web-2", "127.0.0.1:0")
        return asyncio.run(_screens(store, address))


def _started(nodes: ExitStack, folder: Path, store: str, name: str, listen: str) -> str:
    """Start a node, and return where it serves."""
    options = ("--store", store, "--name", name, "--listen", listen, "--workers", "4", "--metrics-listen", "off")
    child = subprocess.Popen([BIN / "jobd", "run", "shop", *options], cwd=folder, stderr=subprocess.PIPE, text=True)
    nodes.callback(child.wait)
    nodes.callback(child.terminate)
    assert child.stderr is not None
    printed = ""
    for line in child.stderr:
        printed += line
        if "ready to run" in line:
            break
    match = re.search(r"serves gRPC on (\S+)", printed)
    if match is None:
        raise SystemExit(printed)
    return match[1]


async def _screens(store: str, address: str) -> list[list[Text]]:
    command: list[str | Path] = [BIN / "jobctl", "--address", address, "top", "--count", str(TOP_SECONDS)]
    async with Node(store, workers=0, allow_unknown=True, name="shop") as node:
        working = asyncio.create_task(work(node))
        screens = await asyncio.gather(*(asyncio.to_thread(screen, command, columns=width) for width in TOP_WIDTHS))
        working.cancel()
        return screens


async def work(node: Node) -> None:
    """Schedule more work than the nodes can do at times, and some of a kind that no node runs."""
    await node.schedule("video.encode", "intro.mov")
    for second in range(TOP_SECONDS * 2):
        mails = round(5 + 4 * math.sin(second / 6))
        for number in range(mails):
            await node.schedule("mail.send", 0.3 + 0.05 * number)
        if second % 3 == 0:
            await node.schedule("report.make", 2.0 + second % 7)
        if second % 20 == 10:
            await node.schedule("video.encode", f"part-{second}.mov")
        await asyncio.sleep(1)


if __name__ == "__main__":
    main()
