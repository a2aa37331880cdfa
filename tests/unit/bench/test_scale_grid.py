"""The pure parts of `make scale`: its cells, and its page and plots from stored results."""

import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[3]
# only while the modules load: the benchmark has modules with names that others use, too
sys.path.insert(0, str(ROOT / "bench"))
from scale.cells import AXES, ENGINES, LONG, Cell, grid, misfit  # noqa: E402
from scale.goals import TITLES, verdicts  # noqa: E402
from scale.page import BEGIN, END, as_markdown, goals_table, pictures, put_into, table, write_pictures  # noqa: E402
from scale.plots import plot  # noqa: E402

sys.path.remove(str(ROOT / "bench"))

GIB = 1 << 30
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def report() -> dict[str, Any]:
    """Stored results of two engines, one cell of which did not fit."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("scale_results.json").read_text())
    return found


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("axis", AXES)
def test_each_engine_has_each_size_of_each_axis(engine: str, axis: str) -> None:
    sizes = {cell.sizes[axis] for cell in grid(ENGINES) if cell.engine == engine}
    wanted = {size for size in AXES[axis] if (axis, size) != ("nodes", 2)}
    assert wanted <= sizes


def test_no_cell_comes_twice_and_the_long_queues_come_last() -> None:
    cells = grid(ENGINES)
    assert len(set(cells)) == len(cells)
    is_long = [cell.queued >= LONG for cell in cells]
    assert is_long == sorted(is_long)
    assert any(is_long)


def test_the_quick_grid_has_all_parts_and_no_large_size() -> None:
    quick = grid(ENGINES, quick=True)
    assert {cell.part for cell in quick} == {cell.part for cell in grid(ENGINES)}
    assert max(cell.queued for cell in quick) <= 10_000
    assert len(quick) * 2 < len(grid(ENGINES))


def test_a_cell_that_does_not_fit_is_named_with_the_reason() -> None:
    large = Cell(engine="redis", part="verbs", queued=1_000_000)
    assert misfit(large, 16 * GIB) is None
    assert misfit(large, GIB // 2) == "its queue needs about 0.7 GiB, and 0.5 GiB are free"
    assert "quota" in str(misfit(Cell(engine="etcd", part="verbs", queued=20_000, payload=1 << 20), 256 * GIB))
    assert "at most" in str(misfit(Cell(engine="etcd", part="verbs", payload=2 << 20), 256 * GIB))


def test_each_goal_passes_or_falls_short(report: dict[str, Any]) -> None:
    found = {(one.goal, one.engine): one for one in verdicts(report["cells"])}
    assert [goal for goal in TITLES if any(one == goal for one, _ in found)] == list(TITLES)
    follower, cores = found[TITLES[2], "etcd"], found[TITLES[4], "etcd"]
    assert (follower.value, follower.reached) == (7.125, False)
    assert (cores.value, cores.reached) == (0.21, True)
    rows = goals_table(report["cells"]).splitlines()
    assert f"| {TITLES[4]} | etcd | 0.21 cores | pass |" in rows
    assert f"| {TITLES[2]} | etcd | 7.12 a second (3 nodes) | **falls short** |" in rows


def test_the_page_shows_each_result_and_names_what_is_missing(report: dict[str, Any]) -> None:
    page = as_markdown(report)
    for name in pictures(report["cells"]):
        assert f"(images/scale-{name}.svg)" in page
    assert "its queue needs about 4.1 GiB" in page
    assert " nan" not in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)


def test_the_page_shows_the_memory_of_a_long_run(report: dict[str, Any]) -> None:
    samples = [{"jobs": jobs, "worker": 60 << 20, "client": 61 << 20, "server": None} for jobs in range(0, 1001, 50)]
    page = as_markdown({**report, "memory": {"sqlite": {"samples": samples}}})
    rows = [line for line in page.splitlines() if line.startswith("| sqlite | ")]
    assert rows[0] == "| sqlite | 100 | 60 MiB | 61 MiB | — |"
    assert rows[-1] == "| sqlite | 1,000 | 60 MiB | 61 MiB | — |"


def test_the_plots_are_drawings_with_a_line_for_each_engine(report: dict[str, Any], tmp_path: Path) -> None:
    write_pictures(tmp_path, report["cells"])
    drawn = {path.name: ElementTree.parse(path).getroot() for path in tmp_path.iterdir()}  # our own
    assert len(drawn) == len(pictures(report["cells"]))
    assert all(root.tag == f"{SVG}svg" for root in drawn.values())
    assert len(drawn["scale-kinds.svg"].findall(f"{SVG}polyline")) == 2


def test_a_plot_leaves_out_what_a_logarithm_cannot_show() -> None:
    drawn = ElementTree.fromstring(plot("A & B", "x", "y", {"redis": [(1, 0.0), (10, 2.5), (100, 30)], "etcd": []}))
    assert len(drawn.findall(f"{SVG}circle")) == 2
    assert len(drawn.findall(f"{SVG}polyline")) == 1
    assert "A & B" in [text.text for text in drawn.findall(f"{SVG}text")]
    assert "no results" in plot("t", "x", "y", {})


def test_a_table_without_rows_says_so() -> None:
    assert table(("a", "b"), []) == "No results."
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n|---|---|\n| 1 | 2 |"


def test_only_the_generated_part_of_the_page_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    put_into(page, "new")
    assert page.read_text() == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    page.write_text("no markers")
    with pytest.raises(ValueError, match="needs the lines"):
        put_into(page, "new")


def test_the_page_of_the_site_has_the_markers() -> None:
    page = (ROOT / "docs" / "scaling.md").read_text()
    assert 0 < page.index(BEGIN) < page.index(END)
