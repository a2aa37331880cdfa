"""What the threat model says about roles and limits is what the service does."""

import re
from pathlib import Path

from peerjob.cli.daemon.tokens import TOKEN_BYTES
from peerjob.node.metrics import http as metrics
from peerjob.node.server import endpoint, instances, listener
from peerjob.node.server.roles import NEEDED, Role
from peerjob.node.wire.requests import MAX_BULK

TEXT = (Path(__file__).parents[2] / "docs" / "security.md").read_text()


def test_every_rpc_stands_with_its_role() -> None:
    rows = dict(re.findall(r"^\| (reader|operator|admin) \| ([A-Z].*) \|$", TEXT, re.MULTILINE))
    told = {name: Role[role.upper()] for role, names in rows.items() for name in names.split(", ")}
    assert told == {path.rpartition("/")[2]: role for path, role in NEEDED.items()}


def test_the_limits_are_those_of_the_code() -> None:
    limits = dict(re.findall(r"^\| ([a-z ]+) \| (.*) \|$", TEXT.partition("### Limits")[2], re.MULTILINE))
    numbers = {
        what: [int(one.replace(",", "")) for one in re.findall(r"[\d,]*\d", text)] for what, text in limits.items()
    }
    assert numbers == {
        "what": [],
        "a message": [listener.MAX_MESSAGE >> 20],
        "calls at a time on one connection": [endpoint.MAX_STREAMS],
        "calls that wait to be taken up": [endpoint.MAX_PENDING],
        "jobs in a bulk": [MAX_BULK],
        "a wait": [instances.MOST_WAIT],
        "calls per second from one address": [],
        "scrapes and probes at a time": [metrics.MAX_CONNECTIONS, metrics.MAX_HEAD >> 10, metrics.PATIENCE],
    }
    assert f"{TOKEN_BYTES} random bytes" in TEXT
