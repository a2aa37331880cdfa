"""The pure parts of `make scale`: its cells, and its page and plots from stored results."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[3]
# only while the modules load: the benchmark has modules with names that others use, too
sys.path.insert(0, str(ROOT / "bench"))
from scale.__main__ import main  # noqa: E402
from scale.cells import AXES, CLUSTERED, CROWD, ENGINES, LONG, Cell, grid, misfit  # noqa: E402
from scale.goals import TITLES, verdicts  # noqa: E402
from scale.page import (  # noqa: E402
    BEGIN,
    END,
    SECTION_OF,
    as_markdown,
    goals_table,
    pictures,
    put_into,
    put_sections,
    sections,
    table,
    write_pictures,
)
from scale.plots import plot  # noqa: E402
from scale.running import NO_TIME, by_cell, merged, run, starved  # noqa: E402

sys.path.remove(str(ROOT / "bench"))

GIB = 1 << 30
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def report() -> dict[str, Any]:
    """Stored results of two engines, one cell of which did not fit."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("scale_results.json").read_text())
    return found


@pytest.mark.parametrize(
    ("axis", "engine"),
    [(axis, engine) for axis in AXES for engine in (CLUSTERED if axis == "namespaces" else ENGINES)],
)
def test_each_engine_has_each_size_of_each_axis(engine: str, axis: str) -> None:
    sizes = {cell.sizes[axis] for cell in grid(ENGINES) if cell.engine == engine}
    wanted = {size for size in AXES[axis] if (axis, size) != ("nodes", 2)}
    assert wanted <= sizes


def test_no_cell_comes_twice() -> None:
    assert len(set(grid(ENGINES))) == len(grid(ENGINES))


def test_the_cells_of_the_goals_come_first_and_the_longest_queues_after_the_short_ones() -> None:
    cells = grid(ENGINES)
    first = {cell for cell in cells if cell.part == "verbs" and cell.queued == 1_000 and cell.payload == 50}
    first |= {Cell(engine=engine, part="idle", nodes=nodes) for engine in ENGINES for nodes in (3, 10, 30, 100)}
    first |= {cell for cell in cells if cell.part == "schedules"}
    assert first < set(cells[: len(first) + 2 * len(ENGINES)])
    after = [cells.index(Cell(engine=engine, part="verbs", queued=LONG)) for engine in ENGINES]
    assert after == list(range(len(first) + 2 * len(ENGINES), len(first) + 3 * len(ENGINES)))
    others = [place for place, cell in enumerate(cells) if cell.part in ("contention", "waiting", "shards")]
    assert min(others) > max(after)


def test_a_hundred_nodes_do_not_run_beside_cells_that_meter() -> None:
    assert Cell(engine="redis", part="idle", nodes=30).waits
    assert not Cell(engine="redis", part="idle", nodes=CROWD).waits
    assert not Cell(engine="redis", part="schedules", schedules=100_000).waits
    assert not Cell(engine="redis", part="verbs").waits


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


def test_the_growth_of_fires_that_were_measured_side_by_side_counts() -> None:
    results: list[dict[str, Any]] = [
        {
            "cell": Cell(engine="memory", part="schedules", schedules=size).to_dict(),
            "found": {"fire": {"leader_cpu_us": cost, "growth": growth}, "idle": {"requests": 3.0}},
        }
        for size, cost, growth in ((10, 194.0, 1.0), (100_000, 270.0, 1.02))
    ]
    (verdict,) = [one for one in verdicts(results) if one.goal == TITLES[5]]
    assert (verdict.value, verdict.reached) == (1.02, True)


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


