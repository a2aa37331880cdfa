"""Everything that a daemon can be told: the one list of its options, their defaults and their help."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from peerjob import Clock, Node, OptionError
from peerjob.model.durations import to_seconds

from .config import use_file

if TYPE_CHECKING:  # what needs gRPC is loaded when it is used
    from peerjob import ScalerServer, Server, ServerTls, Tokens
    from peerjob.node.observe.metrics import MetricsServer

OFF = "off"
METRICS_PORT = 9090
STORE, SERVICE, LOGS = "Store", "Service", "Logs"
"""Panels of the help."""


class LogFormat(StrEnum):
    """How the log is written."""

    HUMAN = "human"
    JSON = "json"


class LogLevel(StrEnum):
    """The least level that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _option(name: str, help: str, *, panel: str | None = None, **more: Any) -> Any:
    variable = f"PEERJOB_{name.removeprefix('--').replace('-', '_').upper()}"
    return typer.Option(name, envvar=variable, help=help, rich_help_panel=panel, **more)


@dataclass(frozen=True, kw_only=True)
class DaemonSettings:
    """The options of a daemon, checked as far as that needs no file and no server."""

    jobs: Annotated[
        list[str],
        typer.Argument(
            metavar="MODULE...",
            envvar="PEERJOB_JOBS",
            help="Modules whose jobs to run, such as app.jobs; imported from --app-dir and from what is installed.",
            show_default=False,
        ),
    ] = field(default_factory=list[str])
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            envvar="PEERJOB_JOBD_CONFIG",
            metavar="FILE",
            show_default="none",
            is_eager=True,
            callback=use_file,
            help="A TOML file with any of these options; flags and the environment win over it.",
        ),
    ] = None
    app_dir: Annotated[
        Path, _option("--app-dir", "Where modules are looked for first.", metavar="DIR", show_default="here")
    ] = Path()
    name: Annotated[
        str | None,
        _option("--name", "The node's name, for people.", metavar="NAME", show_default="host name and process id"),
    ] = None
    workers: Annotated[
        int,
        _option("--workers", "How many jobs run at a time; 0: none, this node only serves.", min=0, metavar="N"),
    ] = 10
    grace: Annotated[
        str,
        _option("--grace", "How long running jobs may go on when the daemon is asked to stop.", metavar="DURATION"),
    ] = "30s"
    lease_ttl: Annotated[
        str,
        _option("--lease-ttl", "How soon peers take over from a node that vanished, 1s or more.", metavar="DURATION"),
    ] = "5s"
    allow_references: Annotated[
        list[str] | None,
        _option(
            "--allow-references",
            "A module or package whose functions may be options of single runs; those with jobs always are.",
            metavar="MODULE",
            show_default="none",
        ),
    ] = None
    timezone: Annotated[str, _option("--timezone", "The zone of cron schedules that name none.", metavar="ZONE")] = (
        "UTC"
    )

    store: Annotated[
        str,
        _option(
            "--store",
            "What the nodes share: redis://, valkey:// or etcd://, with TLS rediss:// and so on. memory:// is gone "
            "with this process.",
            metavar="URL",
            panel=STORE,
        ),
    ] = field(default="memory://", repr=False)  # it may hold a password
    store_file: Annotated[
        Path | None,
        _option(
            "--store-file",
            "A file that holds the store's URL, so that its password stands in no list of processes.",
            metavar="FILE",
            show_default="none",
            panel=STORE,
        ),
    ] = None
    coordinator: Annotated[
        str | None,
        _option(
            "--coordinator",
            "Who elects the node that fires schedules, such as etcd://host.",
            metavar="URL",
            show_default="the store",
            panel=STORE,
        ),
    ] = field(default=None, repr=False)
    coordinator_file: Annotated[
        Path | None,
        _option(
            "--coordinator-file",
            "A file that holds the coordinator's URL.",
            metavar="FILE",
            show_default="none",
            panel=STORE,
        ),
    ] = None
    namespace: Annotated[
        str, _option("--namespace", "What keeps applications apart in one store.", metavar="NAME", panel=STORE)
    ] = "default"

    listen: Annotated[
        str,
        _option(
            "--listen",
            f"Where to serve gRPC, for jobctl and clients; {OFF}: nowhere.",
            metavar="HOST:PORT",
            panel=SERVICE,
        ),
    ] = "127.0.0.1:59051"
    insecure: Annotated[
        bool,
        _option(
            "--insecure",
            "Serve everybody who reaches an address off loopback, without TLS or tokens.",
            panel=SERVICE,
        ),
    ] = False
    tls_cert: Annotated[
        Path | None,
        _option("--tls-cert", "The certificate to show, as PEM.", metavar="FILE", show_default="no TLS", panel=SERVICE),
    ] = None
    tls_key: Annotated[
        Path | None,
        _option("--tls-key", "The certificate's key, as PEM.", metavar="FILE", show_default="none", panel=SERVICE),
    ] = None
    tls_client_ca: Annotated[
        Path | None,
        _option(
            "--tls-client-ca",
            "Let in only clients with a certificate of this CA.",
            metavar="FILE",
            show_default="none",
            panel=SERVICE,
        ),
    ] = None
    tokens_file: Annotated[
        Path | None,
        _option(
            "--tokens-file",
            "Let in only callers with a token of this file; see `jobd token create`.",
            metavar="FILE",
            show_default="none",
            panel=SERVICE,
        ),
    ] = None
    rate: Annotated[
        float | None,
        _option(
            "--rate",
            "Most calls per second from one address.",
            min=0.001,
            metavar="N",
            show_default="unlimited",
            panel=SERVICE,
        ),
    ] = None
    metrics_listen: Annotated[
        str,
        _option(
            "--metrics-listen",
            f"Where to serve metrics over HTTP, for Prometheus, and to answer probes; {OFF}: nowhere.",
            metavar="HOST:PORT",
            panel=SERVICE,
        ),
    ] = f"127.0.0.1:{METRICS_PORT}"
    metrics_compat: Annotated[
        bool, _option("--metrics-compat", "Serve metrics under go-job's names, too.", panel=SERVICE)
    ] = False

    scaler_listen: Annotated[
        str,
        _option(
            "--scaler-listen",
            f"Where to answer KEDA, as an external scaler, with the TLS of the service; {OFF}: nowhere.",
            metavar="HOST:PORT",
            panel=SERVICE,
        ),
    ] = OFF

    log_format: Annotated[
        LogFormat, _option("--log-format", "Lines for people, or one JSON object a line.", panel=LOGS)
    ] = LogFormat.HUMAN
    log_level: Annotated[LogLevel, _option("--log-level", "The least level that is logged.", panel=LOGS)] = (
        LogLevel.INFO
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be; raises OptionError."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise OptionError("--tls-cert", "one of --tls-cert and --tls-key", "both, or none of them")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise OptionError("--tls-client-ca", str(self.tls_client_ca), "--tls-cert and --tls-key with it")
        for option, value in (("--grace", self.grace), ("--lease-ttl", self.lease_ttl)):
            to_seconds(value, option)

    @property
    def grace_seconds(self) -> float:
        return to_seconds(self.grace, "--grace")

    @property
    def tls(self) -> ServerTls | None:
        """What the gRPC service shows."""
        from peerjob import ServerTls

        if self.tls_cert is None or self.tls_key is None:
            return None
        return ServerTls(certificate=self.tls_cert, key=self.tls_key, client_ca=self.tls_client_ca)

    def node(self, jobs: Sequence[Any], clock: Clock) -> Node:
        """The node that these ask for, not started."""
        return Node(
            self.store,
            jobs=jobs,
            workers=self.workers,
            coordinator=self.coordinator,
            namespace=self.namespace,
            name=self.name,
            lease_ttl=self.lease_ttl,
            timezone=self.timezone,
            clock=clock,
            allow_unknown=True,
            allow_references=(*self.jobs, *(self.allow_references or ())),
        )

    def server(self, node: Node, tokens: Tokens | None) -> Server | None:
        """The gRPC service of a node, not started; None when there is to be none."""
        from peerjob import Server

        if self.listen == OFF:
            return None
        return Server(node, self.listen, tls=self.tls, tokens=tokens, insecure=self.insecure, rate=self.rate)

    def metrics(self, node: Node) -> MetricsServer | None:
        """What shows the metrics of a node, not started; None when nothing is to."""
        from peerjob.node.observe.metrics import Metrics, MetricsServer

        if self.metrics_listen == OFF:
            return None
        return MetricsServer(Metrics(node, compat=self.metrics_compat), self.metrics_listen)

    def scaler(self, node: Node) -> ScalerServer | None:
        """What tells KEDA of the work that there is, not started; None when nothing is to."""
        from peerjob import ScalerServer

        return None if self.scaler_listen == OFF else ScalerServer(node, self.scaler_listen, tls=self.tls)


def takes_settings(command: Callable[..., int]) -> Callable[..., int]:
    """A command whose options are the fields of DaemonSettings, and what else it takes by keyword."""
    hints = get_type_hints(DaemonSettings, include_extras=True)
    own = get_type_hints(command, include_extras=True)
    parameters = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    for one in fields(DaemonSettings):
        default = one.default_factory() if callable(one.default_factory) else one.default
        parameters.append(
            inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[one.name])
        )
    more = list(inspect.signature(command).parameters.values())[1:]
    parameters += [parameter.replace(annotation=own[parameter.name]) for parameter in more]

    def run(*, context: typer.Context, **given: Any) -> int:
        of_settings = {one.name: given.pop(one.name) for one in fields(DaemonSettings)}
        for name in ("store", "coordinator"):
            of_settings[name] = _read_url(context, name, of_settings[name], of_settings[f"{name}_file"])
        return command(DaemonSettings(**of_settings), **given)

    vars(run)["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


_STRENGTH = ("DEFAULT", "DEFAULT_MAP", "ENVIRONMENT", "COMMANDLINE")


def _read_url(context: typer.Context, name: str, url: str | None, file: Path | None) -> str | None:
    """The URL, or what the file holds when that was given at a stronger place."""
    if file is None:
        return url
    of_url, of_file = (_strength(context, one) for one in (name, f"{name}_file"))
    if of_url > of_file:
        return url
    if of_url == of_file:
        raise OptionError(f"--{name}", f"--{name} and --{name}-file", "one of them")
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"--{name}-file", str(file), f"a file that can be read ({error})") from None


def _strength(context: typer.Context, name: str) -> int:
    source = context.get_parameter_source(name)
    return 0 if source is None or source.name not in _STRENGTH else _STRENGTH.index(source.name)
