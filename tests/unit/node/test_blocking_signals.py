"""A signal handler calls verbs of a blocking manager, whatever code of the manager it interrupts."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from peerjob import Job, Node, NodeStateError
from support.forks import in_child


def add(x: int, y: int) -> int:
    return x + y


ADD = Job("add", add)


def lines_of(work: Callable[[], object], handle: Callable[[], object] = lambda: None, at: int = 0) -> int:
    """Run work, and a signal handler before its line with this number; returns the number of its lines.

    Python can run the handler of a signal before any line. Here the trace function stands for Python.
    """
    lines = 0

    def trace(_frame: FrameType, event: str, _given: object) -> Any:
        nonlocal lines
        if event == "line":
            lines += 1
            if lines == at:
                handle()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return lines


def test_a_handler_calls_a_verb_at_any_line_of_another_one() -> None:
    def use() -> None:
        with Node(jobs=ADD, workers=0).blocking() as manager:
            lines = lines_of(manager.count)
            assert lines > 20
            for at in range(1, lines + 1):
                lines_of(manager.count, lambda: manager.schedule(ADD, 1, 2), at)
            assert manager.count() == lines

    assert in_child(use) == 0


def test_a_handler_calls_a_verb_at_any_line_of_the_start() -> None:
    """The start goes on, and the handler learns that it has to come later."""

    def use() -> None:
        refused = list[str]()

        def handle() -> None:
            try:
                manager.count()
            except NodeStateError as error:
                refused.append(str(error))

        first = Node(jobs=ADD, workers=0).blocking()
        lines = lines_of(first.start)
        first.close()
        for at in range(1, lines + 1, 7):
            manager = Node(jobs=ADD, workers=0).blocking()
            lines_of(manager.start, handle, at)
            assert manager.count() == 0
            manager.close()
        assert refused
        assert all("interrupted the start" in text for text in refused)

    assert in_child(use) == 0
