"""A TOML file as the weakest source of options: below flags and the environment, above the defaults."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, cast

import typer

from peerjob import OptionError


def use_file(context: typer.Context, path: Path | None) -> Path | None:
    """Take the options of a file as defaults of the command that is being parsed; raises OptionError."""
    if path is None:
        return None
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError("--config", str(path), f"a file that can be read ({error})") from None
    except tomllib.TOMLDecodeError as error:
        raise OptionError("--config", str(path), f"TOML ({error})") from None
    known = {str(one.name) for one in context.command.params} - {"config"}
    values: dict[str, Any] = {}
    for name, value in _flat(table).items():
        option = name.replace("-", "_")
        if option not in known:
            listed = ", ".join(sorted(one.replace("_", "-") for one in known))
            raise OptionError(str(path), name, f"one of {listed}")
        values[option] = [value] if option == "jobs" and isinstance(value, str) else value
    context.default_map = {**(context.default_map or {}), **values}
    return path


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`[tls]` with `cert` is `tls-cert`."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            found |= _flat(cast("dict[str, Any]", value), f"{prefix}{name}-")
        else:
            found[f"{prefix}{name}"] = value
    return found
