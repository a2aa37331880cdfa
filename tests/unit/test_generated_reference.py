"""The pages of the reference have their content for GitHub, and the site makes it anew."""

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

griffe: Any = pytest.importorskip("griffe", reason="reads the code for the pages of the site")

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "reference").glob("*.md"))
CODE = '''
class Shop:
    """Sells things.

    - first
    """

    name: str = "corner"
    """The name, a | b."""

    def __init__(self, name: str, /, *goods: str, open: bool = True, **more: int) -> None: ...

    @property
    def size(self) -> int | None:
        """How many goods."""

    async def sell(self, customer: str, *, pay: bool = False) -> list[str]:
        """Sell all.

        Raises nothing.
        """

    @classmethod
    def made(cls) -> "Shop":
        """Make one."""

    def undocumented(self) -> None: ...
    def _private(self) -> None:
        """Hidden."""
'''

pytestmark = pytest.mark.one_python


@pytest.fixture(scope="module")
def generator() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        yield import_module("generate_reference")


def test_a_class_is_shown_with_its_members(generator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = griffe.visit("shop", filepath=tmp_path / "shop.py", code=CODE)
    monkeypatch.setattr(generator, "_code", lambda: {"shop.Shop": module["Shop"]})
    assert (
        generator.reference("shop.Shop", "own")
        == """### Shop

Sells things.

- first

```python notest
Shop(name: str, /, *goods: str, open: bool = True, **more: int)
```

| attribute | type | meaning |
|---|---|---|
| `name` | `str` | The name, a \\| b. |
| `size` | `int \\| None` | How many goods. |

#### Shop.sell

```python notest
async def sell(customer: str, *, pay: bool = False) -> list[str]
```

Sell all.

Raises nothing.

#### Shop.made

```python notest
def made() -> Shop
```

Make one."""
    )


def test_a_new_piece_does_not_take_the_content_of_the_next_one(generator: Any) -> None:
    page = "<!-- reference: a -->\n\ntext\n\n<!-- part: b -->\n\nold\n\n<!-- end -->\n\nmore\n"
    assert [match.groups() for match in generator.PIECE.finditer(page)] == [("reference", "a"), ("part", "b")]
    assert generator.PIECE.sub("X", page) == "X\n\ntext\n\nX\n\nmore\n"


def test_a_name_in_the_form_of_mkdocstrings_becomes_a_piece(
    generator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text("::: a.B\n    options: {inherited_members: false}\n\n::: a.C\n")
    monkeypatch.setattr(generator, "ROOT", tmp_path)
    monkeypatch.setattr(generator, "PAGES", page.parent)
    monkeypatch.setattr(generator, "reference", lambda path, own="": f"{path} {own}".strip())
    monkeypatch.setattr("sys.argv", ["generate_reference.py", "--check"])
    assert generator.main() == 1
    monkeypatch.setattr("sys.argv", ["generate_reference.py"])
    for _ in range(2):
        assert generator.main() == 0
        assert page.read_text() == (
            "<!-- reference: a.B own -->\n\na.B own\n\n<!-- end -->\n\n<!-- reference: a.C -->\n\na.C\n\n<!-- end -->\n"
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_each_piece_has_content_on_github_and_none_of_it_on_the_site(generator: Any, page: Path) -> None:
    text = page.read_text()
    pieces = list(generator.PIECE.finditer(text))
    begun = re.findall(r"^<!-- (?:reference|part): ", text, re.MULTILINE)
    assert len(pieces) == text.count("\n<!-- end -->") == len(begun)
    for piece in pieces:
        assert len(piece[0].splitlines()) > 4, piece[0]
    hooks = import_module("docs_hooks")
    shown = hooks.on_page_markdown(text, SimpleNamespace(file=SimpleNamespace(src_uri=f"reference/{page.name}")))
    names = [piece[2].split()[0] for piece in pieces if piece[1] == "reference"]
    assert re.findall(r"^::: (\S+)$", shown, re.MULTILINE) == names
    assert "<!-- end -->" not in shown
    assert "### " not in shown or page.stem.endswith("commands")
