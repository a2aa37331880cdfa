"""`jobctl`: manages a cluster of peers from outside."""

from __future__ import annotations

import sys

import typer

from . import silent_grpc as _before_grpc  # noqa: F401  # pyright: ignore[reportUnusedImport]
from .console import run
from .ctl import clear, cluster, events, instances, lookups, schedule, schedules, why
from .ctl.commands import shared_options
from .ctl.errors import error_report

STATUSES = (
    "Exit status: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 no node or store answers, 5 refused (token), "
    "6 the time was over, 130 interrupted."
)

app = typer.Typer(
    name="jobctl",
    help="Manage a cluster of peerjob nodes, through any node that serves gRPC.\n\n"
    "What the connection options say may also stand in the environment (PEERJOB_…) or in a context of "
    "~/.config/peerjob/config.toml: a table contexts.NAME with the options' names, without the dashes before them.",
    epilog=STATUSES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback()(shared_options)
for part in (lookups, schedule, events, instances, clear, schedules, cluster, why):
    part.add_to(app)


def main() -> None:
    """The console command."""
    sys.exit(run(app, "jobctl", None, error_report))


if __name__ == "__main__":
    main()
