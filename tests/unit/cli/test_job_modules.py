"""What jobd says about a module that it cannot import."""

import sys
from pathlib import Path

import pytest

from peerjob import OptionError
from peerjob.cli.daemon.modules import JobModules

SILENT = "class Odd(Exception):\n    def __str__(self): raise KeyError"
SOURCES = {
    "raise ValueError('no')": "ValueError: no at ",
    f"{SILENT}\nraise Odd": "Odd: Odd() at ",
    f"{SILENT}\n    __repr__ = __str__\nraise Odd": "<Odd that cannot be shown>",
    "raise SystemExit(3)": "SystemExit: 3 at ",
    "x = (": "SyntaxError: ",
    "import peerjob\n@peerjob.job('sum')\ndef add(): ...": "@job(kind=\"sum\"), got 'sum' at {module}:2)",
}


@pytest.mark.parametrize("source", SOURCES)
def test_the_reason_is_the_error_of_the_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    (tmp_path / "broken_jobs.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OptionError) as caught:
        JobModules(["broken_jobs"]).load()
    assert SOURCES[source].replace("{module}", str(tmp_path / "broken_jobs.py")) in str(caught.value)
    assert "broken_jobs" not in sys.modules


@pytest.mark.parametrize(
    ("name", "absent"), [("no_jobs", "no_jobs"), ("no_jobs.mail", "no_jobs"), ("json.no_jobs",) * 2]
)
def test_a_module_that_is_absent_is_searched_in_the_first_folder_of_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, absent: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OptionError) as caught:
        JobModules([name]).load()
    assert f"(there is no {absent} in {tmp_path} or among what is installed)" in str(caught.value)
