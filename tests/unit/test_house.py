"""The layout of the house: real folders at the root, linked into the one package."""

import importlib
import importlib.util
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "peerjob"
FOLDERS = ["cluster", "node", "proto", "store"]
SOURCES = sorted(PACKAGE.rglob("*.py")) + [path for name in FOLDERS for path in sorted((ROOT / name).rglob("*.py"))]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_root_folder_is_a_part_of_the_package(name: str) -> None:
    module = importlib.import_module(f"peerjob.{name}")

    assert (PACKAGE / name).readlink() == Path("..", "..", name)
    assert module.__file__ is not None
    assert Path(module.__file__).samefile(ROOT / name / "__init__.py")


@pytest.mark.parametrize("name", FOLDERS)
def test_no_root_folder_is_importable_by_its_bare_name(name: str) -> None:
    spec = importlib.util.find_spec(name)

    assert spec is None or ROOT not in Path(spec.origin or "/").parents


def test_pyright_includes_every_link() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    links = {str(path.relative_to(ROOT)) for path in PACKAGE.iterdir() if path.is_symlink()}

    assert links
    assert links <= set(config["tool"]["pyright"]["include"])


def test_the_room_of_a_node_has_few_doors() -> None:
    entries = {path.name for path in (ROOT / "node").iterdir() if not path.name.startswith(("_", "."))}

    assert len(entries) <= 8


def test_a_file_holds_one_idea() -> None:
    long = {str(path.relative_to(ROOT)): lines for path in SOURCES if (lines := _lines(path)) > 500}

    assert long == {}, "past 500 lines, look for two ideas"


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_each_decision_record_has_its_own_number() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))

    assert [record.name[:4] for record in records] == [f"{number:04}" for number in range(1, len(records) + 1)]
    for number, record in enumerate(records, 1):
        assert record.read_text().startswith(f"# {number:04}: ")
