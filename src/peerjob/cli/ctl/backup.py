"""`jobctl backup`: copies the file of a SQLite store, also while nodes run on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from peerjob.store.sqlite.backup import back_up

from .commands import ClientSession, verb
from .moving import StoreUrl

Copy = Annotated[Path, typer.Argument(metavar="FILE", help="The copy; it must not exist.", show_default=False)]


def add_to(app: typer.Typer) -> None:
    """Add this verb."""
    verb(app, "backup")(backup)


async def backup(session: ClientSession, file: Copy, source: StoreUrl) -> None:
    """Copy the file of a SQLite store, with all namespaces; nodes may run meanwhile.

    The copy is a state of one moment, checked for damage, and only its owner can read it. Redis, Valkey and etcd have
    backups of their own.
    """
    url = source.url()
    size = back_up(url, file)
    session.out.text(f"copied the store to {file}: {size:,} bytes", {"file": str(file), "bytes": size})
