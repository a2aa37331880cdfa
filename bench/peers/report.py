"""The figures of a run: medians of the rounds, JSON, and Markdown tables."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A column of the tables."""

    key: str
    title: str
    unit: str
    best: str
    """`high` or `low`."""
    digits: int = 0


MEASURES = (
    Measure(key="drain 1", title="drain, one process", unit="jobs/s", best="high"),
    Measure(key="drain 2", title="drain, two processes", unit="jobs/s", best="high"),
    Measure(key="pauses", title="2,000 × 10 ms, ten slots", unit="s", best="low", digits=2),
    Measure(key="enqueue one", title="enqueue, one at a time", unit="jobs/s", best="high"),
    Measure(key="enqueue together", title="enqueue, 100 at once", unit="jobs/s", best="high"),
    Measure(key="enqueue bulk", title="enqueue, bulk", unit="jobs/s", best="high"),
    Measure(key="enqueue sync", title="enqueue from synchronous code", unit="jobs/s", best="high"),
    Measure(key="enqueue sync 8", title="enqueue from synchronous code, eight threads", unit="jobs/s", best="high"),
    Measure(key="latency p50", title="idle latency p50", unit="ms", best="low", digits=2),
    Measure(key="latency p99", title="idle latency p99", unit="ms", best="low", digits=2),
    Measure(key="worker cpu", title="worker CPU per 1,000 jobs", unit="s", best="low", digits=3),
    Measure(key="server cpu", title="server CPU per 1,000 jobs", unit="s", best="low", digits=3),
    Measure(key="peak", title="peak memory of a process", unit="MiB", best="low"),
    Measure(key="together", title="memory of all its processes", unit="MiB", best="low"),
    Measure(key="after kill", title="runs again after kill -9", unit="s", best="low", digits=1),
)
GIVEN_UP = "given up"
"""What stands in JSON for a time that was not awaited; `inf` here."""
BY_KEY = {measure.key: measure for measure in MEASURES}


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured of one peer."""

    name: str
    setting: str
    keeps: str
    reference: bool
    versions: dict[str, str]
    rounds: list[dict[str, float | str]]

    def median(self, key: str) -> float | None:
        """The median of the rounds that have the figure; None if none has it."""
        return median([value for one in self.rounds if isinstance(value := one.get(key), float)])

    @property
    def failures(self) -> list[str]:
        """The first line of each failure."""
        texts = [str(value) for one in self.rounds for key, value in one.items() if key.startswith("failed")]
        return sorted({text.partition("\n")[0] for text in texts})


@dataclass(frozen=True, kw_only=True)
class Report:
    command: str
    begun: str
    ended: str
    rounds: int
    quick: bool
    ahead: bool
    """Whether the measured processes ran before the other work of the machine."""
    machine: dict[str, str]
    servers: dict[str, str]
    results: list[Result]
    missing: dict[str, str] = field(default_factory=dict[str, str])
    """The peers that could not be installed, with the reasons."""

    def to_json(self) -> str:
        body = asdict(self)
        for result, given in zip(self.results, body["results"], strict=True):
            given["medians"] = {one.key: result.median(one.key) for one in MEASURES}
            for figures in (given["medians"], *given["rounds"]):
                figures.update({key: GIVEN_UP for key, value in figures.items() if value == math.inf})
        return json.dumps(body, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        body: dict[str, Any] = json.loads(text)
        results = [
            Result(**{key: value for key, value in one.items() if key != "medians"}) for one in body.pop("results")
        ]
        for figures in (one for result in results for one in result.rounds):
            figures.update({key: math.inf for key, value in figures.items() if value == GIVEN_UP})
        return cls(results=results, **body)

    def table(self, keys: Sequence[str] = tuple(BY_KEY)) -> str:
        """Markdown: a line for each peer, a column for each measure; the best peer of a column is bold."""
        measures = [BY_KEY[key] for key in keys]
        best = {measure.key: self.best(measure) for measure in measures}
        rows = [
            ["", *(f"{measure.title}, {measure.unit}" for measure in measures)],
            *(
                [result.name, *(_cell(result, measure, best[measure.key]) for measure in measures)]
                for result in self.results
            ),
        ]
        return markdown_table(rows)

    def best(self, measure: Measure, *, of: str = "") -> Result | None:
        """The peer with the best figure among those whose names begin with `of`; references do not take part."""
        having = [
            result
            for result in self.results
            if not result.reference
            and result.name.startswith(of)
            and math.isfinite(result.median(measure.key) or math.inf)
        ]
        if not having:
            return None
        return (max if measure.best == "high" else min)(having, key=lambda result: result.median(measure.key) or 0)


def median(values: Sequence[float]) -> float | None:
    """The median; None of nothing. `inf` is a value that was given up."""
    return statistics.median_high(values) if values else None


def number(value: float | None, measure: Measure) -> str:
    """A figure as readers see it."""
    if value is None:
        return "—"
    if math.isinf(value):
        return "> 60"
    return f"{value:,.{measure.digits}f}"


def markdown_table(rows: Sequence[Sequence[str]], *, numbers: bool = True) -> str:
    """A table whose first row is its head. Its other columns are numbers, which stand on the right, or text."""
    head, *body = rows
    lines = [head, ["---", *["--:" if numbers else "---"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(result: Result, measure: Measure, best: Result | None) -> str:
    text = number(result.median(measure.key), measure)
    return f"**{text}**" if best is result else text
