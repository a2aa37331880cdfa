"""The page of the grid: goals, tables and plots, from stored results."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .goals import VERBS, Result, axis_of, described, measured, verdicts
from .plots import Points, number, plot

BEGIN, END = "<!-- scale: begin -->", "<!-- scale: end -->"
IMAGES = "images"
LONG_RUN = "Memory of nodes over a long run"
"""The section that `longrun.py` measures."""
Report = Mapping[str, Any]


def as_markdown(report: Report, page: Path | None = None) -> str:
    """All that is generated of the page. Without results of a long run, its section stays as it is on the page."""
    texts = sections(report)
    if page is not None and not report.get("memory"):
        texts[LONG_RUN] = _generated(page)[1].get(LONG_RUN, texts[LONG_RUN])
    return "\n\n".join((_told(report), *(f"### {title}\n\n{text}" for title, text in texts.items())))


def sections(report: Report) -> dict[str, str]:
    """The generated sections, by title."""
    results: Sequence[Result] = report["cells"]
    axes = (f"{_picture(axis)}\n\n{_verbs(results, axis)}" for axis in ("queued", "kinds", "payload"))
    return {
        "Goals": goals_table(results),
        "Cost of an instance": "\n\n".join(axes),
        "Several nodes at one queue": _contention(results),
        "Namespaces on several shards": _shards(results),
        "Waiting clients": _waiting(results),
        "Schedules": f"{_picture('schedules')}\n\n{_schedules(results)}",
        "Members of a flow": _phases(results, "flows", ("members",)),
        "Steps of an instance": _phases(results, "steps", ("steps",)),
        "Limit keys": _phases(results, "gates", ("gated", "keys")),
        "Idle nodes": f"{_picture('idle')}\n\n{_idle(results)}",
        LONG_RUN: _memory(report.get("memory", {})),
        "Where one core ends": _limits(results),
        "Cells that were not measured": _left_out(results),
    }


SECTION_OF = {
    "verbs": "Cost of an instance",
    "contention": "Several nodes at one queue",
    "shards": "Namespaces on several shards",
    "waiting": "Waiting clients",
    "schedules": "Schedules",
    "idle": "Idle nodes",
    "flows": "Members of a flow",
    "steps": "Steps of an instance",
    "gates": "Limit keys",
}
"""The section of each part."""


def _told(report: Report) -> str:
    results, machine = report["cells"], report["machine"]
    ran = sum("found" in one for one in results)
    return (
        f"Run on {report['date'][:10]} by `{report['command']}`: {ran} of {len(results)} cells, on {machine['cores']} "
        f"cores of {machine['cpu']}, which other work shared; {', '.join(report['versions'])}.{report.get('note', '')}"
    )


def pictures(results: Sequence[Result]) -> dict[str, str]:
    """The SVG plots, by name."""
    engines = _engines(results)

    def lines(axis: str, part: str, value: Callable[[Any], float]) -> dict[str, Points]:
        cells = {engine: axis_of(results, engine, part, axis) for engine in engines}
        return {
            engine: [(max(1, one["cell"][axis]), value(one["found"])) for one in found]
            for engine, found in cells.items()
        }

    cost = "µs of server CPU for an instance"
    return {
        "queued": plot(
            "Enqueue, claim and commit, by queued instances", "queued", cost, lines("queued", "verbs", _job)
        ),
        "kinds": plot("Enqueue, claim and commit, by kinds", "kinds", cost, lines("kinds", "verbs", _job)),
        "payload": plot("Enqueue, claim and commit, by payload", "bytes", cost, lines("payload", "verbs", _job)),
        "schedules": plot(
            "A fire, by schedules",
            "schedules",
            "µs of the leader's CPU",
            {
                engine: [
                    (one["cell"]["schedules"], one["found"]["fire"]["leader_cpu_us"])
                    for one in measured(results, engine, "schedules")
                ]
                for engine in engines
            },
        ),
        "idle": plot(
            "Idle nodes, by nodes",
            "nodes",
            "cores of the server",
            lines("nodes", "idle", lambda found: float(found["server_cores"])),
        ),
    }


def goals_table(results: Sequence[Result]) -> str:
    rows = [
        (
            one.goal,
            one.engine,
            f"{one.value:.2f} {one.unit}" + (f" ({one.at})" if one.at else ""),
            "pass" if one.reached else "**falls short**",
        )
        for one in verdicts(results)
    ]
    return table(("goal", "engine", "measured", ""), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown; a sentence if it has no rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if not lines:
        return "No results."
    return "\n".join((f"| {' | '.join(head)} |", "|---" * len(head) + "|", *lines))


def put_into(page: Path, text: str) -> None:
    """Replace what is between the markers of a page; raises ValueError if the page lacks them."""
    before, found, rest = page.read_text().partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"{page} needs the lines {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def put_sections(page: Path, texts: Mapping[str, str]) -> None:
    """Replace generated sections of a page, and keep the others; raises ValueError if the page lacks one."""
    head, old = _generated(page)
    if missing := texts.keys() - old.keys():
        raise ValueError(f"{page} needs the sections {', '.join(sorted(missing))}")
    new = (f"### {title}\n\n{texts.get(title, text)}" for title, text in old.items())
    put_into(page, "\n\n".join((head, *new)))


def _generated(page: Path) -> tuple[str, dict[str, str]]:
    """What is generated of a page now: the text before the first section, and the sections by title."""
    generated = page.read_text().partition(BEGIN)[2].partition(END)[0]
    head, *parts = re.split(r"^### ", generated, flags=re.MULTILINE)
    return head.strip(), {title: text.strip() for title, _, text in (part.partition("\n") for part in parts)}


def write_pictures(folder: Path, results: Sequence[Result], text: str) -> None:
    """Write the plots that a text shows into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, svg in pictures(results).items():
        if _picture(name) in text:
            (folder / f"scale-{name}.svg").write_text(svg)


