"""Hooks of MkDocs: what the site has beyond the pages, and what differs between the site and GitHub.

A page is plain Markdown that GitHub shows, too. On the site, the hooks

* draw diagrams (blocks of mermaid) as pictures, so that no script draws them in the reader's browser,
* point a link to a file outside of docs/ at the repository,
* make anew what generate_reference.py wrote into the pages of the reference, with links between names,
* list the decisions on their page,
* refuse a page that loads anything from another host.

The types of MkDocs are not named here: linters run where MkDocs is not installed.
"""

import base64
import os
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REPOSITORY = "https://github.com/peerjob/peerjob/blob/main/"
LINK = re.compile(r"\]\((?!\w+:)([^)\s#]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
FOREIGN = re.compile(
    r'<(?:script|img|iframe|source)\b[^>]*\bsrc="(?:https?:)?//[^"]*"|<link\b[^>]*\bhref="(?:https?:)?//[^"]*"'
)
FLAG = re.compile(r"^(```\w+.*?) notest\b", re.MULTILINE)


def on_config(config: Any) -> None:
    """Let the blocks of mermaid become pictures, and find the sibling of this file."""
    sys.path.insert(0, str(Path(__file__).parent))
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {})
    fences["custom_fences"] = [{"name": "mermaid", "class": "mermaid", "format": draw}]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page as the site has it."""
    folder = (DOCS / page.file.src_uri).parent
    text = import_module("generate_reference").PIECE.sub(_piece, markdown)
    text = FLAG.sub(r"\1", text)
    if page.file.src_uri == "decisions/README.md":
        text += _decisions(folder)
    return _outside_of_fences(text, folder)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """The page, if it loads nothing from another host."""
    if match := FOREIGN.search(output):
        raise import_module("mkdocs.exceptions").PluginError(f"{page.file.src_uri} loads {match[0]}")
    return output


def draw(source: str, *_: Any, **__: Any) -> str:
    """A diagram as a picture inside of the page."""
    try:
        picture: str = import_module("mmdr").render(source).svg()
    except Exception as error:
        # the extension that calls this function swallows each other error
        raise import_module("pymdownx.superfences").SuperFencesException(f"a diagram: {error}") from error
    data = base64.b64encode(picture.encode()).decode()
    return f'<div class="diagram"><img alt="diagram" src="data:image/svg+xml;base64,{data}"></div>'


def _piece(match: re.Match[str]) -> str:
    what, name = match.groups()
    if what == "part":
        return str(import_module("docs_parts").part(name))
    path, *own = name.split()
    return f"::: {path}" + ("\n    options: {inherited_members: false}" if own else "")


def _outside_of_fences(text: str, folder: Path) -> str:
    parts: list[str] = []
    end = 0
    for fence in FENCE.finditer(text):
        parts += [_relinked(text[end : fence.start()], folder), fence[0]]
        end = fence.end()
    return "".join([*parts, _relinked(text[end:], folder)])


def _relinked(text: str, folder: Path) -> str:
    return LINK.sub(lambda link: _target(link, folder), text)


def _target(link: re.Match[str], folder: Path) -> str:
    path = Path(os.path.normpath(folder / link[1]))
    if path.is_relative_to(DOCS) or not path.exists():
        return link[0]
    return f"]({REPOSITORY}{path.relative_to(ROOT).as_posix()}{link[2] or ''})"


def _decisions(folder: Path) -> str:
    records = sorted(folder.glob("0*.md"))
    titles = [record.read_text().partition("\n")[0].removeprefix("# ") for record in records]
    return "\n" + "".join(f"- [{title}]({record.name})\n" for record, title in zip(records, titles, strict=True))
