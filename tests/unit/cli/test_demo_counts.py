"""What the demo counts, and that counts add up."""

import sysconfig
from pathlib import Path

import pytest

from peerjob.cli.demo.workload import Count, count_file, source_files


def test_a_file_counts_with_lines_tokens_and_definitions(tmp_path: Path) -> None:
    file = tmp_path / "one.py"
    file.write_text("class A:\n    def f(self): pass\n\nasync def g(): ...\n")

    found = count_file(str(file))

    assert found["tokens"] > 20
    assert found == Count(files=1, lines=4, definitions=3, tokens=found["tokens"])


@pytest.mark.parametrize(
    "source",
    [b"def f(:\n  x = '''never closed\n", b"# coding: nonsense\nx = 1\n", b"x = '\xff'\nx\n", b"if x:\n  a\n b\n"],
    ids=["open text", "unknown coding", "not text", "dedent to nowhere"],
)
def test_a_file_that_cannot_be_tokenized_counts_as_lines_only(source: bytes, tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_bytes(source)

    assert count_file(str(file)) == Count(files=1, lines=source.count(b"\n"), untokenized=1)


def test_counts_add_up(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("a.py", "b.py")]
    for path in paths:
        Path(path).write_text("def f(): pass\n")

    both = sum(map(count_file, paths), Count())

    assert both == count_file(paths[0]) + count_file(paths[1])
    assert (both["files"], both["definitions"]) == (2, 2)


def test_the_files_are_those_of_the_standard_library() -> None:
    files = source_files()
    root = Path(sysconfig.get_path("stdlib"))

    assert len(files) > 300
    assert files == sorted(set(files))
    assert str(root / "tokenize.py") in files
    assert not [path for path in files if "site-packages" in path or "dist-packages" in path]
    assert source_files(7) == files[:7]
