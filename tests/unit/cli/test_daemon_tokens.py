"""Tokens that the command makes are those that a daemon lets in."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from peerjob import OptionError, Role, Token, Tokens
from peerjob.cli.daemon.tokens import TokensFile, create
from peerjob.cli.jobd import main
from peerjob.model.rights import Rights

Answer = tuple[int, str, str]


def role_of(tokens: Tokens, token: str) -> Role | None:
    found = tokens.find(token)
    return None if found is None else found.rights.role


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
    assert role_of(Tokens.load(path), token) is Role.OPERATOR


def test_a_new_token_is_a_reader_and_differs_from_the_last(tmp_path: Path, token_create: Callable[..., Answer]) -> None:
    made = [token_create("--tokens-file", str(tmp_path / "tokens"))[1].strip() for _ in range(2)]

    tokens = Tokens.load(tmp_path / "tokens")
    assert made[0] != made[1]
    assert [role_of(tokens, one) for one in made] == [Role.READER, Role.READER]


def test_what_stood_in_the_file_stays_also_without_an_end_of_line(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"# ours\n{Token.of('old', Role.ADMIN).line()}")

    made = create(path, Rights(role=Role.READER), "")

    tokens = Tokens.load(path)
    assert (role_of(tokens, "old"), role_of(tokens, made), len(tokens)) == (Role.ADMIN, Role.READER, 2)


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
        create(tmp_path / "tokens", Rights(role=Role.READER), "alice\nadmin")

    assert not (tmp_path / "tokens").exists()


def test_a_reload_takes_the_file_as_it_is_now(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    old = create(path, Rights(role=Role.READER), "")
    tokens = TokensFile(path)
    path.write_text("")
    new = create(path, Rights(role=Role.ADMIN), "")
    assert (role_of(tokens, old), role_of(tokens, new)) == (Role.READER, None)

    tokens.reload()

    assert (role_of(tokens, old), role_of(tokens, new), len(tokens)) == (None, Role.ADMIN, 1)


def test_a_reload_of_a_damaged_file_keeps_what_was_known(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    token = create(path, Rights(role=Role.READER), "")
    tokens = TokensFile(path)
    path.write_text("rubbish here\n")

    with pytest.raises(OptionError, match="line 1"):
        tokens.reload()

    assert role_of(tokens, token) is Role.READER


def test_a_token_of_the_command_is_limited(token_create: Callable[..., Answer], tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    limits = ("--kinds", "mail.*,report", "--namespaces", "prod", "--until", "2027-01-31T00:00:00Z")
    status, out, _ = token_create("--tokens-file", str(path), "--role", "operator", "--name", "ci", *limits)

    found = Tokens.load(path).find(out.strip())
    assert status == 0
    assert found is not None
    assert (found.name, found.rights.role, found.rights.kinds) == ("ci", Role.OPERATOR, ("mail.*", "report"))
    assert (found.rights.namespaces, found.rights.until) == (("prod",), datetime(2027, 1, 31, tzinfo=UTC))


@pytest.mark.parametrize("wrong", [("--kinds", "a*b"), ("--until", "soon"), ("--namespaces", ""), ("--name", "a=b")])
def test_a_wrong_limit_makes_no_token(
    token_create: Callable[..., Answer], tmp_path: Path, wrong: tuple[str, str]
) -> None:
    status, out, err = token_create("--tokens-file", str(tmp_path / "tokens"), *wrong)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert not (tmp_path / "tokens").exists()
