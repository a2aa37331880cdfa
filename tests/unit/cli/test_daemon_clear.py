"""`jobd clear` asks first, also in a script."""

import io
from pathlib import Path

import pytest

from peerjob import Node
from peerjob.cli.console import ExitStatus
from peerjob.cli.daemon.clear import clear
from peerjob.cli.daemon.settings import DaemonSettings


@pytest.mark.parametrize(("answer", "status"), [("", ExitStatus.USAGE), ("n\n", 1), ("y\n", 0)])
def test_an_answer_comes_through_a_pipe_or_not_at_all(
    answer: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = f"sqlite://{tmp_path / 'jobs.db'}"
    with Node(url, workers=0, allow_unknown=True).blocking() as manager:
        manager.schedule("work")
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    assert clear(DaemonSettings(store=url), yes=False) == status
    told = "jobd: there is no terminal for a confirmation: use --yes\n"
    assert capsys.readouterr().err.endswith(told) == (answer == "")
    with Node(url, workers=0).blocking() as manager:
        assert manager.count() == (0 if status == ExitStatus.OK else 1)
