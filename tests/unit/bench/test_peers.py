"""What `make bench-peers` makes of its figures: medians, rates, tables, plots and the page."""

import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from peers.__main__ import main
from peers.catalogue import before
from peers.marks import MARK, Mark, Marks, rate
from peers.page import text, write
from peers.plots import Row, bars
from peers.report import BY_KEY, Report, Result, markdown_table, median, number

SVG = "{http://www.w3.org/2000/svg}"


def result(name: str, *rounds: dict[str, float | str], reference: bool = False) -> Result:
    return Result(
        name=name,
        setting="defaults",
        keeps="nothing",
        reference=reference,
        versions={name.partition(" ")[0]: "1.2"},
        rounds=list(rounds),
    )


def report(*results: Result) -> Report:
    return Report(
        command="make bench-peers",
        begun="2026-11-26T12:00+00:00",
        ended="2026-11-26T13:00+00:00",
        rounds=3,
        quick=False,
        ahead=True,
        machine={"processor": "A", "cores": "2", "memory": "4 GiB", "kernel": "Linux 6", "python": "3.11"},
        servers={"redis": "8.0.2"},
        results=list(results),
    )


OURS = result("peerjob redis://", {"drain 1": 900.0, "latency p50": 2.0, "after kill": 6.0})
PEER = result("huey", {"drain 1": 300.0, "latency p50": 1.0, "after kill": math.inf})
BOUND = result("bare", {"drain 1": 5_000.0, "latency p50": 0.5}, reference=True)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], None), ([3.0], 3.0), ([9.0, 1.0, 2.0], 2.0), ([1.0, math.inf, math.inf], math.inf), ([1.0, 2.0], 2.0)],
)
def test_a_median_is_one_of_the_rounds(values: list[float], expected: float | None) -> None:
    assert median(values) == expected


def test_a_peer_has_the_median_of_the_rounds_that_have_the_figure() -> None:
    peer = result(
        "rq", {"drain 1": 5.0}, {"failed latency": "it ended\nwith a trace"}, {"drain 1": 7.0}, {"drain 1": 6.0}
    )

    assert peer.median("drain 1") == 6.0
    assert peer.median("latency p50") is None
    assert peer.failures == ["it ended"]


def test_a_rate_leaves_out_what_ran_before_the_last_process_began() -> None:
    alone = [Mark(n, 1, n * 0.1) for n in range(50)]
    both = [Mark(50 + n, 1 + n % 2, 5.0 + n * 0.01) for n in range(101)]

    assert rate(alone + both, processes=2) == pytest.approx(100, rel=0.02)


def test_a_rate_leaves_out_the_first_tenth() -> None:
    slow_start = [Mark(n, 1, n * 1.0) for n in range(10)]
    rest = [Mark(10 + n, 1, 10.0 + n * 0.001) for n in range(90)]

    assert rate(slow_start + rest, processes=1) == pytest.approx(1_000)


def test_marks_are_read_in_the_order_of_their_times(tmp_path: Path) -> None:
    marks = Marks(tmp_path / "marks")
    marks.path.write_bytes(MARK.pack(1, 7, 2.5) + MARK.pack(0, 8, 1.5))

    assert len(marks) == 2
    assert marks.read() == [Mark(0, 8, 1.5), Mark(1, 7, 2.5)]
    assert marks.wait(2, patience=0)
    marks.clear()
    assert not marks.wait(1, patience=0)


def test_a_table_marks_the_best_peer_and_leaves_out_the_references() -> None:
    lines = report(BOUND, OURS, PEER).table(("drain 1", "latency p50", "after kill")).splitlines()

    assert lines[2:] == [
        "| bare | 5,000 | 0.50 | — |",
        "| peerjob redis:// | **900** | 2.00 | **6.0** |",
        "| huey | 300 | **1.00** | > 60 |",
    ]


def test_figures_are_shown_with_the_digits_of_their_measure() -> None:
    assert number(12_345.6, BY_KEY["drain 1"]) == "12,346"
    assert number(0.0451, BY_KEY["server cpu"]) == "0.045"
    assert number(math.inf, BY_KEY["after kill"]) == "> 60"
    assert number(None, BY_KEY["drain 1"]) == "—"


