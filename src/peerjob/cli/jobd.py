"""`jobd`: runs a node as a service."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import peerjob_probe
from peerjob import Probe
from peerjob.model.durations import to_seconds

from . import console
from . import silent_grpc as _before_grpc  # noqa: F401  # pyright: ignore[reportUnusedImport]
from .daemon.errors import error_report
from .daemon.settings import DaemonSettings, takes_settings

MAX_NODES = 32

app = typer.Typer(
    name="jobd",
    help="A distributed job scheduler of equal peers: no central server, no lost jobs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    version: console.VersionOption = False,
) -> None:
    pass


@app.command("version")
def show_version() -> None:
    """Show the version."""
    console.show_version(True)


@app.command(
    help="Show a cluster that works, loses two nodes to kill -9, and loses no job.\n\n"
    "Each count job counts one source file of Python's standard library. An etcd elects the leader, where one can be "
    "had. After a quarter, the demo kills the leader. Half way, it adds slow jobs and orders, and kills a node that "
    "runs some of them. An order has steps and children, and waits for an approval, which the demo gives. At the end, "
    "the demo checks the history of all instances and the values of all steps, and compares the sum of all counts with "
    "the count of one process. The exit status is 1 if a check fails."
)
def demo(
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            show_default="an embedded Valkey, removed at the end",
            help="The store: redis://, valkey:// or etcd://, with TLS rediss:// and so on. The word sqlite means a new "
            "file, removed at the end. memory:// runs one node in this process.",
        ),
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_NODES, metavar="N", show_default="3; 1 on memory://", help="The number of node processes."
        ),
    ] = None,
    no_kill: Annotated[
        bool,
        typer.Option(
            "--no-kill", help="Kill no node. By default, one of two or more is killed while it runs slow jobs."
        ),
    ] = False,
    workers: Annotated[
        int, typer.Option(min=1, metavar="N", help="The number of jobs per node that run at a time.")
    ] = 4,
    files: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", show_default="all", help="The number of files of the standard library to count."
        ),
    ] = None,
    namespace: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            show_default="a fresh one",
            help="The namespace in the store. It must be empty; the demo removes it at the end.",
        ),
    ] = None,
    web: Annotated[
        bool,
        typer.Option("--web", help="Serve the dashboard of the cluster. On a terminal, it stays open until Ctrl-C."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print only the result, as one JSON object.")] = False,
) -> int:
    """Run the demo."""
    from .demo import command

    return command.run(
        store, nodes, kill=not no_kill, workers=workers, files=files, namespace=namespace, web=web, as_json=as_json
    )


@app.command(
    help="Run a node with the jobs of some modules, until SIGTERM.\n\n"
    "Flags override the environment, the environment overrides the file of --config, and the file overrides the "
    "defaults below. On SIGTERM or SIGINT, running jobs have --grace to end, and all other claims return to the queue; "
    "a second signal cancels running jobs. On SIGUSR1, the node drains: it claims nothing more, and running jobs "
    "continue to their end. On SIGHUP, jobd imports the modules and reads the tokens file again.\n\n"
    "The exit status: 0 after an orderly end, 2 for an invalid configuration, 4 if the store cannot be reached, 5 if "
    "the store refuses the credentials, 1 for other errors, 128 + n if a second signal n ended the stop early."
)
@takes_settings
def run(settings: DaemonSettings) -> int:
    """Run a node."""
    from .daemon import daemon

    return daemon.run(settings)


@app.command(
    help="Remove a whole namespace from its store: instances, schedules and ledgers.\n\n"
    "This also works if nodes refuse the layout of the namespace. Stop all nodes of the namespace before."
)
@takes_settings
def clear(
    settings: DaemonSettings,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Remove a namespace."""
    from .daemon import clear

    return clear.clear(settings, yes=yes)


@app.command(
    help="Report problems of a configuration, its store and its cluster.\n\n"
    "Takes the options of `jobd run` and runs no job. It joins the cluster for a moment, without workers. "
    "The exit status: 0 if nothing failed, 1 if a check failed (with --strict, also for a warning), 2 for an invalid "
    "option."
)
@takes_settings
def check(
    settings: DaemonSettings,
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON list of objects with subject, verdict and text.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
) -> int:
    """Check a configuration."""
    from .daemon import check

    return check.check(settings, as_json=as_json, strict=strict)


