"""Tokens that the command makes are those that a daemon lets in."""

from collections.abc import Callable
from pathlib import Path

import pytest

from peerjob import OptionError, Role, Token, Tokens
from peerjob.cli.daemon.tokens import TokensFile, create
from peerjob.cli.jobd import main

Answer = tuple[int, str, str]


@pytest.fixture
def token_create(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run the command here; its status, standard output and standard error."""

    def run(*arguments: str) -> Answer:
        monkeypatch.setattr("sys.argv", ["jobd", "token", "create", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        status = ended.value.code
        return (status if isinstance(status, int) else 0 if status is None else 1), out, err

    return run


def test_the_token_is_printed_and_its_hash_kept(token_create: Callable[..., Answer], tmp_path: Path) -> None:
    path = tmp_path / "tokens"

    status, out, err = token_create("--tokens-file", str(path), "--role", "operator", "--name", "alice")

    token = out.strip()
    assert (status, err) == (0, "")
    assert len(token) >= 40
    assert path.read_text() == f"{Token.of(token, Role.OPERATOR, 'alice').line()}\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert Tokens.load(path).role_of(token) is Role.OPERATOR


def test_a_new_token_is_a_reader_and_differs_from_the_last(tmp_path: Path, token_create: Callable[..., Answer]) -> None:
    made = [token_create("--tokens-file", str(tmp_path / "tokens"))[1].strip() for _ in range(2)]

    tokens = Tokens.load(tmp_path / "tokens")
    assert made[0] != made[1]
    assert [tokens.role_of(one) for one in made] == [Role.READER, Role.READER]


def test_what_stood_in_the_file_stays_also_without_an_end_of_line(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"# ours\n{Token.of('old', Role.ADMIN).line()}")

    made = create(path, Role.READER, "")

    tokens = Tokens.load(path)
    assert (tokens.role_of("old"), tokens.role_of(made), len(tokens)) == (Role.ADMIN, Role.READER, 2)


@pytest.mark.parametrize("content", ["root:x:0:0\n", "reader nothex\n"])
def test_a_file_of_something_else_is_not_touched(
    token_create: Callable[..., Answer], tmp_path: Path, content: str
) -> None:
    path = tmp_path / "tokens"
    path.write_text(content)

    status, out, err = token_create("--tokens-file", str(path))

    assert (status, out, path.read_text()) == (2, "", content)
    assert f"{path}, line 1" in err
    assert err.count("\n") == 1


def test_a_name_of_two_lines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--name"):
        create(tmp_path / "tokens", Role.READER, "alice\nadmin")

    assert not (tmp_path / "tokens").exists()


def test_a_reload_takes_the_file_as_it_is_now(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    old = create(path, Role.READER, "")
    tokens = TokensFile(path)
    path.write_text("")
    new = create(path, Role.ADMIN, "")
    assert (tokens.role_of(old), tokens.role_of(new)) == (Role.READER, None)

    tokens.reload()

    assert (tokens.role_of(old), tokens.role_of(new), len(tokens)) == (None, Role.ADMIN, 1)


def test_a_reload_of_a_damaged_file_keeps_what_was_known(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    token = create(path, Role.READER, "")
    tokens = TokensFile(path)
    path.write_text("rubbish here\n")

    with pytest.raises(OptionError, match="line 1"):
        tokens.reload()

    assert tokens.role_of(token) is Role.READER
