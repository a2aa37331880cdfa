"""`jobctl`: manages a cluster from outside."""

from __future__ import annotations

import typer

from . import console
from . import silent_grpc as _before_grpc  # noqa: F401  # pyright: ignore[reportUnusedImport]
from .ctl import (
    audit,
    backup,
    clear,
    cluster,
    events,
    flows,
    instances,
    limits,
    lookups,
    moving,
    schedule,
    schedules,
    top,
    why,
)
from .ctl.commands import VerbGroup, shared_options
from .ctl.errors import error_report

STATUSES = (
    "Exit status: 0 success, 1 failed, 2 wrong usage, 3 not found, 4 no node or store answers, 5 refused (token), "
    "6 the time was over, 130 interrupted."
)

app = typer.Typer(
    name="jobctl",
    help="Manage a cluster of peerjob nodes, through any node that serves gRPC.\n\n"
    "The connection options may also come from the environment (PEERJOB_…), or from a context in the file "
    "~/.config/peerjob/config.toml. A context is a table contexts.NAME with the options' names, without the leading "
    "dashes.",
    epilog=STATUSES,
    no_args_is_help=True,
    cls=VerbGroup,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback()(shared_options)
for part in (
    lookups,
    schedule,
    events,
    instances,
    flows,
    clear,
    schedules,
    cluster,
    limits,
    audit,
    top,
    why,
    moving,
    backup,
):
    part.add_to(app)


def main() -> None:
    """The console command."""
    console.main(app, "jobctl", error_report)


if __name__ == "__main__":
    main()
