"""Pages are read one after the other, each from the cursor of the one before."""

from peerjob.model.pages import pages
from peerjob.model.query import ResultPage


async def test_each_page_is_read_once_up_to_the_last() -> None:
    cursors: list[str | None] = []

    async def read(cursor: str | None) -> ResultPage[int]:
        cursors.append(cursor)
        return ResultPage([len(cursors)], {None: "b", "b": "c"}.get(cursor))

    assert [page async for page in pages(read)] == [[1], [2], [3]]
    assert cursors == [None, "b", "c"]


async def test_reading_begins_at_a_cursor() -> None:
    async def read(cursor: str | None) -> ResultPage[str | None]:
        return ResultPage([cursor])

    assert [page async for page in pages(read, "b")] == [["b"]]
