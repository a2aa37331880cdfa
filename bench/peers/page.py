"""docs/benchmarks.md and its plots, from the figures of a run."""

from __future__ import annotations

import math
import re
import statistics
from pathlib import Path
from string import Template

from .plots import Row, bars
from .report import BY_KEY, MEASURES, Measure, Report, Result, markdown_table, number

TEMPLATE = Path(__file__).parent / "template.md"
SHARED = "Other programs used the machine at the same time."
AHEAD = (
    f"{SHARED} All processes of a measurement ran before them, with the real-time priority of `chrt -r 10`, and the "
    "servers with 11."
)
OURS = "peerjob"
BASE = "peerjob redis://"
PLOTS = (
    ("drain", "Drain: jobs per second", ("drain 1", "drain 2"), 0, False),
    ("enqueue", "Enqueue: jobs per second", ("enqueue one", "enqueue together", "enqueue bulk"), 0, True),
    ("latency", "Idle latency: milliseconds, logarithmic", ("latency p50", "latency p99"), 2, True),
    ("cpu", "CPU seconds per 1,000 jobs, logarithmic", ("worker cpu", "server cpu"), 3, True),
)
PACKAGES = ("redis", "hiredis", "coredis", "psycopg", "uvloop", "etcd3aio", "valkey-glide", "taskiq-redis", "kombu")
DISTRIBUTIONS = {"docket": "pydocket", "bare": "redis"}


def write(page: Path, report: Report) -> None:
    """Write the page, and its plots into the folder `assets` beside it."""
    assets = page.parent / "assets"
    assets.mkdir(parents=True, exist_ok=True)
    for name, title, keys, digits, log in PLOTS:
        (assets / f"benchmarks-{name}.svg").write_text(_plot(report, title, keys, digits=digits, log=log))
    page.write_text(text(report))


def text(report: Report) -> str:
    """The Markdown of the page."""
    half, most, where = spread(report)
    machine = report.machine
    settings = [[one.name, one.setting, one.keeps] for one in report.results]
    filled = Template(TEMPLATE.read_text()).substitute(
        command=report.command,
        begun=_time(report.begun),
        ended=_time(report.ended),
        rounds=report.rounds,
        factors=_factors(report),
        changes=_changes(report),
        ahead=_ahead(report),
        throughput=report.table(("drain 1", "drain 2", "pauses")),
        enqueue=report.table(("enqueue one", "enqueue together", "enqueue bulk", "enqueue sync", "enqueue sync 8")),
        latency=report.table(("latency p50", "latency p99", "after kill")),
        cost=report.table(("worker cpu", "server cpu", "peak", "together")),
        settings=markdown_table([["", "settings", "keeps of an ended job"], *settings], numbers=False),
        missing=_missing(report),
        versions=markdown_table([["", "version", "with"], *_versions(report)], numbers=False),
        servers=", ".join(f"{name} {version}" for name, version in report.servers.items()),
        half=f"{half:.0f}",
        most=f"{most:.0f}",
        where=where,
        machine=", ".join(
            (machine["processor"], f"{machine['cores']} cores", machine["memory"], machine["kernel"], machine["python"])
        ),
        priority=AHEAD if report.ahead else SHARED,
    )
    return re.sub(r"\n{3,}", "\n\n", filled)


def _factors(report: Report) -> str:
    ours = [one for one in report.results if one.name.startswith(f"{OURS} ")]
    rows = [["", "best peer", *(one.name.removeprefix(f"{OURS} ") for one in ours)]]
    for measure in MEASURES:
        best = _best_peer(report, measure)
        if best is None:
            if measure.key == "after kill" and any(peer.median(measure.key) for peer in _peers(report)):
                rows.append([measure.title, "none within 60 s", *(_seconds(one.median(measure.key)) for one in ours)])
            continue
        value = best.median(measure.key)
        row = [measure.title, f"{best.name} {number(value, measure)} {measure.unit}"]
        rows.append([*row, *(_factor(one.median(measure.key), value, measure) for one in ours)])
    return markdown_table(rows)


def _changes(report: Report) -> str:
    """This version beside an older one, if the run measured one."""
    older = [one for one in report.results if one.name.startswith(f"{OURS}-")]
    if not older:
        return ""
    pairs = [(one, _named(report, f"{OURS} {one.name.partition(' ')[2]}")) for one in older]
    commit = older[0].name.partition(" ")[0].removeprefix(f"{OURS}-")
    stores = [one.name.partition(" ")[2] for one in older]
    head = ["", *(f"{store} {when}" for store in stores for when in (f"at {commit}", "now", "factor"))]
    rows = [head]
    for measure in MEASURES:
        row = [f"{measure.title}, {measure.unit}"]
        for before, now in pairs:
            values = before.median(measure.key), now.median(measure.key) if now else None
            row += [*(number(value, measure) for value in values), _factor(values[1], values[0], measure)]
        rows.append(row)
    intro = (
        f"Commit {commit} and this version ran in the same rounds. A factor above 1 means that this version is better."
    )
    return f"## Before and after\n\n{intro}\n\n{markdown_table(rows)}"


