"""`jobd`: runs peers, and shows what they can do."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import peerjob_probe
from peerjob import OptionError, Probe, SystemClock, __version__
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


def _show_version(asked: bool) -> None:
    if asked:
        print(f"peerjob {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command("version")
def show_version() -> None:
    """Show the version."""
    _show_version(True)


@app.command(
    help="Watch a cluster of peers do real work, lose a node to kill -9, and lose no job.\n\n"
    "One job counts one source file of Python's standard library; others are slow, delayed or urgent, or fail before "
    "they succeed. At the end everything is checked against the recorded history and against the same count in one "
    "process. The exit status is 1 when a check fails."
)
def demo(
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            show_default="an embedded Valkey, gone at the end",
            help="Use this store: redis://, valkey:// or etcd://, with TLS rediss:// and so on. "
            "memory:// runs one node in this process.",
        ),
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_NODES, metavar="N", show_default="3; 1 on memory://", help="Start so many node processes."
        ),
    ] = None,
    no_kill: Annotated[
        bool,
        typer.Option(
            "--no-kill", help="Kill no node; else one of two or more is killed half way, while slow jobs run there."
        ),
    ] = False,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="How many jobs each node runs at a time.")] = 4,
    files: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", show_default="all", help="Count only so many files of the standard library."),
    ] = None,
    namespace: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            show_default="a fresh one",
            help="Keep everything under this name in the store; it has to be empty, and is cleared at the end.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Show nothing but the result, as one JSON object.")] = False,
) -> int:
    """Run the demo with what the options ask for."""
    from .demo import command
    from .demo.conductor import DemoSettings

    clock = SystemClock()
    in_process = store is not None and store.startswith("memory://")
    if in_process and nodes is not None and nodes > 1:
        raise OptionError("--nodes", nodes, "1 with memory://, which no other process can see")
    nodes = nodes or (1 if in_process else 3)
    settings = DemoSettings(
        store=store,
        nodes=nodes,
        kill=nodes > 1 and not no_kill,
        workers=workers,
        namespace=f"demo-{clock.random.getrandbits(32):08x}" if namespace is None else namespace,
        files=files,
    )
    settings.observer("memory://" if store is None else store, clock)  # refuses what no node would take
    return command.run(settings, as_json=as_json)


@app.command(
    help="Run a node with the jobs of some modules, until SIGTERM.\n\n"
    "Options come from flags, then from the environment, then from the file of --config, then from the defaults below. "
    "SIGTERM and SIGINT let running jobs end, for as long as --grace says, and hand back the others; a second one "
    "cancels what runs. SIGUSR1 drains: nothing more is claimed, and what runs goes on to its end. SIGHUP imports the "
    "modules anew, and reads the tokens again.\n\n"
    "The exit status: 0 after an orderly end, 2 for a wrong configuration, 4 for a store that cannot be reached, 5 for "
    "one that refuses us, 1 for other errors, 128 and the signal's number when the end was cut short."
)
@takes_settings
def run(settings: DaemonSettings) -> int:
    """Run a daemon."""
    from .daemon import daemon

    return daemon.run(settings)


@app.command(
    help="Remove a whole namespace from its store: instances, schedules, the ledger, and what nodes left there.\n\n"
    "It works also where a node refuses the layout of the namespace. Stop all nodes of the namespace before."
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
    help="Check a configuration, its store and its cluster, and tell what is good and what is not.\n\n"
    "Takes the options of `jobd run`, and runs nothing; it joins the cluster for a moment, without workers. "
    "The exit status: 0 when nothing fails, 1 when something does (with --strict, also for a warning), 2 for options "
    "that are wrong in themselves."
)
@takes_settings
def check(
    settings: DaemonSettings,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of subject, verdict and text.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Fail for warnings, too.")] = False,
) -> int:
    """Check what a daemon would run with."""
    from .daemon import check

    return check.check(settings, as_json=as_json, strict=strict)


MetricsListen = Annotated[
    str,
    typer.Option(
        envvar="PEERJOB_METRICS_LISTEN",
        metavar="HOST:PORT",
        help="Where the daemon serves its metrics; one that listens on every address is asked on loopback.",
    ),
]


@app.command(
    help="Ask a daemon of this machine whether it is live, ready, started or drained.\n\n"
    "live: a restart would heal nothing. ready: it takes work. started: it has joined the cluster. drained: it takes "
    "no more work, and nothing runs on it. The exit status: 0 for yes, 1 for no, and when it does not answer."
)
def probe(
    what: Annotated[Probe, typer.Argument(metavar="PROBE", show_default=False)],
    metrics_listen: MetricsListen = peerjob_probe.LISTEN,
    timeout: Annotated[str, typer.Option(metavar="DURATION", help="How long to wait for an answer.")] = "2s",
) -> int:
    """Ask a daemon a probe."""
    from .daemon.drain import probed_address

    host, port = probed_address(metrics_listen)
    return peerjob_probe.tell(what.value, peerjob_probe.ask(what.value, host, port, to_seconds(timeout, "--timeout")))


@app.command(
    help="Tell a daemon of this machine to claim nothing more, and wait until nothing runs on it.\n\n"
    "It is not ready from then on, stays in the cluster, and ends with SIGTERM as ever; a drain is not taken back, and "
    "may be asked for again. The exit status: 0 when nothing runs any more, 1 when the time is over first."
)
def drain(
    pid: Annotated[int, typer.Option(min=1, metavar="N", help="The daemon's process id: 1 in a container.")] = 1,
    metrics_listen: MetricsListen = peerjob_probe.LISTEN,
    timeout: Annotated[str, typer.Option(metavar="DURATION", help="How long to wait.")] = "30s",
) -> int:
    """Drain a daemon."""
    from .daemon import drain as draining

    return draining.drain(pid, metrics_listen, to_seconds(timeout, "--timeout"))


tokens = typer.Typer(name="token", help="Make tokens for callers of the gRPC service.", no_args_is_help=True)
app.add_typer(tokens)


class RoleName(StrEnum):
    """What the bearer of a token may do."""

    READER = "reader"
    OPERATOR = "operator"
    ADMIN = "admin"


@tokens.command(
    "create",
    help="Make a token, add its hash to the file of --tokens-file, and print it: it is shown this once only.\n\n"
    "A reader looks, an operator also schedules, cancels and changes schedules, and an admin also clears, resizes and "
    "drains. Running daemons read the file again at SIGHUP.",
)
def create_token(
    tokens_file: Annotated[
        Path, typer.Option(envvar="PEERJOB_TOKENS_FILE", metavar="FILE", help="The file, made when it is not there.")
    ],
    role: Annotated[RoleName, typer.Option(help="What the bearer may do.")] = RoleName.READER,
    name: Annotated[str, typer.Option(metavar="NAME", help="Whose it is, for people.", show_default="none")] = "",
) -> None:
    """Make a token."""
    from peerjob import Role

    from .daemon.tokens import create

    print(create(tokens_file, Role[role.name], name))


def main() -> None:
    """The console command: every error is one line on standard error."""
    sys.exit(console.run(app, "jobd", None, error_report))
