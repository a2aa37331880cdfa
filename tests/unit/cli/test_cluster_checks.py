"""What `jobd check` says about the nodes, kinds and schedules of a namespace."""

import pytest

from peerjob.cli.daemon.cluster_checks import check_cluster
from peerjob.cli.daemon.config_checks import OwnKinds
from peerjob.model.findings import Severity
from peerjob.model.firing import SchedulePut
from peerjob.model.record import NodeInfo, NodeView
from peerjob.testing import VirtualClock
from peerjob.testing.factories import Factory
from support.factories import flaky_store

OWN = OwnKinds(signatures={"own": "1"})
NODES = [NodeView(info=NodeInfo(name="one", incarnation="one", kinds=("served",)))]


@pytest.mark.parametrize(
    ("kind", "paused", "verdict", "text"),
    [
        ("served", False, Severity.OK, "1, 0 of them paused"),
        ("served", True, Severity.OK, "1, 1 of them paused"),
        ("own", False, Severity.OK, "1, 0 of them paused"),
        ("lost", False, Severity.WARN, "nightly: no node runs its kind lost, so it does not fire; start one, or"),
        ("lost", True, Severity.OK, "1, 1 of them paused"),
    ],
)
async def test_only_an_active_schedule_needs_a_node(
    clock: VirtualClock, kind: str, paused: bool, verdict: Severity, text: str
) -> None:
    store = flaky_store(clock).store
    await store.open()
    put = SchedulePut(name="nightly", kind=kind, definition=b"", next_us=None, paused=paused)
    assert await store.put_schedule(put) is not None
    (finding,) = [one for one in await check_cluster(store, OWN, NODES) if one.subject == "schedules"]
    assert finding.verdict is verdict
    assert finding.text.startswith(text)
    await store.close()


@pytest.mark.parametrize(
    ("kind", "verdict", "text"),
    [
        ("served", Severity.OK, "a node runs every kind that waits"),
        ("own", Severity.OK, "own: 1 wait for a node with these modules"),
        ("lost", Severity.WARN, "lost: 1 wait, and no node runs this kind"),
    ],
)
async def test_a_kind_that_waits_needs_a_node(clock: VirtualClock, kind: str, verdict: Severity, text: str) -> None:
    store = flaky_store(clock).store
    await store.open()
    await store.enqueue([Factory(clock).instance(kind=kind)])
    found = [(one.verdict, one.text) for one in await check_cluster(store, OWN, NODES) if one.subject == "kinds"]
    assert found == [(verdict, text)]
    await store.close()
