"""`jobctl cancel` and `retry` of very many instances: each part is shown as it comes."""

import io
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from rich.console import Console

from peerjob import Client, Job, Query
from peerjob.cli.ctl.output import Column, Format, Printer, TableView
from peerjob.cli.ctl.parts import print_parts
from peerjob.cli.ctl.tables import instances
from peerjob.model.clock import to_datetime
from support.rpc import served

VIEW: TableView[dict[str, Any]] = TableView(
    columns=(
        Column(title="NAME", text=lambda one: one["name"], whole=True),
        Column(title="MORE", text=lambda one: str(one["more"])),
    ),
    name=lambda one: one["name"],
    plain=lambda one: one,
    nothing="no names",
)
ROWS: list[dict[str, Any]] = [{"name": f"name {number}", "more": [number, {"x": "a\nb"}]} for number in range(10)]


async def in_parts(rows: Sequence[dict[str, Any]], size: int, *, error: Exception | None = None) -> AsyncIterator[Any]:
    for at in range(0, len(rows), size):
        yield rows[at : at + size]
    yield []
    if error is not None:
        raise error


@pytest.mark.parametrize("size", [1, 3, 10])
@pytest.mark.parametrize("format", list(Format))
@pytest.mark.parametrize("count", [0, 1, 10])
async def test_parts_are_shown_as_the_whole_list_is(
    format: Format, size: int, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ROWS[:count]
    Printer(format).many(rows, VIEW)
    whole = capsys.readouterr()
    await print_parts(Printer(format), in_parts(rows, size), VIEW)
    assert capsys.readouterr() == whole


async def test_a_list_that_ends_with_an_error_is_a_whole_document(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="lost"):
        await print_parts(Printer(Format.JSON), in_parts(ROWS, 4, error=OSError("lost")), VIEW)
    assert json.loads(capsys.readouterr().out) == ROWS
    with pytest.raises(OSError, match="lost"):
        await print_parts(Printer(Format.JSON), in_parts([], 4, error=OSError("lost")), VIEW)
    assert capsys.readouterr().out == ""


async def test_columns_of_later_parts_are_as_wide_at_least() -> None:
    out = Printer(Format.TABLE)
    out.console = Console(file=io.StringIO(), width=200)
    rows = [{"name": "n" * width, "more": "x"} for width in (5, 20, 5)]
    await print_parts(out, in_parts(rows, 1), VIEW)
    printed = out.console.file.getvalue()  # type: ignore[attr-defined]  # it is a StringIO
    assert [line.rstrip() for line in printed.splitlines()] == [
        "NAME   MORE",
        "nnnnn  x",
        "nnnnnnnnnnnnnnnnnnnn  x",
        "nnnnn                 x",
    ]


def echo(text: str) -> str:
    return text


@pytest.mark.parametrize("verb", ["cancel", "retry"])
async def test_instances_are_shown_before_the_next_ones_are_changed(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    echoing = Job("echo", echo).with_options(after="1h")
    async with served(echoing) as (node, server), Client(server.target) as client:
        made = await node.schedule_many([echoing.call("x" * 20_000) for _ in range(300)])
        if verb == "retry":
            await node.cancel_instances(Query.all())
        pages = client.cancel_pages(Query(kind="echo")) if verb == "cancel" else client.retry_pages(Query(kind="echo"))
        shown: list[int] = []
        changed: list[int] = []

        async def noted() -> AsyncIterator[Any]:
            async for page in pages:
                shown.append(capsys.readouterr().out.count("\n"))
                done = node.count(Query(state="cancelled")) if verb == "cancel" else node.count()
                changed.append(await done - (len(made) if verb == "retry" else 0))
                yield page

        now = to_datetime(node.clock.time_us())
        await print_parts(Printer(Format.NAME), noted(), instances(now))
        parts = [*shown[1:], capsys.readouterr().out.count("\n")]
        assert sum(parts) == changed[-1] == len(made)
        assert len(parts) > 2
        # each part was on the terminal before the next one was changed
        assert [sum(parts[: number + 1]) for number in range(len(parts))] == changed
