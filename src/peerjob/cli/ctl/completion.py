"""Completes states, kinds, schedules, nodes and contexts in the shell, from the live cluster.

A cluster that does not answer in time, and wrong options of the connection, complete nothing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

import typer

from peerjob.model.errors import PeerjobError
from peerjob.model.state import SINGLE, State
from peerjob.remote.client.client import Client

from .settings import given_options, settings_of

TIMEOUT = 2.0
"""Seconds that the shell waits for the cluster."""
STATES = (*(str(state).casefold() for state in SINGLE), "active", "error", "final")


def states(incomplete: str) -> list[str]:
    """The states that begin with a text."""
    return [state for state in STATES if state.startswith(incomplete.casefold())]


def kinds(ctx: typer.Context, incomplete: str) -> list[str]:
    """The kinds that live nodes run, or that have instances."""

    async def read(client: Client) -> set[str]:
        stats, nodes = await client.stats(), await client.nodes()
        queued = {kind for kind in stats.counts if stats.total(State.ALL, kind)}
        return queued | {kind for node in nodes for kind in node.info.kinds}

    return _from_cluster(ctx, incomplete, read)


def schedules(ctx: typer.Context, incomplete: str) -> list[str]:
    """The names of the schedules."""

    async def read(client: Client) -> set[str]:
        return {schedule.name for schedule in await client.schedules()}

    return _from_cluster(ctx, incomplete, read)


def nodes(ctx: typer.Context, incomplete: str) -> list[str]:
    """The names of the live nodes."""

    async def read(client: Client) -> set[str]:
        return {node.name for node in await client.nodes()}

    return _from_cluster(ctx, incomplete, read)


def _from_cluster(
    ctx: typer.Context, incomplete: str, read: Callable[[Client], Coroutine[Any, Any, set[str]]]
) -> list[str]:
    async def ask() -> set[str]:
        settings = settings_of(given_options(ctx), os.environ)
        client = Client(settings.target, token=settings.token, tls=settings.tls, timeout=TIMEOUT)
        async with asyncio.timeout(TIMEOUT), client:
            return await read(client)

    try:
        names = asyncio.run(ask())
    except (PeerjobError, OSError):
        return []
    return sorted(name for name in names if name.startswith(incomplete))
