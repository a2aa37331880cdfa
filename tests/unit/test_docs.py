"""What the documents say is what the code does."""

import ast
import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

import peerjob
from peerjob import INJECTED, Context, Job, Node, State, SystemClock
from peerjob.model.state import ARROWS, SINGLE
from peerjob.testing import running_node
from support.factories import notes_of, shared_url
from support.waiting import until

ROOT = Path(__file__).parents[2]
OURS = "https://github.com/peerjob/peerjob/blob/main/"
PICTURES = "https://raw.githubusercontent.com/peerjob/peerjob/main/"
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def test_the_state_diagram_shows_the_arrows_that_stores_keep() -> None:
    text = (ROOT / "docs" / "states.md").read_text()
    (diagram,) = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", text, re.DOTALL)
    drawn = re.findall(r"^ +(\S+) --> (\S+)$", diagram, re.MULTILINE)
    assert len(drawn) == len(diagram.splitlines())
    assert sorted(drawn) == sorted(
        ("[*]" if state is State.UNSET else str(state), str(follower))
        for state, followers in ARROWS.items()
        for follower in followers.parts()
    )


def test_the_table_of_states_has_their_numbers() -> None:
    text = (ROOT / "docs" / "states.md").read_text()
    rows = re.findall(r"^\| (\w+) \| (\d+) \|", text, re.MULTILINE)
    assert rows == [(str(state), str(int(state))) for state in SINGLE]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" in target and not target.startswith(OURS):
            continue
        assert document.name != "README.md" or not target.startswith("docs/"), "a package index shows the README, too"
        name, _, anchor = target.removeprefix(OURS).partition("#")
        folder = ROOT if target.startswith(OURS) else document.parent
        path = (folder / name).resolve() if name else document
        assert path.exists(), f"{target} leads nowhere"
        if anchor:
            assert anchor in _anchors(path), f"{target}: {path.name} has no such heading"


def _anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_pictures_of_the_readme_exist() -> None:
    pictures = re.findall(rf"{PICTURES}([^)]+)", (ROOT / "README.md").read_text())
    assert pictures
    assert [one for one in pictures if not (ROOT / one).is_file()] == []


def test_the_page_of_the_demo_shows_the_example_that_it_names() -> None:
    page = (ROOT / "docs" / "start" / "demo.md").read_text()
    shown = re.search(r"^```python notest\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert shown is not None
    assert (ROOT / "examples" / "hello.py").read_text().endswith(f'"""\n\n{shown[1]}')


EXAMPLES_TO_STOP: dict[str, tuple[int, ...]] = {
    "count.slowly": (100_000,),
    "import.rows": (100_000,),
    "upload.parts": (100_000,),
    "long": (),
}
"""The examples that run for long, with arguments for that."""


def test_every_example_that_may_be_stopped_is_stopped_here() -> None:
    text = (ROOT / "docs" / "writing-jobs.md").read_text()
    section = text[text.index("## Cancellation") : text.index("## Logs and progress")]
    assert set(re.findall(r'@job\(kind="(.*?)"\)', section)) == set(EXAMPLES_TO_STOP)


@pytest.mark.parametrize("kind", list(EXAMPLES_TO_STOP))
async def test_an_example_that_is_stopped_is_handed_back_and_says_nothing(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    text = (ROOT / "docs" / "writing-jobs.md").read_text()
    section = text[text.index("## Cancellation") : text.index("## Logs and progress")]
    names: dict[str, Any] = {"job": peerjob.job, "Context": Context, "INJECTED": INJECTED, "asyncio": asyncio}
    for block in re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE):
        definitions = [one for one in ast.parse(block).body if not isinstance(one, ast.Assign | ast.Assert | ast.Try)]
        exec(compile(ast.Module(definitions, type_ignores=[]), "writing-jobs.md", "exec"), names)
    (found,) = [one for one in names.values() if isinstance(one, Job) and one.kind == kind]

    url = shared_url()
    async with running_node(store=url, clock=SystemClock(), workers=0, name="web") as web:
        worker = Node(url, jobs=found, name="worker")
        await worker.start()
        instance = await web.schedule(found, *EXAMPLES_TO_STOP[kind])

        async def running() -> bool:
            return any(one.instance for one in worker.workers())

        await until(running)
        await worker.stop(grace=0.05)
        instance = await instance.refresh()
        assert (instance.state, instance.attempts) == (State.SCHEDULED, 0)
        assert (await notes_of(instance))[-1] == "Scheduled: node stopped"
    assert "Finished" not in caplog.text


PATH = re.compile(r"`((?:node|store|cluster|src|tests|scripts|proto)/[\w./-]+)`")


@pytest.mark.parametrize(
    "document",
    [ROOT / "docs" / "architecture.md", *sorted((ROOT / "docs" / "decisions").glob("*.md"))],
    ids=lambda one: one.name,
)
def test_paths_that_a_page_names_exist(document: Path) -> None:
    missing = [path for path in PATH.findall(document.read_text()) if not (ROOT / path).exists()]
    assert missing == []


def test_the_architecture_page_names_the_path_of_a_job() -> None:
    assert len(PATH.findall((ROOT / "docs" / "architecture.md").read_text())) > 50