def test_a_run_without_a_long_run_leaves_its_section_as_it_is(report: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\n\nold\n\n### Memory of nodes over a long run\n\n| measured |\n\n### Else\n\n{END}\n")
    assert "### Memory of nodes over a long run\n\n| measured |\n\n###" in as_markdown({**report, "memory": {}}, page)
    page.write_text(f"{BEGIN}\n{END}\n")
    assert "### Memory of nodes over a long run\n\nNo results.\n\n###" in as_markdown({**report, "memory": {}}, page)


def test_the_plots_are_drawings_with_a_line_for_each_engine(report: dict[str, Any], tmp_path: Path) -> None:
    write_pictures(tmp_path, report["cells"], "![idle](images/scale-idle.svg)")
    assert [path.name for path in tmp_path.iterdir()] == ["scale-idle.svg"]
    write_pictures(tmp_path, report["cells"], as_markdown(report))
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


def test_a_run_of_some_parts_replaces_their_sections_only(report: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    put_into(page, as_markdown(report))
    whole = page.read_text()
    put_sections(page, {"Schedules": sections(report)["Schedules"]})
    assert page.read_text() == whole
    put_sections(page, {"Schedules": "new"})
    assert "### Schedules\n\nnew\n\n### Members of a flow\n" in page.read_text()
    assert page.read_text().count("\n### ") == whole.count("\n### ")
    with pytest.raises(ValueError, match="needs the sections Else"):
        put_sections(page, {"Else": "new"})


def test_each_part_has_a_section(report: dict[str, Any]) -> None:
    assert set(SECTION_OF) == {cell.part for cell in grid(ENGINES)}
    assert set(SECTION_OF.values()) <= set(sections(report))
    page = (ROOT / "docs" / "scaling.md").read_text()
    assert [f"### {title}" for title in sections(report)] == [row for row in page.splitlines() if row[:4] == "### "]


def test_the_page_shows_how_namespaces_divide_the_load_of_shards(report: dict[str, Any]) -> None:
    rows = [row for row in sections(report)["Namespaces on several shards"].splitlines() if row.startswith("| redis")]
    assert rows == [
        "| redis | 3 | one shard | 100 % / 0 % / 0 % | 40.3 µs, 2.3 | 39.9 µs | 25,075 | 21,251 | 0.85 |",
        "| redis | 3 | spread | 34 % / 33 % / 34 % | 43.1 µs, 2.2 | 14.9 µs | 66,890 | 18,012 | 0.27 |",
    ]


def test_results_of_other_cells_stay_and_what_was_left_out_erases_nothing() -> None:
    base, other = Cell(engine="redis", part="verbs"), Cell(engine="etcd", part="verbs")
    old = {"cell": {**base.to_dict()}, "found": {"old": 1}}
    del old["cell"]["namespaces"]  # a result from before there was this axis
    stored = by_cell({"cells": [old]})
    assert list(stored) == [base]
    new: dict[str, Any] = {"cell": other.to_dict(), "found": {"new": 1}}
    assert merged(stored, {other: new}) == [old, new]
    assert merged(stored, {base: {"cell": base.to_dict(), "skipped": NO_TIME}}) == [old]
    failed = {"cell": base.to_dict(), "error": "it broke"}
    assert merged(stored, {base: failed}) == [failed]


class Kept:
    """What a run stores after each cell."""

    def __init__(self) -> None:
        self.last: dict[Cell, dict[str, Any]] = {}
        self.counts: list[int] = []

    def __call__(self, results: dict[Cell, dict[str, Any]]) -> None:
        self.last = dict(results)
        self.counts.append(len(results))


@pytest.mark.matrix("runs the benchmark, which only `make scale` uses")
async def test_results_are_kept_after_each_cell_and_known_ones_are_not_measured_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'tests'}:{ROOT / 'bench'}")
    known, quick = Cell(engine="memory", part="verbs", kinds=77), Cell(engine="memory", part="verbs", payload=0)
    too_large = Cell(engine="memory", part="verbs", queued=10**12)
    found = {"cell": known.to_dict(), "found": {"known": True}}
    kept = Kept()

    await run([known, quick, too_large], {known: found}, kept, 100.0)

    assert kept.counts == [2, 3]
    assert kept.last[known] == found
    assert kept.last[quick]["found"]["enqueue"]["operations"] > 0
    assert "its queue needs" in kept.last[too_large]["skipped"]


@pytest.mark.matrix("runs the benchmark, which only `make scale` uses")
def test_a_cell_is_measured_alone_and_the_page_tells_it(
    report: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'tests'}:{ROOT / 'bench'}")
    stored, page = tmp_path / "scale.json", tmp_path / "page.md"
    stored.write_text(json.dumps(report))
    page.write_text(f"{BEGIN}\n{END}\n")
    monkeypatch.setattr("scale.__main__.PAGE", page)
    monkeypatch.setattr(sys, "argv", ["scale", "--cells", "memory verbs: 0 payload", "--json", str(stored)])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        main()
    finally:
        signal.signal(signal.SIGTERM, handler)

    now = json.loads(stored.read_text())
    assert {what: now[what] for what in ("date", "command")} == {what: report[what] for what in ("date", "command")}
    assert all(one in now["cells"] for one in report["cells"])
    assert '`make scale ARGS=\'--cells "memory verbs: 0 payload"' in page.read_text()
    assert "measured again, at another load of the machine: memory verbs: 0 payload." in page.read_text()


def test_nodes_that_only_renew_their_leases_are_not_taken_for_starved() -> None:
    assert not starved({"calls": 0.868})  # measured on a quiet machine
    assert not starved({"calls": 0.8})
    assert starved({"calls": 0.5})


@pytest.mark.matrix("runs the benchmark, which only `make scale` uses")
async def test_a_run_ends_in_its_time_and_names_what_it_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'tests'}:{ROOT / 'bench'}")
    long, next_one = Cell(engine="memory", part="schedules", schedules=100_000), Cell(engine="memory", part="verbs")
    kept = Kept()

    await run([long, next_one], {}, kept, 2.0)

    assert [one["skipped"] for one in kept.last.values()] == [NO_TIME, NO_TIME]


@pytest.mark.matrix("runs the benchmark, which only `make scale` uses")
async def test_a_cell_that_does_not_finish_is_named_and_leaves_no_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'tests'}:{ROOT / 'bench'}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("scale.running.PATIENCE", 3.0)
    kept = Kept()

    await run([Cell(engine="sqlite", part="schedules", schedules=100_000)], {}, kept, 100.0)

    assert [one["skipped"] for one in kept.last.values()] == ["did not finish within 3 s"]
    assert await asyncio.to_thread(os.listdir, tmp_path) == []
