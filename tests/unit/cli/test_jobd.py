"""What the command answers before it starts anything."""

from collections.abc import Callable

import pytest

from peerjob import __version__
from peerjob.cli.jobd import main

Answer = tuple[int, str, str]
Jobd = Callable[..., Answer]


@pytest.fixture
def jobd(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Jobd:
    """Run the command here; its status, standard output and standard error."""

    def run(*arguments: str) -> Answer:
        monkeypatch.setattr("sys.argv", ["jobd", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        status = ended.value.code
        return (status if isinstance(status, int) else 0 if status is None else 1), out, err

    return run


@pytest.mark.parametrize("arguments", [("version",), ("--version",)])
def test_the_version_is_shown(jobd: Jobd, arguments: tuple[str, ...]) -> None:
    assert jobd(*arguments) == (0, f"peerjob {__version__}\n", "")


def test_the_help_tells_every_option_and_its_default(jobd: Jobd) -> None:
    status, out, err = jobd("demo", "--help")

    assert (status, err) == (0, "")
    for word in ("--store", "--nodes", "--no-kill", "--workers", "--files", "--namespace", "--json"):
        assert word in out
    for default in ("(3; 1 on", "default: 4", "(all)", "(a fresh one)"):
        assert default in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--nope"], "--nope"),
        (["demo", "extra"], "extra"),
        (["nope"], "nope"),
        (["demo", "--store"], "requires an argument"),
        (["demo", "--store", "foo://x"], "sqlite:// or memory://"),
        (["demo", "--store", ""], "sqlite:// or memory://"),
        (["demo", "--store", "redis://user:hidden@h:1/?no=1"], "no"),
        (["demo", "--store", "redis://127.0.0.1:port"], "port"),
        (["demo", "--nodes", "0"], "--nodes"),
        (["demo", "--nodes", "33"], "--nodes"),
        (["demo", "--nodes", "two"], "--nodes"),
        (["demo", "--workers", "0"], "--workers"),
        (["demo", "--files", "-1"], "--files"),
        (["demo", "--namespace", "a b"], "'a b'"),
        (["demo", "--namespace", ""], "namespace"),
        (["demo", "--store", "memory://", "--nodes", "2"], "memory://"),
    ],
)
def test_a_usage_error_is_one_line_and_status_2(jobd: Jobd, arguments: list[str], message: str) -> None:
    status, out, err = jobd(*arguments)

    assert (status, out) == (2, "")
    assert err.startswith("jobd: ")
    assert err.count("\n") == 1
    assert message in err
    assert "hidden" not in err


def test_no_command_shows_the_help(jobd: Jobd) -> None:
    status, out, err = jobd()

    assert (status, err) == (2, "")
    assert "demo" in out
