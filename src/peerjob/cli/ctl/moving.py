"""`jobctl export` and `import`: move a namespace to another store. Both talk to the store itself, without a node."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, BinaryIO, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from peerjob.cli.console import ExitStatus
from peerjob.cli.settings import read_setting, setting, variable_of
from peerjob.model.child_tasks import AsyncClosing
from peerjob.model.errors import OptionError, PeerjobError
from peerjob.model.printable import counted
from peerjob.store.url import redact
from peerjob.transfer.exporting import export_namespace
from peerjob.transfer.importing import Imported, import_namespace
from peerjob.transfer.lines import MAX_LINE, End, Header, read_line

from .commands import ClientSession, interruptible, verb
from .errors import CommandError
from .output import to_stderr

SHOWN_REFUSALS = 20


@dataclass(frozen=True, kw_only=True)
class StoreUrl:
    """The options that name a store, with the names of jobd's."""

    store: Annotated[
        str | None,
        setting("The store: sqlite:///, redis://, valkey:// or etcd://, with TLS rediss:// and so on.", metavar="URL"),
    ] = field(default=None, repr=False)
    store_file: Annotated[
        Path | None,
        setting("A file that contains the store's URL. The list of processes then shows no password."),
    ] = None

    def url(self) -> str:
        """The URL; raises OptionError."""
        if self.store is not None and self.store_file is not None:
            raise OptionError("store", "store and store_file", "one of them")
        file = self.store_file
        if self.store is None and file is None and (named := os.environ.get(variable_of("store_file"))):
            file = Path(named)
        url = self.store if file is None else read_setting("store_file", file)
        url = url or os.environ.get(variable_of("store"))
        if not url or url.startswith("memory:"):
            raise OptionError(
                "store", url or "nothing", "the URL of a server or of a file, by --store or PEERJOB_STORE"
            )
        return url


@dataclass(frozen=True, kw_only=True)
class StoreOptions(StoreUrl):
    """The options that name a namespace of a store."""

    namespace: Annotated[str | None, setting("The namespace.", metavar="NAME", default="default")] = None

    def store_and_namespace(self) -> tuple[str, str]:
        """The URL and the namespace; raises OptionError."""
        return self.url(), self.namespace or os.environ.get(variable_of("namespace")) or "default"


Target = Annotated[Path, typer.Argument(metavar="FILE", help="The file; - is standard output.", show_default=False)]
Source = Annotated[Path, typer.Argument(metavar="FILE", help="The file; - is standard input.", show_default=False)]


def add_to(app: typer.Typer) -> None:
    """Add these verbs."""
    verb(app, "export")(export_all)
    verb(app, "import")(import_all)


async def export_all(session: ClientSession, file: Target, target: StoreOptions) -> None:
    """Write the schedules and unfinished instances of a namespace as JSON lines; jobctl import reads them.

    Stop all nodes of the namespace first: jobctl refuses a namespace with a live node. The export changes nothing. It
    contains arguments with their secrets, so jobctl makes a file that only its owner can read. Logs, histories and
    final instances are not exported, except final children of instances that wait.
    """
    url, namespace = target.store_and_namespace()
    number, total, undecodable, line = 0, 0, 0, b""
    with (
        _written(file) as output,
        _bar("export", shown=str(file) != "-" or not sys.stdout.isatty()) as show,
    ):
        async with AsyncClosing(export_namespace(url, namespace=namespace, clock=session.clock)) as lines:
            async for line in lines:
                output.write(line)
                if number == 0 and isinstance(header := read_line(1, line), Header):
                    total, undecodable = header.schedules + header.instances, header.undecodable
                show(min(number, total), total)
                number += 1
    if undecodable:
        to_stderr(f"{counted(undecodable, 'record')} cannot be decoded, and cannot be exported")
    if isinstance(end := read_line(number, line), End):
        where = f"namespace {namespace} at {redact(url)}"
        to_stderr(f"exported {counted(end.schedules, 'schedule')} and {counted(end.instances, 'instance')} of {where}")


