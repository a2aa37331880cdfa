"""Checks of a configuration that need no server."""

from __future__ import annotations

from dataclasses import dataclass, field

from peerjob import Clock, PeerjobError
from peerjob.model.findings import Finding, Severity
from peerjob.model.listed import listed
from peerjob.node.body.registry import Registry

from .modules import JobModules
from .settings import OFF, DaemonSettings
from .tokens import TokensFile

_WRITABLE_BY_OTHERS = 0o022
_READABLE_BY_ALL = 0o004


@dataclass(frozen=True, kw_only=True)
class OwnKinds:
    """The kinds of a node with this configuration."""

    signatures: dict[str, str] = field(default_factory=dict[str, str])
    """Kind of job → hash of the signature of the job's function."""


def check_configuration(settings: DaemonSettings, clock: Clock) -> tuple[OwnKinds, list[Finding]]:
    """The kinds of the configuration, and its problems."""
    own, findings = _jobs(settings, clock)
    findings += _service(settings, clock)
    return own, findings


def _jobs(settings: DaemonSettings, clock: Clock) -> tuple[OwnKinds, list[Finding]]:
    registry = Registry()
    try:
        jobs = registry.add(JobModules(settings.jobs).load())
        settings.node(jobs, clock)
    except PeerjobError as error:
        return OwnKinds(), [Finding("configuration", Severity.FAIL, str(error))]
    kinds = registry.signatures()
    text = f"{len(kinds)} kind(s): {listed(kinds)}" if kinds else "no module was given"
    return OwnKinds(signatures=registry.signatures()), [Finding("jobs", Severity.OK, text)]


def _service(settings: DaemonSettings, clock: Clock) -> list[Finding]:
    try:
        tokens = None if settings.tokens_file is None else TokensFile(settings.tokens_file)
        if settings.tls is not None:
            settings.tls.read()
        node = settings.node((), clock)
        settings.server(node, tokens)
        settings.metrics(node)
        settings.scaler(node)
        settings.web(node, tokens)
    except PeerjobError as error:
        return [Finding("service", Severity.FAIL, str(error))]
    exposed = [Finding("service", Severity.FAIL, text) for text in exposed_files(settings)]
    if settings.listen == OFF:
        return [Finding("service", Severity.OK, "no gRPC service"), *exposed]
    callers = "everybody who reaches it" if tokens is None else f"{len(tokens)} token(s)"
    if settings.jwt_issuer is not None:
        callers = f"JWTs of {settings.jwt_issuer}{'' if tokens is None else f' and {callers}'}"
    elif tokens is None and settings.tls_client_ca is not None:
        callers = "clients with a certificate"
    verdict = Severity.WARN if settings.insecure else Severity.OK
    secured = "TLS" if settings.tls is not None else "no TLS"
    return [Finding("service", verdict, f"gRPC on {settings.listen}, {secured}, for {callers}"), *exposed]


def exposed_files(settings: DaemonSettings) -> list[str]:
    """Problems of the files' permissions: other users can write them, or read a secret."""
    secret = _WRITABLE_BY_OTHERS | _READABLE_BY_ALL
    files = {
        settings.store_file: (secret, "read or write {}, which can hold the store's password; chmod 0600"),
        settings.coordinator_file: (secret, "read or write {}, which can hold the coordinator's password; chmod 0600"),
        settings.outbox_file: (secret, "read or write {}, which can hold the database's password; chmod 0600"),
        settings.tokens_file: (_WRITABLE_BY_OTHERS, "write {}, and so give themselves access; chmod go-w"),
        settings.tls_key: (secret, "read or write {}, the key of the service; chmod 0600"),
        settings.tls_client_ca: (_WRITABLE_BY_OTHERS, "write {}, and so give themselves access; chmod go-w"),
    }
    return [
        f"other users can {text.format(path)}"
        for path, (rights, text) in files.items()
        if path is not None and path.exists() and path.stat().st_mode & rights
    ]
