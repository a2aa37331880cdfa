"""`jobctl limits …`, `pause`, `resume`: the limits of kinds."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from peerjob.model.ages import moment
from peerjob.model.errors import OptionError
from peerjob.model.stored_limit import KeyLimitView, LimitView

from . import completion
from .commands import ClientSession, ListingGroup, group, verb
from .output import Column, TableView, to_stderr


def _concurrency(view: LimitView) -> str:
    if view.concurrency is None:
        return "-"
    return str(view.concurrency) if view.name else f"{view.concurrency}/key"


def _state(view: LimitView) -> str:
    if view.paused:
        return "paused"
    if view.name and view.concurrency is not None and view.running >= view.concurrency:
        return "full"
    return "closed" if view.name and view.remaining == 0 else "open"


def plain_limit(view: LimitView) -> dict[str, Any]:
    """A limit as values for JSON and YAML."""
    return {
        "name": view.name or None,
        "kinds": list(view.kinds),
        "concurrency": view.concurrency,
        "rate": view.rate,
        "burst": view.burst,
        "running": view.running,
        "waiting": view.waiting,
        "remaining": view.remaining,
        "opens_at": None if view.opens_at is None else view.opens_at.isoformat(),
        "state": _state(view),
        "paused": view.paused,
        "note": view.note or None,
        "source": view.source,
    }


LIMITS: TableView[LimitView] = TableView(
    columns=(
        Column(title="LIMIT", text=lambda view: view.name or f"({view.kinds[0]})", whole=True),
        Column(title="RUNNING", text=lambda view: str(view.running), right=True),
        Column(title="OF", text=_concurrency, right=True),
        Column(title="RATE", text=lambda view: view.rate or "-"),
        Column(title="WAITING", text=lambda view: str(view.waiting), right=True),
        Column(title="STATE", text=_state, whole=True),
        Column(title="KINDS", text=lambda view: ",".join(view.kinds) or "-"),
        Column(title="SOURCE", text=lambda view: view.source, wide=True),
        Column(title="BURST", text=lambda view: "-" if view.burst is None else str(view.burst), wide=True, right=True),
        Column(title="OPENS", text=lambda view: moment(view.opens_at), wide=True, whole=True),
        Column(title="NOTE", text=lambda view: view.note or "-", wide=True),
    ),
    name=lambda view: view.name or view.kinds[0],
    plain=plain_limit,
    nothing="no limit: no kind has one, and none is paused",
    alert=lambda view: view.paused,
)

KEYS: TableView[KeyLimitView] = TableView(
    columns=(
        Column(title="KEY", text=lambda view: view.key or "(without a key)", whole=True),
        Column(title="ADMITTED", text=lambda view: str(view.admitted), right=True),
        Column(title="OF", text=lambda view: "-" if view.concurrency is None else str(view.concurrency), right=True),
        Column(title="WAITING", text=lambda view: str(view.waiting), right=True),
    ),
    name=lambda view: view.key,
    plain=lambda view: {
        "key": view.key or None,
        "concurrency": view.concurrency,
        "admitted": view.admitted,
        "waiting": view.waiting,
    },
    nothing="no key: no unfinished instance of this kind is due",
)


def add_to(app: typer.Typer) -> None:
    """Add these verbs to jobctl."""
    verbs = group(app, "limits", "Show the limits of the cluster, and set their numbers.", cls=ListingGroup)
    verb(verbs, "list")(list_limits)
    verb(verbs, "set")(set_limit)
    verb(app, "pause")(pause)
    verb(app, "resume")(resume)


Kind = Annotated[
    str,
    typer.Option("--kind", "-k", metavar="KIND", help="The kind.", show_default=False, autocompletion=completion.kinds),
]


Explanation = Annotated[str, typer.Option(show_default="none", help="The reason, for other users.")]


def _kind_option(help: str) -> Any:
    return typer.Option("--kind", "-k", metavar="KIND", help=help, show_default="none", autocompletion=completion.kinds)


async def list_limits(
    session: ClientSession,
    kind: Annotated[
        str | None,
        _kind_option("Show the keys of this kind."),
    ] = None,
    prefix: Annotated[str, typer.Option(metavar="TEXT", help="Only keys that begin with it.", show_default="all")] = "",
    waiting: Annotated[bool, typer.Option("--waiting", help="Only keys with waiting instances.")] = False,
) -> None:
    """List the limits of the cluster, or the keys of one kind.

    A line with a kind in brackets is a kind that is paused, or that limits each of its keys.
    """
    if kind is None and (prefix or waiting):
        raise OptionError("--kind", None, f"a kind with {'--prefix' if prefix else '--waiting'}")
    async with session.client() as client:
        if kind is None:
            session.out.many([view async for view in client.limits()], LIMITS)
        else:
            keys = [view async for view in client.key_limits(kind, prefix=prefix, waiting_only=waiting)]
            session.out.many(keys, KEYS)


async def set_limit(
    session: ClientSession,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The name of a shared limit.", show_default=False)
    ] = None,
    kind: Annotated[
        str | None,
        _kind_option("Set the number for each key of this kind instead."),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(metavar="N", help="Most instances at a time.", show_default="as in the code")
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(metavar="N/UNIT", help="Most starts per time, such as 100/min.", show_default="as in the code"),
    ] = None,
    burst: Annotated[
        int | None, typer.Option(metavar="N", help="Most starts at once.", show_default="as in the code")
    ] = None,
    note: Explanation = "",
    clear: Annotated[bool, typer.Option("--clear", help="Remove the setting: the code counts again.")] = False,
) -> None:
    """Set numbers of a limit, for all nodes and from now on. Running instances continue. Needs the role admin.

    A setting is stronger than the code, and a new setting replaces the old one. A rate without a burst has a burst of
    at most 10.
    """
    if (name is None) == (kind is None):
        raise OptionError("NAME", name or "nothing", "the name of a shared limit, or --kind")
    numbers = {"--concurrency": concurrency, "--rate": rate, "--burst": burst}
    given = [option for option, number in numbers.items() if number is not None]
    if clear and given:
        raise OptionError(given[0], numbers[given[0]], "no number with --clear")
    if clear and note:
        raise OptionError("--note", note, "no note with --clear, which removes the note too")
    if not clear and not given:
        raise OptionError("limits set", "no number", f"{', '.join(numbers)} or --clear")
    if kind is not None and given not in ([], ["--concurrency"]):
        raise OptionError(given[-1], numbers[given[-1]], "only --concurrency with --kind")
    async with session.client() as client:
        if kind is not None:
            await client.set_key_limit(kind, concurrency=concurrency, note=note)
        else:
            await client.set_limit(name or "", concurrency=concurrency, rate=rate, burst=burst, note=note)
    subject = f"limit {name}" if kind is None else f"each key of {kind}"
    to_stderr(f"{subject} has the numbers of the code" if clear else f"{subject} has the numbers of this setting")


async def pause(
    session: ClientSession,
    kind: Kind,
    note: Explanation = "",
) -> None:
    """Let nodes claim no instances of a kind until it is resumed. Running ones continue. Needs the role admin."""
    async with session.client() as client:
        await client.pause_kind(kind, note)
    to_stderr(f"kind {kind} is paused")


async def resume(session: ClientSession, kind: Kind) -> None:
    """Let nodes claim a paused kind again. Needs the role admin."""
    async with session.client() as client:
        await client.resume_kind(kind)
    to_stderr(f"nodes claim kind {kind}")