async def import_all(session: ClientSession, file: Source, target: StoreOptions) -> int:
    """Add the schedules and instances of jobctl export to a namespace; ids, keys, priorities and due times stay.

    What the namespace has already is skipped, so an import that broke off can be repeated. Import before the nodes of
    the new namespace start, and remove the old namespace with jobd clear afterwards. The exit status is 1 if the export
    is not whole, or if an instance was not added because another unfinished one has its key; its children are then not
    added either.
    """
    url, namespace = target.store_and_namespace()
    if str(file) == "-" and sys.stdin.isatty():
        raise CommandError("there is nothing to import: give a file, or pipe jobctl export to it", ExitStatus.USAGE)
    with _lines(file) as lines, _bar("import") as show, interruptible():

        def progress(done: Imported, header: Header) -> None:
            show(done.seen, header.schedules + header.instances)

        done = await import_namespace(url, lines, namespace=namespace, clock=session.clock, on_progress=progress)
    behind = {id for id, _ in done.refused}
    for id, other in done.refused[:SHOWN_REFUSALS]:
        reason = f"instance {other} has its key" if other else "another instance has its key"
        to_stderr(f"instance {id} was not added: {f'nor was its parent {other}' if other in behind else reason}")
    session.out.text(
        f"imported {counted(done.schedules, 'schedule')} and {counted(done.instances, 'instance')}; skipped "
        f"{counted(done.known_schedules, 'schedule')} and {counted(done.known_instances, 'instance')} that are there; "
        f"{counted(done.refusals, 'instance')} refused",
        {
            "schedules": done.schedules,
            "instances": done.instances,
            "known_schedules": done.known_schedules,
            "known_instances": done.known_instances,
            "refused": done.refusals,
        },
    )
    return ExitStatus.FAILED if done.refusals else ExitStatus.OK


@contextmanager
def _written(file: Path) -> Generator[BinaryIO]:
    """The file to write, or standard output; raises CommandError if it cannot be written.

    The name gets the new file only at the end, so an export that fails leaves an earlier export as it was.
    """
    shown = "standard output" if str(file) == "-" else str(file)
    try:
        if str(file) == "-":
            with _standard_output() as output:
                yield output
        elif file.exists() and not file.is_file():  # a device or a named pipe
            with _file(file, os.O_WRONLY, "wb") as output:
                yield output
        else:
            with _replaced(file.resolve()) as output:
                yield output
    except BrokenPipeError:
        raise CommandError("the reader of the export ended before the export") from None
    except PeerjobError:  # some of these are OSErrors too
        raise
    except OSError as error:
        raise CommandError(f"{shown} cannot be written: {error.strerror}") from None


@contextmanager
def _standard_output() -> Generator[BinaryIO]:
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except OSError:
        # Python flushes standard output again at its exit, which must not fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


@contextmanager
def _replaced(file: Path) -> Generator[BinaryIO]:
    """A new file, which replaces the file at the end of the block; after an error it is removed."""
    new = file.with_name(f".{file.name[:200]}.{os.getpid()}")
    try:
        with _file(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, "wb", shown=file) as output:
            yield output
            output.flush()
            os.fsync(output.fileno())
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def _lines(file: Path) -> Generator[Iterator[bytes]]:
    """The lines of a file, or of standard input; a line that is too long comes in parts."""
    if str(file) == "-":
        yield iter(lambda: sys.stdin.buffer.readline(MAX_LINE + 1), b"")
        return
    with _file(file, os.O_RDONLY, "rb") as source:
        yield iter(lambda: source.readline(MAX_LINE + 1), b"")


@contextmanager
def _file(file: Path, flags: int, mode: str, *, shown: Path | None = None) -> Generator[BinaryIO]:
    """An open file, which only its owner can read if it is new; raises OptionError, which names `shown`."""
    try:
        opened = cast("BinaryIO", os.fdopen(os.open(file, flags, 0o600), mode))
    except OSError as error:
        raise OptionError("FILE", str(shown or file), f"a file that can be opened ({error.strerror})") from None
    with opened:
        yield opened


@contextmanager
def _bar(what: str, *, shown: bool = True) -> Generator[Callable[[int, int], None]]:
    """A progress bar on standard error, if that is a terminal; the function takes the done and the whole number."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not shown or not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
