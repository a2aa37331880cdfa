"""The commands on the pages of the documentation print the lines below them. CONTRIBUTING.md has the rules."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import django
import pytest

from support.etcd import StartEtcd
from support.pages import PORTS, Block, Command, Page, commands, pages, write
from support.pages import replace as replace_servers
from support.servers import StartServer, free_port
from support.terminals import Terminal

pytestmark = pytest.mark.matrix("runs the commands of the documentation, in real time")

WITH_COMMANDS = [page for page in pages() if page.has_commands]


@pytest.fixture
def replaced(start_server: StartServer, start_etcd: StartEtcd, page: Page) -> dict[str, str]:
    """The servers and the ports of this test, by those that the page names."""
    text = "".join(block.text for block in page.blocks)
    found = {port: str(free_port()) for port in PORTS}
    if "redis://localhost" in text:
        found["redis"] = start_server("redis").url
    if "valkey://localhost" in text:
        found["valkey"] = start_server("valkey").url
    if "etcd://localhost" in text:
        found["etcd"] = start_etcd().url
    return found


@pytest.fixture
def environment(replaced: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """A new user with the commands of this environment, on free ports."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PEERJOB_", "PYTHON", "VIRTUAL"))}
    return {
        **kept,
        "HOME": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PEERJOB_LISTEN": f"127.0.0.1:{replaced['59051']}",
        "PEERJOB_METRICS_LISTEN": f"127.0.0.1:{replaced['9090']}",
        "PEERJOB_ADDRESS": f"127.0.0.1:{replaced['59051']}",
        "NO_COLOR": "1",
    }


def for_this_django(block: Block) -> Block:
    """The block with the package django-tasks, as its page says for an old Django."""
    if django.VERSION >= (6, 0):
        return block
    text = re.sub(r"\bdjango\.tasks(\.\w+)? import", r"django_tasks\1 import", block.text)
    return replace(block, text=text.replace('"peerjob.django"]', '"peerjob.django", "django_tasks"]'))


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


# a page that takes its reader a quarter of an hour is longer than any other test
@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.name)
def test_the_commands_of_a_page_print_what_it_shows(
    page: Page, replaced: dict[str, str], environment: dict[str, str], cleanup: ExitStack, tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    terminals: dict[str, Terminal] = {}
    for block in page.blocks:
        if block.file is not None:
            write(for_this_django(block) if page.name == "django.md" else block, folder, replaced)
        elif block.language == "console":
            if block.title not in terminals:
                terminals[block.title] = cleanup.enter_context(closing(Terminal(folder, environment)))
            typed = commands(block)
            for command in typed:
                # a server may stay in the foreground of a terminal of its own
                stays = block.title != "" and command is typed[-1]
                terminals[block.title].run(
                    Command(text=replace_servers(command.text, replaced), shown=command.shown), to_the_end=not stays
                )
