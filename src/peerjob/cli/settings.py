"""One mechanism for the settings of jobd and of jobctl: a table of options, and the layers that give them values.

A table is a frozen dataclass. The annotation of each field holds a `setting(...)`: its help, and how typer shows it.
The flag and the environment variable follow from the field's name. `parameters_of` turns a table into the options of a
command. `merged` puts values over one another, from the weakest source to the strongest.
"""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast, get_type_hints

import typer

from peerjob.model.errors import OptionError

Exclusive = tuple[tuple[set[str], set[str]], ...]
"""Pairs of ways to give the same value. A value given in one way removes weaker values given in the other way."""
PREFIX = "PEERJOB_"
SOURCES = ("DEFAULT", "DEFAULT_MAP", "ENVIRONMENT", "COMMANDLINE")
"""The sources from which typer takes the values of options, the weakest first."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of a table."""

    help: str
    flags: tuple[str, ...]
    variable: str | None
    more: dict[str, Any]


def setting(
    help: str, *flags: str, variable: str | None = "", panel: str | None = None, default: str | None = None, **more: Any
) -> Setting:
    """A row of a table. `flags` and `variable` default to the field's name; a `variable` of None means none.

    `default` is the text in the help if the value itself does not say enough ("none" for None); `more` goes to typer.
    """
    shown = {} if default is None else {"show_default": default}
    return Setting(help=help, flags=flags, variable=variable, more={"rich_help_panel": panel, **shown, **more})


def variable_of(name: str) -> str:
    """The environment variable of a field."""
    return f"{PREFIX}{name.upper()}"


def parameters_of(table: type[Any], *, environment: bool, hidden: str | None = None) -> list[inspect.Parameter]:
    """The options of a table, as parameters of a command.

    With `environment`, typer reads the variables; otherwise the help names them. The help leaves out the options of
    the panel `hidden`.
    """
    hints = get_type_hints(table, include_extras=True)
    made: list[inspect.Parameter] = []
    for field in fields(table):
        kind: Any = hints[field.name]
        default = field.default_factory() if callable(field.default_factory) else field.default
        if isinstance(row := kind.__metadata__[0], Setting):
            texts = {"metavar": "FILE"} if kind.__origin__ == Path | None else {}
            texts |= {"show_default": "none"} if default is None else {}
            row = replace(row, more={**texts, **row.more})
            kind = Annotated[kind.__origin__, _option(field.name, row, environment=environment, hidden=hidden)]
        made.append(inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind))
    return made


def _option(name: str, row: Setting, *, environment: bool, hidden: str | None) -> Any:
    flags = row.flags or (f"--{name.replace('_', '-')}",)
    variable = variable_of(name) if row.variable == "" else row.variable
    named = "" if environment or variable is None else f" {variable}."
    left_out = hidden is not None and row.more["rich_help_panel"] == hidden
    envvar = variable if environment else None
    return typer.Option(*flags, help=f"{row.help}{named}", envvar=envvar, hidden=left_out, **row.more)


def options_of(function: Callable[..., Any], *, environment: bool) -> list[inspect.Parameter]:
    """The parameters of a function after the first one, with the options of a table instead of the table."""
    parameters: list[inspect.Parameter] = []
    for parameter in _parameters(function):
        options = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
        parameters += (
            parameters_of(parameter.annotation, environment=environment) if _is_table(parameter.annotation) else options
        )
    return parameters


def arguments_of(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a function after the first one, from the values of `options_of`."""
    made: dict[str, Any] = {}
    for parameter in _parameters(function):
        table = parameter.annotation
        values = {row.name: given[row.name] for row in fields(table)} if _is_table(table) else {}
        made[parameter.name] = table(**values) if values else given[parameter.name]
    return made


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(function, eval_str=True).parameters.values())[1:]


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and is_dataclass(kind)


def declare(command: Callable[..., Any], parameters: Iterable[inspect.Parameter]) -> None:
    """Give a function that takes `ctx` and keyword arguments the signature that typer reads."""
    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    signature = inspect.Signature([context, *parameters])
    vars(command)["__signature__"] = signature
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in signature.parameters.values()}


# -- values ----------------------------------------------------------------------------------------------------------


def given_layers(context: typer.Context, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """The values of some options by their sources, the weakest first; `names`: option → name in a layer."""
    layers: dict[str, dict[str, Any]] = {source: {} for source in SOURCES}
    for option, name in names.items():
        source = context.get_parameter_source(option)
        if source is not None and source.name in layers and context.params.get(option) is not None:
            layers[source.name][name] = context.params[option]
    return list(layers.values())


def merged(layers: Iterable[Mapping[str, Any]], exclusive: Exclusive) -> dict[str, Any]:
    """The values of all layers, the weakest layer first.

    Raises OptionError for a layer that gives a value in both ways of an exclusive pair.
    """
    values: dict[str, Any] = {}
    for layer in layers:
        for first, other in exclusive:
            if layer.keys() & first and layer.keys() & other:
                given = sorted(layer.keys() & (first | other))
                raise OptionError(given[0], " and ".join(given), "one of them")
            for mine, theirs in ((first, other), (other, first)):
                if layer.keys() & mine:
                    values = {name: value for name, value in values.items() if name not in theirs}
        values.update(layer)
    return values


def read_setting(option: str, path: Path, expected: str = "a file that can be read") -> str:
    """The text of a file, without blanks around it; raises OptionError."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(option, str(path), f"{expected} ({error})") from None


def use_file(context: typer.Context, path: Path | None) -> Path | None:
    """Take the values of a TOML file as defaults of the command that typer parses; raises OptionError."""
    if path is None:
        return None
    try:
        table = tomllib.loads(read_setting("--config", path))
    except tomllib.TOMLDecodeError as error:
        raise OptionError("--config", str(path), f"TOML ({error})") from None
    known = {str(param.name) for param in context.command.params} - {"config"}
    values: dict[str, Any] = {}
    for name, value in _flat(table).items():
        option = name.replace("-", "_")
        if option not in known:
            listed = ", ".join(sorted(name.replace("_", "-") for name in known))
            raise OptionError(str(path), name, f"one of {listed}")
        values[option] = [value] if option == "jobs" and isinstance(value, str) else value
    context.default_map = {**(context.default_map or {}), **values}
    return path


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The options in a configuration file, without tables: `cert` in the table `[tls]` becomes `tls-cert`."""
    values: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            values |= _flat(cast("dict[str, Any]", value), f"{prefix}{name}-")
        else:
            values[f"{prefix}{name}"] = value
    return values