def test_the_columns_of_a_table_after_the_first_are_numbers() -> None:
    assert markdown_table([["", "a"], ["x", "1"]]) == "|  | a |\n| --- | --: |\n| x | 1 |\n"


def test_a_report_survives_json() -> None:
    made = report(OURS, PEER)

    assert Report.from_json(made.to_json()) == made
    assert "Infinity" not in made.to_json()


def test_a_plot_is_an_svg_with_bars_in_proportion() -> None:
    drawn = ET.fromstring(bars("Rate <of> drain", ["one", "two"], [Row("a", [10.0, 5.0]), Row("b & c", [None, 2.5])]))
    lengths = [float(one.get("width", "0")) for one in drawn.iter(f"{SVG}rect") if one.get("x") == "160"]
    texts = [one.text for one in drawn.iter(f"{SVG}text")]

    assert lengths == [520, 260, 0, 130]
    assert drawn.get("aria-label") == "Rate <of> drain"
    assert {"b & c", "10", "—"} <= set(texts)


def test_a_logarithmic_plot_shows_each_figure() -> None:
    drawn = ET.fromstring(bars("Latency", ["p50"], [Row("a", [1.0]), Row("b", [1_000.0]), Row("c", [0.01])], log=True))
    a, b, c = [float(one.get("width", "0")) for one in drawn.iter(f"{SVG}rect") if one.get("x") == "160"]

    assert 0 < c < a < b == 520


def test_the_page_says_where_a_peer_is_ahead_and_by_what() -> None:
    page = text(report(BOUND, OURS, PEER))

    assert "- **idle latency p50**: huey 1.00 ms; `peerjob redis://` 2.00." in page
    assert "In the other measures, none has: drain, one process; runs again after kill -9." in page
    assert "| drain, one process | huey 300 jobs/s | 3.00 |" in page
    assert "| idle latency p50 | huey 1.00 ms | **0.50** |" in page
    assert "| runs again after kill -9 | none within 60 s | 6.0 s |" in page


def test_the_page_compares_an_older_version_that_ran_in_the_same_rounds() -> None:
    older = result("peerjob-abc1234 redis://", {"drain 1": 600.0, "latency p50": 1.0})

    page = text(report(BOUND, OURS, older, PEER))

    assert "## Before and after" in page
    assert "|  | redis:// at abc1234 | redis:// now | redis:// factor |" in page
    assert "| drain, one process, jobs/s | 600 | 900 | 1.50 |" in page
    assert "| idle latency p50, ms | 1.00 | 2.00 | **0.50** |" in page
    assert "| drain, one process | huey 300 jobs/s | 3.00 |" in page, "the older version is no column of its own"
    assert "| peerjob-abc1234 | peerjob ? |  |" in page
    assert "## Before and after" not in text(report(BOUND, OURS, PEER))


def test_an_older_version_is_installed_from_its_commit_and_runs_on_redis_and_valkey() -> None:
    older = before(Path("/source"), "abc1234")

    assert [(one.name, one.venv, one.called[-1]) for one in older] == [
        ("peerjob-abc1234 redis://", "peerjob-abc1234", "redis"),
        ("peerjob-abc1234 valkey://", "peerjob-abc1234", "valkey"),
    ]
    assert older[0].requirements == ("git+file:///source@abc1234", "hiredis", "uvloop")


def test_the_page_names_what_could_not_be_measured() -> None:
    made = report(OURS, result("saq", {"failed": "no server"}))
    made.missing["arq"] = "pip could not install it"

    assert "- arq was not measured: pip could not install it\n- saq: no server" in text(made)


def test_the_page_and_its_plots_are_written(tmp_path: Path) -> None:
    write(tmp_path / "benchmarks.md", report(BOUND, OURS, PEER))

    plots = sorted(path.name for path in (tmp_path / "assets").iterdir())
    assert plots == [f"benchmarks-{name}.svg" for name in ("cpu", "drain", "enqueue", "latency")]
    assert all(f"(assets/{name})" in (tmp_path / "benchmarks.md").read_text() for name in plots)


def test_a_measure_to_skip_must_exist(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["peers", "--skip", "pauses,speed"])
    monkeypatch.setattr("signal.signal", lambda *given: None)
    with pytest.raises(SystemExit):
        main()
    assert (
        "no such measure: speed; there are drain, two-workers, latency, pauses, sync, kill" in capsys.readouterr().err
    )
