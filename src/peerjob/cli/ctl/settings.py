"""The table of the options that all verbs of jobctl share, and the settings that result from them.

An option overrides the environment, and the environment overrides a context of the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from peerjob.cli.settings import merged, read_setting, setting, variable_of
from peerjob.model.errors import OptionError
from peerjob.model.listed import listed
from peerjob.model.listen_address import GRPC_PORT
from peerjob.remote.wire.tls import ClientTls

from .output import Format

CONNECTION = "Connection"
"""The panel of the help that shows the options of a connection, which a context of the configuration file can set."""
HOST = "127.0.0.1"
TIMEOUT = "30s"
EXCLUSIVE = (({"address"}, {"host", "port"}), ({"token"}, {"token_file"}))
TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def complete_context(ctx: typer.Context, incomplete: str) -> list[str]:
    """The contexts of the file that begin with a text; none if the file cannot be read."""
    path, _ = _config_file(given_options(ctx).get("config"), os.environ)
    try:
        names = msgspec.toml.decode(path.read_bytes(), type=_File).contexts
    except (OSError, msgspec.MsgspecError, ValueError):
        return []
    return sorted(name for name in names if name.startswith(incomplete))


def given_options(ctx: typer.Context) -> dict[str, Any]:
    """The options of a command line that is being completed; those after the verb win over those before it."""
    levels: list[Any] = []
    level: Any = ctx
    while level is not None:
        levels.insert(0, level.params)
        level = level.parent
    return {name: level[name] for level in levels for name in OPTIONS if level.get(name) is not None}


@dataclass(frozen=True, kw_only=True)
class CtlOptions:
    """The options of jobctl and of each verb, as given on the command line."""

    output: Annotated[
        Format | None,
        setting("The format of results; wide adds columns.", "-o", "--output", variable=None, default="table"),
    ] = None
    address: Annotated[
        str | None,
        setting(
            "The nodes. jobctl uses the first one that answers.",
            metavar="HOST:PORT,…",
            panel=CONNECTION,
            default=f"{HOST}:{GRPC_PORT}",
        ),
    ] = None
    host: Annotated[str | None, setting("One node, in two parts.", panel=CONNECTION, default=HOST)] = None
    port: Annotated[
        int | None, setting("The port of --host.", min=1, max=65_535, panel=CONNECTION, default=str(GRPC_PORT))
    ] = None
    tls: Annotated[
        bool | None, setting("Use TLS.", "--tls/--no-tls", panel=CONNECTION, default="with any --tls-… option")
    ] = None
    tls_ca: Annotated[
        Path | None,
        setting("The CA that signed the nodes' certificates, as PEM.", panel=CONNECTION, default="well-known CAs"),
    ] = None
    tls_cert: Annotated[Path | None, setting("The client's certificate, if nodes ask for one.", panel=CONNECTION)] = (
        None
    )
    tls_key: Annotated[Path | None, setting("The key of --tls-cert.", panel=CONNECTION)] = None
    tls_server_name: Annotated[
        str | None, setting("The name in the nodes' certificates.", panel=CONNECTION, default="the address")
    ] = None
    token: Annotated[
        str | None,
        setting(
            "The token. Other users of this machine can see it in the list of processes. A file or the variable is "
            "safer.",
            panel=CONNECTION,
        ),
    ] = None
    token_file: Annotated[Path | None, setting("A file that contains the token.", panel=CONNECTION)] = None
    request_timeout: Annotated[
        str | None, setting("The time limit for one answer.", metavar="DURATION", panel=CONNECTION, default=TIMEOUT)
    ] = None
    context: Annotated[
        str | None,
        setting(
            "The context of the file to use.",
            panel=CONNECTION,
            default="`context` in the file, else none",
            autocompletion=complete_context,
        ),
    ] = None
    config: Annotated[
        Path | None, setting("The file of contexts.", panel=CONNECTION, default="~/.config/peerjob/config.toml")
    ] = None


OPTIONS = tuple(field.name for field in fields(CtlOptions))
IN_CONTEXTS = frozenset(OPTIONS) - {"output", "context", "config"}
"""The options that a context of the configuration file, or an environment variable, can set."""
PATHS = frozenset({"tls_ca", "tls_cert", "tls_key", "token_file"})


@dataclass(frozen=True, kw_only=True)
class CtlSettings:
    """The connection and the output of a verb."""

    target: str
    token: str | None
    tls: ClientTls | None
    timeout: str
    output: Format


def settings_of(given: Mapping[str, Any], environment: Mapping[str, str]) -> CtlSettings:
    """The settings of a command line; an option that is None or missing was not given. Raises OptionError."""
    named = given.get("context") or environment.get(variable_of("context"))
    layers = [
        _context(named, _config_file(given.get("config"), environment)),
        {name: environment[key] for name in IN_CONTEXTS if environment.get(key := variable_of(name))},
        {name: given[name] for name in IN_CONTEXTS if given.get(name) is not None},
    ]
    values = merged(layers, EXCLUSIVE)
    return CtlSettings(
        target=str(values.get("address") or f"{_host(values.get('host', HOST))}:{values.get('port', GRPC_PORT)}"),
        token=_token(values),
        tls=_tls(values),
        timeout=str(values.get("request_timeout", TIMEOUT)),
        output=given.get("output") or Format.TABLE,
    )


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _token(values: Mapping[str, Any]) -> str | None:
    if values.get("token") is not None:
        return str(values["token"])
    if values.get("token_file") is None:
        return None
    path = Path(values["token_file"]).expanduser()
    return read_setting("token_file", path, "a file with a token that can be read")


def _tls(values: Mapping[str, Any]) -> ClientTls | None:
    files = {name: Path(values[name]).expanduser() for name in ("tls_ca", "tls_cert", "tls_key") if name in values}
    asked = _flag(values["tls"]) if "tls" in values else bool(files or "tls_server_name" in values)
    if not asked:
        return None
    return ClientTls(
        ca=files.get("tls_ca"),
        certificate=files.get("tls_cert"),
        key=files.get("tls_key"),
        server_name=values.get("tls_server_name"),
    )


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).casefold()
    if text not in TRUE + FALSE:
        raise OptionError("tls", value, "true or false")
    return text in TRUE


# -- contexts --------------------------------------------------------------------------------------------------------


def _config_file(given: Path | None, environment: Mapping[str, str]) -> tuple[Path, bool]:
    """The path of the configuration file, and whether that file must exist."""
    if given is not None:
        return given, True
    if named := environment.get(variable_of("config")):
        return Path(named), True
    home = environment.get("XDG_CONFIG_HOME")
    base = Path(home) if home else Path("~/.config").expanduser()
    return base / "peerjob" / "config.toml", False


class _File(msgspec.Struct):
    context: str | None = None
    """The name of the context to use, if no option or variable names one."""
    contexts: dict[str, dict[str, str | int | bool]] = {}


def _context(named: str | None, file: tuple[Path, bool]) -> dict[str, Any]:
    path, needed = file
    try:
        read = msgspec.toml.decode(path.read_bytes(), type=_File)
    except FileNotFoundError:
        if needed or named is not None:
            raise OptionError("config", str(path), "a file that exists") from None
        return {}
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise OptionError("config", str(path), f"a TOML file of contexts that can be read ({error})") from None
    named = named or read.context
    if named is None:
        return {}
    if named not in read.contexts:
        raise OptionError("context", named, f"a context of {path} (there: {listed(read.contexts, like=named)})")
    values = {name.replace("-", "_"): value for name, value in read.contexts[named].items()}
    if unknown := sorted(values.keys() - IN_CONTEXTS):
        raise OptionError(f"{path}, context {named}", unknown[0], f"one of {', '.join(sorted(IN_CONTEXTS))}")
    # a relative path in the file starts at the folder of the file
    return {
        name: path.parent / Path(str(value)).expanduser() if name in PATHS else value for name, value in values.items()
    }