def _picture(name: str) -> str:
    return f"![{name}]({IMAGES}/scale-{name}.svg)"


def _engines(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(result["cell"]["engine"] for result in results))


def _job(found: Any) -> float:
    """Microseconds of server CPU from the enqueue to the end of an instance."""
    return sum(float(found[verb]["cpu_us"]) for verb in VERBS)


def _verbs(results: Sequence[Result], axis: str) -> str:
    rows: list[tuple[str, ...]] = []
    for engine in _engines(results):
        for one in axis_of(results, engine, "verbs", axis):
            found = one["found"]
            longest = max(found["longest_ms"].items(), key=lambda script: float(script[1]), default=("—", 0.0))
            rows.append(
                (
                    engine,
                    number(one["cell"][axis]),
                    *(f"{found[verb]['cpu_us']:,.0f} µs, {found[verb]['operations']:.1f}" for verb in VERBS),
                    f"{longest[0]} {longest[1]:.2f} ms" if longest[1] else "—",
                    f"{found['memory_per_instance']:,}",
                )
            )
    head = ("engine", axis, *(f"{verb}: CPU, operations" for verb in VERBS), "longest step", "bytes per instance")
    return table(head, rows)


def _contention(results: Sequence[Result]) -> str:
    rows = [
        (
            engine,
            str(one["cell"]["nodes"]),
            f"{one['found']['job']['cpu_us']:,.0f} µs",
            f"{one['found']['job']['operations']:.1f}",
            f"{one['found']['conflicts']:.3f}",
            f"{one['found']['counter_conflicts']:.3f}",
        )
        for engine in _engines(results)
        for one in measured(results, engine, "contention")
    ]
    head = ("engine", "nodes", "CPU of claim and commit", "operations", "conflicts per instance", "of counters")
    return table(head, rows)


def _shards(results: Sequence[Result]) -> str:
    rows = [
        (
            engine,
            str(one["cell"]["namespaces"]),
            layout,
            " / ".join(f"{100 * share:.0f} %" for share in found["shares"]),
            f"{found['cpu_us']:.1f} µs, {found['operations']:.1f}",
            f"{found['busiest_cpu_us']:.1f} µs",
            f"{1e6 / found['busiest_cpu_us']:,.0f}",
            f"{found['rate']:,}",
            f"{found['busiest_cores']:.2f}",
        )
        for engine in _engines(results)
        for one in measured(results, engine, "shards")
        for layout, found in one["found"].items()
    ]
    head = (
        *("engine", "namespaces", "on", "operations of each shard", "a job, all shards: CPU, operations"),
        *("CPU of the busiest shard for a job", "jobs a second at one core of it", "jobs a second here", "cores of it"),
    )
    return table(head, rows)


def _waiting(results: Sequence[Result]) -> str:
    rows = [
        (
            engine,
            number(one["cell"]["waiting"]),
            str(one["cell"]["nodes"]),
            f"{one['found']['wakeups_per_enqueue']:.2f}",
            f"{one['found']['wakeups_per_end']:.2f}",
            f"{one['found']['watch']['operations']:.1f}",
            f"{one['found']['end']['operations']:.1f}",
            f"{one['found']['end']['cpu_us']:,.0f} µs",
        )
        for engine in _engines(results)
        for one in sorted(
            measured(results, engine, "waiting"), key=lambda one: (one["cell"]["nodes"], one["cell"]["waiting"])
        )
    ]
    head = (
        *("engine", "clients", "idle nodes", "wake-ups per enqueue", "wake-ups per awaited end"),
        *("operations of a wait", "operations of an end", "CPU of an end"),
    )
    return table(head, rows)


