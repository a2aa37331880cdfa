"""Where to connect and as whom: from options, the environment and a file of contexts, in that order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from peerjob.model.errors import OptionError
from peerjob.node.observe.listen_address import GRPC_PORT
from peerjob.remote.wire.tls import ClientTls

from .output import Format

PREFIX = "PEERJOB_"
HOST = "127.0.0.1"
TIMEOUT = "30s"
PATHS = frozenset({"tls_ca", "tls_cert", "tls_key", "token_file"})
CONNECTION = PATHS | {"address", "host", "port", "tls", "tls_server_name", "token", "request_timeout"}
"""What a context in the file may say; the environment, too, in capitals and with a prefix."""
EXCLUSIVE = (({"address"}, {"host", "port"}), ({"token"}, {"token_file"}))
"""Two ways to say the same: what is said in one way leaves nothing of what was said in the other."""
TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True, kw_only=True)
class CtlSettings:
    """What a verb needs to know before it connects."""

    target: str
    token: str | None
    tls: ClientTls | None
    timeout: str
    output: Format


def settings_of(given: Mapping[str, Any], environment: Mapping[str, str]) -> CtlSettings:
    """`given` are the options, None where nothing was said. Raises OptionError."""
    named = given.get("context") or environment.get(f"{PREFIX}CONTEXT")
    layers = [
        _context(named, _config_file(given.get("config"), environment)),
        {name: environment[key] for name in CONNECTION if environment.get(key := f"{PREFIX}{name.upper()}")},
        {name: given[name] for name in CONNECTION if given.get(name) is not None},
    ]
    found: dict[str, Any] = {}
    for layer in layers:
        _lay(found, layer)
    return CtlSettings(
        target=str(found.get("address") or f"{_host(found.get('host', HOST))}:{found.get('port', GRPC_PORT)}"),
        token=_token(found),
        tls=_tls(found),
        timeout=str(found.get("request_timeout", TIMEOUT)),
        output=given.get("output") or Format.TABLE,
    )


def _lay(found: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for one, other in EXCLUSIVE:
        if layer.keys() & one and layer.keys() & other:
            said = sorted(layer.keys() & (one | other))
            raise OptionError(said[0], " and ".join(said), "one of them")
        for mine, theirs in ((one, other), (other, one)):
            if layer.keys() & mine:
                for name in theirs:
                    found.pop(name, None)
    found.update(layer)


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _token(found: Mapping[str, Any]) -> str | None:
    if found.get("token") is not None:
        return str(found["token"])
    if found.get("token_file") is None:
        return None
    path = Path(found["token_file"]).expanduser()
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError("token_file", str(path), f"a file with a token that can be read ({error})") from None


def _tls(found: Mapping[str, Any]) -> ClientTls | None:
    files = {name: Path(found[name]).expanduser() for name in ("tls_ca", "tls_cert", "tls_key") if name in found}
    asked = _flag(found["tls"]) if "tls" in found else bool(files or "tls_server_name" in found)
    if not asked:
        return None
    return ClientTls(
        ca=files.get("tls_ca"),
        certificate=files.get("tls_cert"),
        key=files.get("tls_key"),
        server_name=found.get("tls_server_name"),
    )


def _flag(said: Any) -> bool:
    if isinstance(said, bool):
        return said
    text = str(said).casefold()
    if text not in TRUE + FALSE:
        raise OptionError("tls", said, "true or false")
    return text in TRUE


# -- contexts --------------------------------------------------------------------------------------------------------


def _config_file(given: Path | None, environment: Mapping[str, str]) -> tuple[Path, bool]:
    """The file, and whether it has to be there."""
    if given is not None:
        return given, True
    if environment.get(f"{PREFIX}CONFIG"):
        return Path(environment[f"{PREFIX}CONFIG"]), True
    home = environment.get("XDG_CONFIG_HOME")
    base = Path(home) if home else Path("~/.config").expanduser()
    return base / "peerjob" / "config.toml", False


class _File(msgspec.Struct):
    context: str | None = None
    """The one to use when none is named."""
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
        known = ", ".join(sorted(read.contexts)) or "none"
        raise OptionError("context", named, f"a context of {path} (there: {known})")
    said = {name.replace("-", "_"): value for name, value in read.contexts[named].items()}
    if unknown := sorted(said.keys() - CONNECTION):
        raise OptionError(f"{path}, context {named}", unknown[0], f"one of {', '.join(sorted(CONNECTION))}")
    # a path in the file is meant from there
    return {
        name: path.parent / Path(str(value)).expanduser() if name in PATHS else value for name, value in said.items()
    }