MetricsListen = Annotated[
    str,
    typer.Option(
        envvar="PEERJOB_METRICS_LISTEN",
        metavar="HOST:PORT",
        help="The address of the daemon's metrics. For 0.0.0.0, jobd asks on loopback.",
    ),
]


@app.command(
    help="Ask a daemon of this machine whether it is live, ready, started or drained.\n\n"
    "live: a restart would not help. ready: the node takes work. started: it has joined the cluster. drained: it takes "
    "no more work, and runs nothing. The exit status: 0 for yes, 1 for no or for no answer."
)
def probe(
    what: Annotated[Probe, typer.Argument(metavar="PROBE", show_default=False)],
    metrics_listen: MetricsListen = peerjob_probe.LISTEN,
    timeout: Annotated[str, typer.Option(metavar="DURATION", help="The time limit for an answer.")] = "2s",
) -> int:
    """Ask a daemon whether it is live, ready, started or drained."""
    from .daemon.drain import probed_address

    host, port = probed_address(metrics_listen)
    return peerjob_probe.print_answer(
        what.value, peerjob_probe.ask(what.value, host, port, to_seconds(timeout, "--timeout"))
    )


@app.command(
    help="Let a daemon of this machine claim nothing more, and wait until nothing runs on it.\n\n"
    "The daemon is then not ready, stays in the cluster, and waits for SIGTERM. jobctl undrain lets it take work "
    "again. You may run this command again. The exit status: 0 if nothing runs, or the daemon has ended; 1 if the time "
    "is over."
)
def drain(
    pid: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="The daemon's process id.",
            show_default="the only jobd run, or 1 if that is one, as in a container",
        ),
    ] = None,
    metrics_listen: MetricsListen = peerjob_probe.LISTEN,
    timeout: Annotated[str, typer.Option(metavar="DURATION", help="The time limit.")] = "30s",
) -> int:
    """Drain a daemon."""
    from .daemon import drain as draining

    return draining.drain(pid, metrics_listen, to_seconds(timeout, "--timeout"))


tokens = typer.Typer(name="token", help="Create tokens for callers of the gRPC service.", no_args_is_help=True)
app.add_typer(tokens)


class RoleName(StrEnum):
    """The role of a token."""

    READER = "reader"
    OPERATOR = "operator"
    ADMIN = "admin"


@tokens.command(
    "create",
    help="Create a token, add its hash to the file of --tokens-file, and print the token, only this once.\n\n"
    "A reader reads. An operator also schedules, cancels and changes schedules. An admin also clears, resizes and "
    "drains. Running daemons read the file again on SIGHUP.",
)
def create_token(
    tokens_file: Annotated[
        Path,
        typer.Option(
            envvar="PEERJOB_TOKENS_FILE", metavar="FILE", help="The tokens file. jobd creates it if it does not exist."
        ),
    ],
    role: Annotated[RoleName, typer.Option(help="The role of the token.")] = RoleName.READER,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="The owner, for people and for the audit log.", show_default="none")
    ] = "",
    kinds: Annotated[
        str | None,
        typer.Option(metavar="KIND,…", help="Limit it to kinds, or to prefixes: mail.*,report.", show_default="all"),
    ] = None,
    namespaces: Annotated[
        str | None, typer.Option(metavar="NAME,…", help="Limit it to namespaces.", show_default="all")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Its end, such as 2027-01-31T00:00:00Z.", show_default="never"),
    ] = None,
) -> None:
    """Create a token."""
    from peerjob.model.rights import Rights

    from .daemon.tokens import create

    fields = {"kinds": kinds, "namespaces": namespaces, "until": until}
    words = [f"{field}={value}" for field, value in fields.items() if value is not None]
    print(create(tokens_file, Rights.parse("jobd token create", [role.value, *words]), name))


def main() -> None:
    """The console command: every error is one line on standard error."""
    console.main(app, "jobd", error_report)
