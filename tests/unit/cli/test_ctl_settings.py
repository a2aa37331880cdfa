"""Where jobctl connects: options, then the environment, then a context of the file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from peerjob.cli.ctl.commands import ClientSession
from peerjob.cli.ctl.settings import HOST, IN_CONTEXTS, CtlSettings, settings_of
from peerjob.cli.settings import variable_of
from peerjob.model.errors import OptionError
from peerjob.model.listen_address import GRPC_PORT
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


EFFECTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "address": ("a:5,b", {"target": "a:5,b"}),
    "host": ("::1", {"target": f"[::1]:{GRPC_PORT}"}),
    "port": (7, {"target": f"{HOST}:7"}),
    "tls": (True, {"tls": ClientTls()}),
    "tls_ca": (Path("/ca"), {"tls": ClientTls(ca=Path("/ca"))}),
    "tls_cert": (Path("/cert"), {"tls": ClientTls(certificate=Path("/cert"))}),
    "tls_key": (Path("/key"), {"tls": ClientTls(key=Path("/key"))}),
    "tls_server_name": ("name", {"tls": ClientTls(server_name="name")}),
    "token": ("secret", {"token": "secret"}),
    "token_file": (..., {"token": "of a file"}),
    "request_timeout": ("7s", {"timeout": "7s"}),
}
"""A value of each setting, and what it changes."""


@pytest.mark.parametrize("source", ["option", "variable", "context"])
@pytest.mark.parametrize("name", sorted(IN_CONTEXTS))
def test_each_setting_has_its_effect_from_each_source(name: str, source: str, tmp_path: Path) -> None:
    value, effect = EFFECTS[name]
    if name == "token_file":
        value = tmp_path / "token"
        value.write_text("of a file\n")
    given: dict[str, Any] = {name: value} if source == "option" else {}
    environment = {variable_of(name): str(value)} if source == "variable" else {}
    if source == "context":
        written = value if isinstance(value, int) else f"'{value}'"
        given["config"] = tmp_path / "config.toml"
        given["config"].write_text(f"context = 'one'\n[contexts.one]\n{name} = {str(written).lower()}\n")
    assert resolved(None, environment, **given) == replace(resolved(), **effect)


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
