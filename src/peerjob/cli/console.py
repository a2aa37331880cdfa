"""How every command of the package ends: with a status, and with one line on standard error for each error."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple, Protocol, runtime_checkable

import typer


class ExitStatus(IntEnum):
    """Exit statuses, as `jobctl` and `jobd` share them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4
    REFUSED = 5
    TIME_OVER = 6
    INTERRUPTED = 130


class ErrorReport(NamedTuple):
    """What is said about an error, and the exit status."""

    message: str
    status: int


@runtime_checkable
class ParserError(Protocol):
    """What the option parser raises; its class is at another place in each few releases of typer."""

    exit_code: int

    def format_message(self) -> str: ...


def run(
    app: typer.Typer, name: str, arguments: list[str] | None, refuse: Callable[[Exception], ErrorReport | None]
) -> int:
    """Run a command to its exit status; what `refuse` has no words for is raised. `arguments`: default, the process's.

    A command's status is what its function returns.
    """
    status: Any
    try:
        status = app(arguments, prog_name=name, standalone_mode=False)
    except typer.Abort:
        return ExitStatus.INTERRUPTED
    except Exception as error:
        if isinstance(error, ParserError):
            return _misused(name, error)
        refusal = refuse(error)
        if refusal is None:
            raise
        complain(name, refusal.message)
        return refusal.status
    return status if isinstance(status, int) else 0


def complain(name: str, message: str) -> None:
    """One line on standard error."""
    print(f"{name}: {' '.join(message.split())}", file=sys.stderr)


def _misused(name: str, error: ParserError) -> int:
    where: str = getattr(getattr(error, "ctx", None), "command_path", name)
    message = error.format_message().rstrip(".")
    if not message:  # then it was the help that was shown
        return ExitStatus.USAGE
    complain(name, f"{message}{_origin(error)} (see {where} --help)")
    return error.exit_code


def _origin(error: Any) -> str:
    """Where a value comes from when that is a file: the parser speaks of flags and the environment only."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    source = None if context is None or parameter is None else context.get_parameter_source(parameter.name)
    return ", in the file of --config" if source is not None and source.name == "DEFAULT_MAP" else ""
