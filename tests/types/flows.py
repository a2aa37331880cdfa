"""Flows: an output stands for a value of the type of its member's result, and for no other."""

from typing import assert_type

from peerjob import Ended, ErrorInfo, Flow, Member, State, job


@job(kind="fetch")
async def fetch(url: str) -> bytes:
    return url.encode()


@job(kind="parse")
def parse(page: bytes, part: int = 0) -> int:
    return len(page) + part


@job(kind="merge")
def merge(parts: list[int]) -> int:
    return sum(parts)


@job(kind="report")
def report(end: Ended[int]) -> None: ...


def make() -> Flow:
    flow = Flow("import")
    page = flow.add(fetch.call("https://example.org"))
    assert_type(page, Member[bytes])
    assert_type(page.output, bytes)
    assert_type(page.ended, Ended[bytes])
    parts = [flow.add(parse.call(page.output, n)) for n in range(8)]
    total = flow.add(merge.call([part.output for part in parts]), after=[page])
    assert_type(total, Member[int])
    assert_type(flow.add(report.call(total.ended), when="ended", optional=True), Member[None])
    assert_type(total.ended.result, int | None)
    assert_type(total.ended.error, ErrorInfo | None)
    assert_type(total.ended.state, State)
    return flow


def mistakes(flow: Flow) -> None:
    page = flow.add(fetch.call("x"))
    total = flow.add(parse.call(page.output))
    flow.add(parse.call(total.output))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    flow.add(merge.call(total.output))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    flow.add(merge.call([page.output]))  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    flow.add(report.call(total.output))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    flow.add(report.call(page.ended))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    flow.add(parse.call())  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue, reportUnknownArgumentType]
    flow.add(parse)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    flow.add(fetch.call("x"), after=page)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    flow.add(fetch.call("x"), after=[page.output])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    flow.add(fetch.call("x"), when="final")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    flow.add(fetch.call("x"), optional="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
