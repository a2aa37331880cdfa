"""The end of every command: an exit status, and one line on standard error for an error."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Any, NamedTuple, NoReturn, Protocol, runtime_checkable

import typer

from peerjob.model.printable import json_escapes, printable
from peerjob.version import __version__

_ESCAPE = "peerjob.escape"
_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF, errno.EFBIG})
"""The errors of a write to standard output: a full disk, a quota, a closed descriptor."""


class ExitStatus(IntEnum):
    """The exit statuses of `jobctl` and `jobd`."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4
    REFUSED = 5
    TIME_OVER = 6
    INTERRUPTED = 130


class ErrorReport(NamedTuple):
    """The text about an error, and the exit status."""

    message: str
    status: int


def show_version(asked: bool) -> None:
    """Print the release of this installation, and end the command."""
    if asked:
        print(f"peerjob {__version__}")
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
]
"""The option `--version` of `jobctl` and `jobd`."""


@runtime_checkable
class ParserError(Protocol):
    """An error of the option parser. Its class moves between releases of typer, so this is a protocol."""

    exit_code: int

    def format_message(self) -> str: ...


def main(app: Callable[..., Any], name: str, refuse: Callable[[Exception], ErrorReport | None]) -> NoReturn:
    """Run a command with the arguments of the process, and end the process with its exit status."""
    _prepare_streams()
    try:
        status = run(app, name, None, refuse)
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        # the interpreter writes what is left once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        complain(name, f"the output cannot be written: {error}")
        status = ExitStatus.FAILED
    sys.exit(status)


def _prepare_streams() -> None:
    """Replace streams that the caller has closed, and let both output streams take every text, in every locale.

    A closed standard input is empty, and a write to a closed standard output fails, as to a full disk.
    """
    codecs.register_error(_ESCAPE, _escaped)
    # in this order, since each takes the lowest free descriptor, which is the one that the caller has closed
    for name, flags, mode in (("stdin", os.O_RDONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_WRONLY, "w")):
        stream: Any = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode, encoding="utf-8"))
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ESCAPE)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Replace the characters that an encoding lacks by escapes that are also valid in JSON."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json_escapes(error.object[error.start : error.end]), error.end


def run(
    app: Callable[..., Any], name: str, arguments: list[str] | None, refuse: Callable[[Exception], ErrorReport | None]
) -> int:
    """Run a command, a `typer.Typer` or what it makes, and return its exit status, the result of its function.

    `refuse` describes errors; an error for which it returns None is raised. `arguments` defaults to the process's.
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
    """Print one line on standard error. Its control characters are escaped: text of a node may be in an error."""
    print(f"{name}: {printable(' '.join(message.split()))}", file=sys.stderr)


def _misused(name: str, error: ParserError) -> int:
    where: str = getattr(getattr(error, "ctx", None), "command_path", name)
    message = error.format_message().rstrip(".").replace(": Value error, ", ": ", 1)  # pydantic's name of the error
    if not message:  # the parser has already printed the help instead of a message
        return ExitStatus.USAGE
    complain(name, f"{message}{_origin(error)} (see {where} --help)")
    return error.exit_code


def _origin(error: Any) -> str:
    """The file of a bad value: the parser itself names only flags and environment variables."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    source = None if context is None or parameter is None else context.get_parameter_source(parameter.name)
    return ", in the file of --config" if source is not None and source.name == "DEFAULT_MAP" else ""
