"""The table of releases that work together says what the code of this release reads and writes."""

import re
from pathlib import Path

import pytest

from peerjob import LayoutError, __version__
from peerjob.proto.job.v1 import service_pb2
from peerjob.store.rules import LAYOUT, check_layout
from peerjob.transfer.lines import FORMAT

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
HIGHEST = LAYOUT + 10


def test_the_table_has_the_layouts_and_formats_of_this_release() -> None:
    release = ".".join(__version__.split(".")[:2])
    reads = ", ".join(str(layout) for layout in range(HIGHEST) if reads_layout(layout))
    expected = f"| {release} | {LAYOUT} | {reads} | `{service_pb2.DESCRIPTOR.package}` | format {FORMAT} |"
    rows = re.findall(rf"^\| {re.escape(release)} \|.*$", PAGE.read_text(), re.MULTILINE)
    assert rows == [expected], f"docs/compatibility.md needs this row: {expected}"


def reads_layout(layout: int) -> bool:
    try:
        check_layout(str(layout), namespace="shop", url="memory://")
    except LayoutError:
        return False
    return True


@pytest.mark.parametrize("layout", ["", "x", "-1", str(HIGHEST)])
def test_no_release_reads_a_layout_that_it_does_not_know(layout: str) -> None:
    with pytest.raises(LayoutError):
        check_layout(layout, namespace="shop", url="memory://")