def _schedules(results: Sequence[Result]) -> str:
    rows = [
        (
            engine,
            number(one["cell"]["schedules"]),
            f"{one['found']['put']['cpu_us']:,.0f} µs",
            f"{one['found']['load']['leader_cpu_us']:,.0f} µs",
            f"{one['found']['idle']['leader_cpu_ms']:.1f} ms",
            f"{one['found']['fire']['cpu_us']:,.0f} µs",
            f"{one['found']['fire']['leader_cpu_us']:,.0f} µs",
            f"{one['found']['leader_memory'] / 2**20:,.0f} MiB",
        )
        for engine in _engines(results)
        for one in measured(results, engine, "schedules")
    ]
    head = (
        *("engine", "schedules", "server CPU of a put", "leader's CPU to load a row", "leader's CPU of an idle second"),
        *("server CPU of a fire", "leader's CPU of a fire and its job", "leader's memory"),
    )
    return table(head, rows)


def _phases(results: Sequence[Result], part: str, axes: Sequence[str]) -> str:
    """What one member, step or instance costs, by phase."""
    cells = [one for engine in _engines(results) for one in measured(results, engine, part)]
    phases = tuple(cells[0]["found"]) if cells else ()
    rows = [
        (
            one["cell"]["engine"],
            *(number(one["cell"][axis]) for axis in axes),
            *(f"{one['found'][phase]['cpu_us']:,.0f} µs, {one['found'][phase]['operations']:.1f}" for phase in phases),
        )
        for one in cells
    ]
    return table(("engine", *axes, *(f"{phase.replace('_', ' ')}: CPU, operations" for phase in phases)), rows)


def _idle(results: Sequence[Result]) -> str:
    rows = [
        (
            engine,
            described(one["cell"]),
            *(
                f"{one['found'][role]['requests']:.1f}, {one['found'][role]['operations']:.0f}, "
                + (f"{one['found'][role]['bytes'] / 1000:.1f} kB" if one["found"][role]["bytes"] else "—")
                for role in ("follower", "leader")
            ),
            f"{one['found']['server_cores']:.3f}",
            f"{one['found']['node_memory'] / 2**20:,.0f} MiB",
        )
        for engine in _engines(results)
        for one in measured(results, engine, "idle")
    ]
    head = (
        *("engine", "cell", "a follower's second: requests, operations, bytes", "a leader's second"),
        *("server's cores, all nodes", "memory of a node"),
    )
    return table(head, rows)


def _memory(runs: Mapping[str, Any]) -> str:
    """The memory of the processes at some shares of the jobs of a long run."""
    rows: list[tuple[str, ...]] = []
    for engine, run in runs.items():
        samples: Sequence[Mapping[str, Any]] = run["samples"]
        done = samples[-1]["jobs"]
        for share in (0.1, 0.25, 0.5, 0.75, 1.0):
            at = min(samples, key=lambda one: abs(int(one["jobs"]) - share * done))
            sizes = (f"{at[who] / 2**20:,.0f} MiB" if at[who] else "—" for who in ("worker", "client", "server"))
            rows.append((engine, f"{at['jobs']:,}", *sizes))
    return table(("engine", "jobs", "node that runs them", "node that schedules them", "server"), rows)


def _limits(results: Sequence[Result]) -> str:
    """How much of each size one core of the server can serve."""
    rows: list[tuple[str, ...]] = []
    for engine in _engines(results):
        costs = {one["cell"]["queued"]: _job(one["found"]) for one in axis_of(results, engine, "verbs", "queued")}
        idle = axis_of(results, engine, "idle", "nodes")
        if not costs:
            continue
        first, last = min(costs), max(costs)
        nodes = max(idle, key=lambda one: int(one["cell"]["nodes"]), default=None)
        per_node = nodes["found"]["server_cores"] / nodes["cell"]["nodes"] if nodes else 0.0
        bytes_each = axis_of(results, engine, "verbs", "queued")[-1]["found"]["memory_per_instance"]
        rows.append(
            (
                engine,
                f"{1e6 / costs[first]:,.0f}",
                f"{1e6 / costs[last]:,.0f} (at {last:,})",
                f"{1 / per_node:,.0f}" if per_node else "—",
                f"{bytes_each * 1e6 / 2**30:.1f} GiB",
            )
        )
    head = (
        *("engine", "instances a second, 1,000 queued", "… with the longest queue", "idle nodes"),
        "a million queued instances take",
    )
    return table(head, rows)


def _left_out(results: Sequence[Result]) -> str:
    groups: dict[tuple[str, str, str], list[str]] = {}
    for one in results:
        if "found" not in one:
            cell, why = one["cell"], one.get("skipped") or one.get("error", "")
            groups.setdefault((cell["engine"], cell["part"], why), []).append(described(cell))
    rows = [(engine, part, "; ".join(cells), why) for (engine, part, why), cells in groups.items()]
    return table(("engine", "what", "cells", "why"), rows) if rows else "All cells were measured."
