"""The tree of a flow, or of the children of a body, as a drawing: what needs what, and what is not over."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from peerjob.handles.instance import Instance
from peerjob.model.graph import Graph, member_id
from peerjob.model.printable import printable
from peerjob.model.state import State

from .links import Links
from .timeline import state_class

MAX_DRAWN = 200
"""The most boxes of a drawing."""
MAX_ALIKE = 8
"""The most boxes of one kind in a column; more of them are folded into one box."""
MAX_CHILDREN = 2_000
"""The most children of which a page reads the state."""
MAX_BLOCKERS = 10
"""The most instances that the page names as what the others wait for."""
BOX, HEIGHT, COLUMN, ROW, PAD = 168, 34, 232, 46, 6
"""The size of a box, and the distance of two columns and of two rows."""
MAX_LABEL = 22


@dataclass(frozen=True, kw_only=True)
class Part:
    """One child: its id, its kind, the numbers of the children that it needs, and its instance if it was read."""

    id: str
    kind: str
    needs: Sequence[int] = ()
    instance: Instance[Any] | None = None


@dataclass(kw_only=True)
class Box:
    """One child, or several children of one kind that are alike."""

    column: int
    numbers: list[int] = field(default_factory=list[int])
    row: int = 0


def parts_of(graph: Graph, flow: str, children: Mapping[str, Instance[Any]]) -> list[Part]:
    """The members of a flow, with those instances that were read."""
    return [
        Part(
            id=(id := member_id(flow, number)),
            kind=graph.kind(number),
            needs=[needed for needed, _ in member.needed()],
            instance=children.get(id),
        )
        for number, member in enumerate(graph.members)
    ]


def blockers(parts: Sequence[Part]) -> list[Part]:
    """The children that are not over and need no child that is not over: the others wait for these."""
    unfinished = {number for number, part in enumerate(parts) if not is_over(part)}
    waiting = [parts[number] for number in sorted(unfinished) if not unfinished.intersection(parts[number].needs)]
    return [part for part in waiting if part.instance is not None][:MAX_BLOCKERS]


def is_over(part: Part) -> bool:
    """Whether a child was read and is final."""
    return part.instance is not None and part.instance.state.is_final


def tree(parts: Sequence[Part], links: Links) -> Markup:
    """The drawing: a column for each step of the longest way, an arrow for each need; empty without children."""
    if not parts:
        return Markup("")
    boxes = _boxes(parts)
    box_of = {number: box for box in boxes for number in box.numbers}
    lines = {
        (id(box_of[needed]), id(box_of[number])): (box_of[needed], box_of[number])
        for number, part in enumerate(parts)
        for needed in part.needs
        if number in box_of and needed in box_of and box_of[needed] is not box_of[number]
    }
    width = max(box.column for box in boxes) * COLUMN + BOX + 2 * PAD
    height = max(box.row for box in boxes) * ROW + HEIGHT + 2 * PAD
    drawn = [_line(*ends) for ends in lines.values()] + [_drawn(box, parts, links) for box in boxes]
    label = ", ".join(f"{count} {state}" for state, count in _states(parts, range(len(parts))).items())
    return Markup(
        '<svg class="flow" width="{0}" height="{1}" viewBox="0 0 {0} {1}" role="img" aria-label="{2}">{3}</svg>'
    ).format(width, height, label, Markup("").join(drawn))


def _boxes(parts: Sequence[Part]) -> list[Box]:
    columns = _columns(parts)
    alike: dict[tuple[int, str], list[int]] = defaultdict(list)
    for number, part in enumerate(parts):
        alike[columns[number], part.kind].append(number)
    most = MAX_ALIKE
    while most > 1 and sum(len(group) if len(group) <= most else 1 for group in alike.values()) > MAX_DRAWN:
        most -= 1
    boxes: list[Box] = []
    rows: Counter[int] = Counter()
    for (column, _), group in sorted(alike.items(), key=lambda entry: (entry[0][0], entry[1][0])):
        for numbers in [group] if len(group) > most else [[number] for number in group]:
            boxes.append(Box(column=column, numbers=numbers, row=rows[column]))
            rows[column] += 1
    return boxes[:MAX_DRAWN]


def _columns(parts: Sequence[Part]) -> list[int]:
    """The column of each child: one more than the greatest of those that it needs, which come before it."""
    columns: list[int] = []
    for part in parts:
        columns.append(1 + max((columns[needed] for needed in part.needs), default=-1))
    return columns


def _line(begin: Box, end: Box) -> Markup:
    x1, y1 = begin.column * COLUMN + BOX + PAD, begin.row * ROW + HEIGHT // 2 + PAD
    x2, y2 = end.column * COLUMN + PAD, end.row * ROW + HEIGHT // 2 + PAD
    middle = (x1 + x2) // 2
    return Markup('<path d="M{} {} C{} {} {} {} {} {}"/>').format(x1, y1, middle, y1, middle, y2, x2, y2)


def _drawn(box: Box, parts: Sequence[Part], links: Links) -> Markup:
    x, y = box.column * COLUMN + PAD, box.row * ROW + PAD
    first, states = parts[box.numbers[0]], _states(parts, box.numbers)
    shown = ", ".join(f"{count:,} {state}" for state, count in states.items())
    single = len(box.numbers) == 1
    title = f"{first.kind}: {next(iter(states))}" if single else f"{len(box.numbers):,} × {first.kind}: {shown}"
    name = printable(first.kind if single else f"{len(box.numbers):,} × {first.kind}")
    label = name if len(name) <= MAX_LABEL else f"{name[: MAX_LABEL - 1]}…"
    text = Markup(
        '<rect class="{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>'
        '<text x="{}" y="{}">{}</text><text class="muted" x="{}" y="{}">{}</text>'
    ).format(_class(parts, box), x, y, BOX, HEIGHT, printable(title), x + 8, y + 15, label, x + 8, y + 28, shown[:28])
    if not single or first.instance is None:
        return text
    return Markup('<a href="{}">{}</a>').format(links.url(f"/instances/{first.id}"), text)


def _states(parts: Sequence[Part], numbers: Sequence[int] | range) -> dict[str, int]:
    return dict(Counter(_state_text(parts[number]) for number in numbers).most_common())


def _state_text(part: Part) -> str:
    return "not made" if part.instance is None else str(part.instance.state)


def _class(parts: Sequence[Part], box: Box) -> str:
    """The class of the worst state in a box."""
    states = [part.instance.state for number in box.numbers if (part := parts[number]).instance is not None]
    for state in (State.TERMINATED, State.TIMED_OUT, State.CANCELLED, State.PROCESSING):
        if state in states:
            return state_class(state)
    complete = len(states) == len(box.numbers) and all(state is State.COMPLETED for state in states)
    return state_class(State.COMPLETED if complete else State.SCHEDULED)