def _named(report: Report, name: str) -> Result | None:
    return next((one for one in report.results if one.name == name), None)


def _seconds(value: float | None) -> str:
    return "—" if value is None else f"{number(value, BY_KEY['after kill'])} s"


def _factor(ours: float | None, best: float | None, measure: Measure) -> str:
    if not ours or not best:
        return "—"
    factor = ours / best if measure.best == "high" else best / ours
    shown = f"{factor:.1f}" if factor >= 10 else f"{factor:.2f}"
    return f"**{shown}**" if factor < 1 else shown


def _ahead(report: Report) -> str:
    """Each measure in which a peer has a better figure than peerjob on Redis, and the peers."""
    ours = _named(report, BASE)
    if ours is None:
        return ""
    lines: list[str] = []
    first: list[str] = []
    for measure in MEASURES:
        value = ours.median(measure.key)
        if value is None:
            continue
        ahead = [one for one in _peers(report) if _better(one.median(measure.key), value, measure)]
        ahead.sort(key=lambda one: one.median(measure.key) or 0, reverse=measure.best == "high")
        if not ahead:
            first.append(measure.title)
            continue
        named = ", ".join(f"{one.name} {number(one.median(measure.key), measure)}" for one in ahead)
        lines.append(f"- **{measure.title}**: {named} {measure.unit}; `{BASE}` {number(value, measure)}.")
    if not lines:
        return f"No queue has a better figure than `{BASE}`."
    rest = f"In the other measures, none has: {'; '.join(first)}." if first else ""
    return "\n\n".join((f"These queues have a better figure than `{BASE}`:", "\n".join(lines), rest))


def _better(theirs: float | None, ours: float, measure: Measure) -> bool:
    if theirs is None:
        return False
    return theirs > ours if measure.best == "high" else theirs < ours


def _peers(report: Report) -> list[Result]:
    return [one for one in report.results if not one.reference and not one.name.startswith(OURS)]


def _best_peer(report: Report, measure: Measure) -> Result | None:
    having = [one for one in _peers(report) if math.isfinite(one.median(measure.key) or math.inf)]
    if not having:
        return None
    return (max if measure.best == "high" else min)(having, key=lambda one: one.median(measure.key) or 0)


def _plot(report: Report, title: str, keys: tuple[str, ...], *, digits: int, log: bool) -> str:
    low = BY_KEY[keys[0]].best == "low"
    rows = [Row(one.name, [one.median(key) for key in keys], one.reference) for one in report.results]
    rows = [row for row in rows if row.values[0] is not None]
    rows.sort(key=lambda row: row.values[0] or 0, reverse=not low)
    return bars(title, [BY_KEY[key].title for key in keys], rows, digits=digits, log=log)


def _versions(report: Report) -> list[list[str]]:
    rows: list[list[str]] = []
    for venv in dict.fromkeys(one.name.partition(" ")[0] for one in report.results):
        found = next(one.versions for one in report.results if one.name.partition(" ")[0] == venv)
        main = DISTRIBUTIONS.get(venv, venv.partition("-")[0])
        others = ", ".join(f"{name} {found[name]}" for name in PACKAGES if name in found and name != main)
        rows.append([venv, f"{main} {found.get(main, '?')}", others])
    return rows


def _missing(report: Report) -> str:
    lines = [f"- {name} was not measured: {reason}" for name, reason in report.missing.items()]
    lines += [f"- {one.name}: {failure}" for one in report.results for failure in one.failures]
    return "\n".join(lines)


def spread(report: Report) -> tuple[float, float, str]:
    """How far the rounds differ, in percent of the medians: the median, the maximum, and where the maximum is."""
    found: list[tuple[float, str]] = []
    for result in report.results:
        for measure in MEASURES:
            values = [value for one in result.rounds if isinstance(value := one.get(measure.key), float)]
            middle = result.median(measure.key)
            if middle and all(map(math.isfinite, values)):
                found.append((100 * (max(values) - min(values)) / middle, f"{result.name}, {measure.title}"))
    if not found:
        return 0.0, 0.0, "nothing"
    most, where = max(found)
    return statistics.median(part for part, _ in found), most, where


def _time(stamp: str) -> str:
    return stamp.partition("+")[0].replace("T", " ")
