"""The blocks of code on the pages, and which of them the tests run. CONTRIBUTING.md has the rules."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RUN_ELSEWHERE = {
    "embedded.md": "tests/integration/test_embedded_nodes.py",
    "testing.md": "tests/unit/testing/test_plugin.py",
}
"""Pages with a test of their own."""
WITH_TESTS = ("cookbook", "guides")
"""The folders whose pages show tests, which tests/unit/testing/test_pages.py runs."""
PORTS = ("59051", "59052", "9090", "9091", "8000", "5000")
"""The ports on the pages, which tests replace by free ones."""
SERVERS = ("redis", "valkey", "etcd")
AT_THE_END = "at the end of the file"
"""The title of a block that is added to a file."""

_FENCE = re.compile(r"^( *)```(\w+)([^\n`]*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"\A(?:#|//) ([\w./-]+\.\w+|Dockerfile)\n")
_TITLE = re.compile(r'title="(.*?)"')


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of code."""

    language: str
    file: str | None
    """The name in its first line, if that is a comment with nothing but the name of a file."""
    title: str
    text: str
    line: int
    """The line of the page before the first line of the text."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page, and the blocks that are to be run."""

    name: str
    blocks: tuple[Block, ...]

    @property
    def has_commands(self) -> bool:
        return any(block.language == "console" for block in self.blocks)


def pages() -> list[Page]:
    """The pages with blocks that the tests of pages run."""
    paths = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    found = [read_page(path) for path in paths if path.parent.name != "decisions"]
    return [page for page in found if page.blocks and page.name not in RUN_ELSEWHERE]


def read_page(path: Path) -> Page:
    name = path.relative_to(DOCS).as_posix() if path.is_relative_to(DOCS) else path.name
    return Page(name=name, blocks=tuple(_blocks(path.read_text())))


def _blocks(page: str) -> list[Block]:
    found: list[Block] = []
    for fence in _FENCE.finditer(page):
        indent, language, info, text = fence.groups()
        # a block may stand in a list or in a tab
        text = re.sub(f"^{indent}", "", text, flags=re.MULTILINE)
        file, title = _FILE.match(text), _TITLE.search(info)
        if "notest" in info or not (file or language in ("python", "console")):
            continue
        found.append(
            Block(
                language=language,
                file=file[1] if file else None,
                title=title[1] if title else "",
                text=text,
                line=page.count("\n", 0, fence.start(4)),
            )
        )
    return found


def write(block: Block, folder: Path, replaced: Mapping[str, str]) -> Path:
    """Write the file of a block, or add to its end if the title says so."""
    assert block.file is not None
    path = folder / block.file
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a" if block.title == AT_THE_END else "w") as file:
        file.write(replace(block.text, replaced))
    return path


def replace(text: str, replaced: Mapping[str, str]) -> str:
    """The text with other servers and ports."""
    for server in SERVERS:
        if server in replaced:
            text = re.sub(rf"\b{server}://localhost(:\d+)?", replaced[server], text)
    return re.sub(rf"\b({'|'.join(PORTS)})\b", lambda port: replaced.get(port[0], port[0]), text)


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of a `console`, or a `^C`, with the lines that it shows. An empty text continues the last command."""

    text: str
    shown: tuple[str, ...]


def commands(block: Block) -> list[Command]:
    """The commands of a block, each with its continuation lines."""
    found: list[tuple[str, list[str]]] = []
    continued = False
    for line in block.text.splitlines():
        if continued:
            found[-1] = (f"{found[-1][0]}\n{line.removeprefix('> ')}", found[-1][1])
        elif line.startswith("$ "):
            found.append((line[2:], []))
        elif line == "^C":
            found.append((line, []))
        elif line.strip():
            found = found or [("", [])]
            found[-1][1].append(line)
        continued = line.endswith("\\") and not found[-1][1]
    return [Command(text=text, shown=tuple(shown)) for text, shown in found]


_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_PART = re.compile(rf"(?P<any>…|\.\.\.)|(?P<id>{_UUID})|(?P<number>\d[\d.,:]*)|(?P<blank>\s+)|(?P<text>.)")


def pattern(line: str) -> re.Pattern[str]:
    """A pattern of a line that is printed: numbers, ids and the lengths of blanks do not count."""
    parts: list[str] = []
    for part in _PART.finditer(line.strip()):
        match part.lastgroup:
            case "any":
                parts.append(".*")
            case "id":
                parts.append(_UUID)
            case "number":
                parts.append(r"\d[\d.,:]*")
            case "blank":
                parts.append(r"\s+")
            case _:
                parts.append(re.escape(part[0]))
    return re.compile("".join(parts))


def first_missing(shown: tuple[str, ...], printed: list[str]) -> str | None:
    """The first of the shown lines that was not printed after those before it."""
    rest = iter(printed)
    for line in shown:
        wanted = pattern(line)
        if not any(wanted.fullmatch(one.strip()) for one in rest):
            return line
    return None


# -- pages that show tests -------------------------------------------------------------------------------------------


def files(page: Path) -> dict[str, str]:
    """The Python files that a page shows."""
    found: dict[str, str] = {}
    for block in read_page(page).blocks:
        if block.language == "python":
            assert block.file, f"{page.name}: a Python block begins with the name of its file, or is marked notest"
            assert block.file not in found, f"{page.name} shows {block.file} twice"
            found[block.file] = block.text
    return found
