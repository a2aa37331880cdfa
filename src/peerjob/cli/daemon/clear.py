"""`jobd clear`: removes a whole namespace, even if this release cannot read its layout."""

from __future__ import annotations

import sys

import typer

from peerjob import SystemClock
from peerjob.cli import event_loop
from peerjob.cli.console import ExitStatus
from peerjob.store.drivers import wipe_namespace
from peerjob.store.url import redact

from .settings import DaemonSettings


def clear(settings: DaemonSettings, *, yes: bool) -> int:
    """Ask for confirmation unless `yes`, then remove every key of the namespace; the exit status."""
    where = f"namespace {settings.namespace} at {redact(settings.store)}"
    try:
        if not yes and not typer.confirm(f"Remove everything in {where}? Stop its nodes before.", err=True):
            return 1
    except typer.Abort:
        if sys.stdin.isatty():
            raise
        # the answer of a script can come through a pipe, which has ended here
        print("\njobd: there is no terminal for a confirmation: use --yes", file=sys.stderr)
        return ExitStatus.USAGE
    removed = event_loop.run(wipe_namespace(settings.store, namespace=settings.namespace, clock=SystemClock()))
    print(f"{where}: {removed} keys removed")
    return 0
