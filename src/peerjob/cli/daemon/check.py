"""`jobd check`: reports problems of a configuration, its store and its cluster."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import Sequence

from rich.table import Table

from peerjob import Clock, OptionError, PeerjobError, SystemClock
from peerjob.cli import event_loop
from peerjob.cli.console import complain
from peerjob.cli.result_console import result_console
from peerjob.model.findings import Finding, Severity
from peerjob.model.record import StoreLimits
from peerjob.node.work.outbox import OutboxState
from peerjob.store.drivers import diagnose, missing_file, open_elections, open_store
from peerjob.store.url import redact

from .cluster_checks import check_clock, check_cluster, check_leader, check_speed, nodes_of
from .config_checks import check_configuration
from .settings import DaemonSettings

_PATIENCE = 10.0
"""Seconds that the database of an outbox has to answer."""
_OLD = 60.0
"""Age of the oldest row in seconds from which the check warns."""
STYLES = {Severity.OK: "green", Severity.WARN: "yellow", Severity.FAIL: "bold red"}


def check(settings: DaemonSettings, *, as_json: bool, strict: bool) -> int:
    """Print the findings; the exit status: 0, or 1 if a check fails (with `strict`, also for a warning)."""
    sys.path.insert(0, str(settings.app_dir.resolve()))
    # log lines are dropped, since the command prints the same facts as findings
    logging.basicConfig(handlers=[logging.NullHandler()])
    try:
        findings = event_loop.run(examine(settings, SystemClock()))
    except KeyboardInterrupt:
        complain("jobd", "interrupted before the end of the checks")
        raise
    if as_json:
        print(json.dumps([finding._asdict() for finding in findings]))
    else:
        _show(findings)
    bad = {Severity.FAIL, Severity.WARN} if strict else {Severity.FAIL}
    return 1 if any(finding.verdict in bad for finding in findings) else 0


async def examine(settings: DaemonSettings, clock: Clock) -> Sequence[Finding]:
    """All findings; a store that cannot be reached is a finding too."""
    own, findings = check_configuration(settings, clock)
    findings += await _outbox(settings)
    where = redact(settings.store)
    try:
        findings += await diagnose(settings.store, namespace=settings.namespace, clock=clock)
        missing = _missing_files(settings)
        findings += missing.values()
        if "store" in missing:
            own_coordinator = settings.coordinator is not None and "leader" not in missing
            return [*findings, *(await _leader(settings, clock, nodes_run=False) if own_coordinator else ())]
        store = open_store(settings.store, namespace=settings.namespace, clock=clock, limits=StoreLimits(), retry_for=0)
        await store.open()
    except PeerjobError as error:
        return [*findings, Finding("store", Severity.FAIL, str(error))]
    try:
        findings.append(Finding("store", Severity.OK, f"{where}, namespace {settings.namespace}"))
        if not store.capabilities.shared:
            findings += [Finding("store", Severity.WARN, text) for text in store.capabilities.warnings]
        findings += await check_speed(store, clock)
        nodes = await nodes_of(store)
        findings += await check_clock(store, clock, peers=len(nodes))
        findings += await check_cluster(store, own, nodes)
        if "leader" not in missing:
            findings += await _leader(settings, clock, nodes_run=bool(nodes))
    except PeerjobError as error:
        findings.append(Finding("store", Severity.FAIL, str(error)))
    finally:
        await store.close()
    return findings


def _missing_files(settings: DaemonSettings) -> dict[str, Finding]:
    """Subject → finding, for each SQLite file that a node would make, and a check must not."""
    findings: dict[str, Finding] = {}
    for subject, url in (("store", settings.store), ("leader", settings.coordinator)):
        # a wrong URL is no missing file: opening it tells the error
        with contextlib.suppress(OptionError):
            if (path := missing_file(url or "")) is not None:
                text = f"{path} does not exist; the first node makes it, unless the path is wrong"
                findings[subject] = Finding(subject, Severity.WARN, text)
    return findings


async def _outbox(settings: DaemonSettings) -> Sequence[Finding]:
    try:
        relay = settings.relay()
        if relay is None:
            return []
        async with asyncio.timeout(_PATIENCE):
            state = await relay.state()
            await relay.close()
    except Exception as error:  # noqa: BLE001  # each driver of a database has its own errors
        return [Finding("outbox", Severity.FAIL, f"{type(error).__name__}: {error}")]
    text = f"{state.table}: {state.rows:,} row(s) wait"
    if state.rows:
        text += f", the oldest for {state.oldest:,.0f} s"
    if state.oldest > _OLD:
        return [Finding("outbox", Severity.WARN, f"{text}; does a node with this outbox run?"), *_refused(state)]
    return [Finding("outbox", Severity.OK, text), *_refused(state)]


def _refused(state: OutboxState) -> Sequence[Finding]:
    if not state.refused:
        return []
    text = f"{state.refused:,} row(s) cannot be sent; the table {state.table}_bad has them with their errors"
    return [Finding("outbox", Severity.WARN, text)]


async def _leader(settings: DaemonSettings, clock: Clock, *, nodes_run: bool) -> Sequence[Finding]:
    elections = open_elections(settings.coordinator or settings.store, namespace=settings.namespace, clock=clock)()
    try:
        await elections.open()
        return await check_leader(elections, nodes_run=nodes_run)
    except PeerjobError as error:
        return [Finding("leader", Severity.FAIL, f"the coordinator does not answer: {error}")]
    finally:
        with contextlib.suppress(PeerjobError):
            await elections.close()


def _show(findings: Sequence[Finding]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        style = STYLES[finding.verdict]
        table.add_row(f"[{style}]{finding.verdict:<4}[/]", finding.subject, finding.text.replace("[", r"\["))
    result_console().print(table)
