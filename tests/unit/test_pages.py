"""The Python on the pages of the documentation runs. CONTRIBUTING.md has the rules."""

import ast
import asyncio
import importlib
import inspect
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path, PurePosixPath

import pytest

from peerjob import Job, Node
from peerjob.model.job import collect_jobs
from support.pages import PORTS, WITH_TESTS, Page, commands, first_missing, pages, read_page, replace, write
from support.servers import free_port

WITH_PYTHON = [
    page
    for page in pages()
    if any(block.language == "python" for block in page.blocks) and page.name.partition("/")[0] not in WITH_TESTS
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder of the page, from which it imports."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    loaded = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - loaded:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
async def test_the_python_of_a_page_runs(page: Page, folder: Path) -> None:
    files: dict[str, None] = {}
    ports = {port: str(free_port()) for port in PORTS}
    async with AsyncExitStack() as cleanup:
        statements: Statements | None = None
        for block in page.blocks:
            if block.file is not None:
                write(block, folder, ports)
                files[block.file] = None
            elif block.language == "python":
                if statements is None:
                    node = await cleanup.enter_async_context(Node("memory://"))
                    statements = Statements(node, page.name)
                await statements.run(replace(block.text, ports), block.line)
        if statements is not None:
            await statements.run_tests()
    if not page.has_commands:
        for file in files:
            # in a thread, where a program can run an event loop of its own
            await asyncio.to_thread(_try, PurePosixPath(file), folder)


def _try(file: PurePosixPath, folder: Path) -> None:
    if file.suffix == ".py" and file.name.startswith("test_"):
        # in a process of its own: pytest keeps what it loaded
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    elif file.suffix == ".py" and file.stem != "conftest":
        importlib.import_module(".".join(file.with_suffix("").parts))


class Statements:
    """The blocks of a page as one module. Its jobs are registered as soon as they have a name."""

    def __init__(self, node: Node, page: str) -> None:
        self._node = node
        self._page = page
        self._module = types.ModuleType("page_" + PurePosixPath(page).stem.replace("-", "_"))
        self._names = vars(self._module)
        self._names["node"] = node
        self._registered: list[Job] = []

    async def run(self, text: str, line: int) -> None:
        sys.modules[self._module.__name__] = self._module
        try:
            for statement in ast.parse("\n" * line + text).body:
                await self._run(statement)
                new = [one for one in collect_jobs(self._module) if one not in self._registered]
                self._node.register(new)
                self._registered += new
        finally:
            del sys.modules[self._module.__name__]

    async def _run(self, statement: ast.stmt) -> None:
        whole = ast.Module([statement], type_ignores=[])
        code = compile(whole, self._page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        if inspect.iscoroutine(made := eval(code, self._names)):
            await made

    async def run_tests(self) -> None:
        for name, value in list(self._names.items()):
            if name.startswith("test_"):
                await value()


PAGE = """
```python
# shop.py
x = 1
```

1. In a list:

   ```console title="Terminal 2"
   $ echo 12 \\
   >   node-1
   12 node-1
   $ sleep 9
   ^C
   ```

   ```console title="Terminal 2"
   later output
   $ true
   ```

```toml
# a = 2
```

```python notest
never
```
"""


def test_the_blocks_of_a_page(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(PAGE)
    page = read_page(tmp_path / "page.md")
    assert [(block.language, block.file, block.title, block.line) for block in page.blocks] == [
        ("python", "shop.py", "", 2),
        ("console", None, "Terminal 2", 9),
        ("console", None, "Terminal 2", 17),
    ]
    typed = commands(page.blocks[1])
    assert [(one.text, one.shown) for one in typed] == [
        ("echo 12 \\\n  node-1", ("12 node-1",)),
        ("sleep 9", ()),
        ("^C", ()),
    ]
    assert [(one.text, one.shown) for one in commands(page.blocks[2])] == [("", ("later output",)), ("true", ())]


def test_a_shown_line_is_printed_in_its_order() -> None:
    printed = ["node-2  took  17 jobs", "other", "done in 0.31 s"]
    assert first_missing(("node-1 took 3 jobs", "done in 5 s"), printed) is None
    assert first_missing(("node-1 … jobs", "done …"), printed) is None
    assert first_missing(("done in 5 s", "node-1 took 3 jobs"), printed) == "node-1 took 3 jobs"
    assert first_missing(("node-1 took",), printed) == "node-1 took"
