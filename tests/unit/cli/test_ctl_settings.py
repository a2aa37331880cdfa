"""Where jobctl connects: options, then the environment, then a context of the file."""

from pathlib import Path
from typing import Any

import pytest

from peerjob.cli.ctl.commands import ClientSession
from peerjob.cli.ctl.settings import CtlSettings, settings_of
from peerjob.model.errors import OptionError
from peerjob.remote.client import client as remote
from peerjob.remote.wire.tls import ClientTls

CONTEXTS = """
context = "near"

[contexts.near]
address = "near:1"

[contexts.far]
host = "far"
port = 7
tls-ca = "ca.pem"
token-file = "token"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(CONTEXTS)
    (tmp_path / "token").write_text("from-the-file\n")
    return path


def resolved(file: Path | None = None, /, environment: dict[str, str] | None = None, **given: Any) -> CtlSettings:
    home = {"XDG_CONFIG_HOME": "/nonexistent"} if file is None else {"PEERJOB_CONFIG": str(file)}
    return settings_of(given, {**home, **(environment or {})})


def test_without_any_setting_it_is_the_node_of_this_machine() -> None:
    assert resolved().target == "127.0.0.1:59051"
    assert (resolved().token, resolved().tls) == (None, None)


def test_options_win_over_the_environment_and_that_over_the_file(file: Path) -> None:
    environment = {"PEERJOB_ADDRESS": "env:2"}

    assert resolved(file).target == "near:1"
    assert resolved(file, environment).target == "env:2"
    assert resolved(file, environment, address="given:3").target == "given:3"


def test_a_host_leaves_nothing_of_an_address_that_was_said_earlier(file: Path) -> None:
    assert resolved(file, host="h").target == "h:59051"
    assert resolved(file, {"PEERJOB_PORT": "5"}).target == "127.0.0.1:5"
    assert resolved(file, context="far", address="given:3").target == "given:3"
    assert resolved(file, context="far", port=8).target == "far:8"
    assert resolved(host="::1").target == "[::1]:59051"


def test_a_context_is_named_by_option_environment_or_file(file: Path) -> None:
    assert resolved(file, context="far").target == "far:7"
    assert resolved(file, {"PEERJOB_CONTEXT": "far"}).target == "far:7"
    assert resolved(file, {"PEERJOB_CONTEXT": "far"}, context="near").target == "near:1"


def test_paths_in_the_file_are_meant_from_there(file: Path) -> None:
    settings = resolved(file, context="far")
    assert settings.token == "from-the-file"
    assert settings.tls == ClientTls(ca=file.parent / "ca.pem")


def test_a_token_takes_the_place_of_a_file_with_one(file: Path) -> None:
    assert resolved(file, context="far", token="mine").token == "mine"
    assert resolved(None, {"PEERJOB_TOKEN": "mine"}, token_file=file.parent / "token").token == "from-the-file"


def test_tls_is_spoken_when_asked_for_or_when_something_of_it_is_given() -> None:
    assert resolved(tls=True).tls == ClientTls()
    assert resolved(None, {"PEERJOB_TLS": "yes"}).tls == ClientTls()
    assert resolved(tls_ca=Path("ca")).tls == ClientTls(ca=Path("ca"))
    assert resolved(tls_ca=Path("ca"), tls=False).tls is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"context": "nope"}, "far, near"),
        ({"address": "a", "host": "b"}, "one of them"),
        ({"token": "a", "token_file": Path("b")}, "one of them"),
        ({"config": Path("/nonexistent/file")}, "a file that exists"),
        ({"token_file": Path("/nonexistent/file")}, "a file with a token"),
    ],
)
def test_invalid_settings_are_reported(file: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        resolved(file, **given)


@pytest.mark.parametrize(
    "text",
    [
        "[contexts",
        "contexts = 5",
        "[contexts.a]\nadress = 'x'\n",
        "context = 'a'\n",
        "[contexts.a]\nport = [1]\n",
        "\xff",
    ],
)
def test_a_file_that_is_none_of_contexts_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(OptionError, match="config"):
        resolved(path, context="a")


def test_a_client_gets_every_setting_of_the_connection(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr(remote, "Client", lambda *args, **kwargs: made.append((args, kwargs)))
    (file.parent / "ca.pem").write_text("")
    settings = resolved(file, context="far", request_timeout="7s")
    ClientSession(settings).client()
    assert made == [((settings.target,), {"token": "from-the-file", "tls": settings.tls, "timeout": "7s"})]
    assert settings.tls is not None
