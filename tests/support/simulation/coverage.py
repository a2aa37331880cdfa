"""Which verbs met which faults, over a run of many programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

Pairs = Counter[tuple[str, str]]


def table(pairs: Pairs) -> str:
    """The counts as a table in Markdown: a row for each verb, a column for each fault."""
    verbs = sorted({verb for verb, _ in pairs})
    faults = sorted({fault for _, fault in pairs})
    rows = [["verb", *faults], ["---"] * (len(faults) + 1)]
    rows += [[f"`{verb}`", *(f"{pairs[verb, fault]:,}" for fault in faults)] for verb in verbs]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def rare(pairs: Pairs, least: int) -> Iterable[tuple[str, str, int]]:
    """The pairs of a verb and a fault that met less often than that."""
    verbs, faults = {verb for verb, _ in pairs}, {fault for _, fault in pairs}
    for verb in sorted(verbs):
        for fault in sorted(faults):
            if pairs[verb, fault] < least:
                yield verb, fault, pairs[verb, fault]
