"""What the threat model says about roles and limits is what the service does."""

import re
from pathlib import Path

from peerjob.cli.daemon.tokens import TOKEN_BYTES
from peerjob.model import bounds
from peerjob.node.observe.metrics import http as metrics
from peerjob.remote.server import grpc_server, instances, server
from peerjob.remote.server.roles import NEEDED_ROLES
from peerjob.remote.wire.requests import MAX_BULK
from peerjob.remote.wire.rpcs import SERVICE, Role

TEXT = (Path(__file__).parents[2] / "docs" / "security.md").read_text()


def test_every_rpc_stands_with_its_role() -> None:
    rows = dict(re.findall(r"^\| (reader|operator|admin) \| ([A-Z].*) \|$", TEXT, re.MULTILINE))
    told = {name: Role[role.upper()] for role, names in rows.items() for name in names.split(", ")}
    paths = {method.name: f"/{SERVICE.full_name}/{method.name}" for method in SERVICE.methods}
    assert told == {name: NEEDED_ROLES.get(path, Role.ADMIN) for name, path in paths.items()}


def test_the_limits_are_those_of_the_code() -> None:
    assert numbers_under("### Limits\n") == {
        "what": [],
        "a message": [server.MAX_MESSAGE >> 20],
        "calls at a time on one connection": [grpc_server.MAX_STREAMS],
        "calls that wait to be taken up": [grpc_server.MAX_PENDING],
        "jobs in a bulk": [MAX_BULK],
        "a wait": [instances.MAX_WAIT],
        "calls per second from one address": [],
        "scrapes and probes at a time": [metrics.MAX_CONNECTIONS, metrics.MAX_HEAD >> 10, metrics.IO_TIMEOUT],
    }
    assert f"{TOKEN_BYTES} random bytes" in TEXT


def test_the_limits_of_values_are_those_of_the_code() -> None:
    assert numbers_under("### Limits of values\n") == {
        "what": [],
        "parts of a value": [bounds.MAX_ELEMENTS, bounds.CONTAINER, bounds.LEAF, 2 * bounds.LEAF, 0],
        "levels": [bounds.MAX_DEPTH],
        "digits of an integer; of a Decimal before and after its point": [bounds.MAX_DIGITS],
        "keys of one map or set with the same hash": [bounds.MAX_EQUAL_HASHES],
        "different time zones": [bounds.MAX_ZONES],
        "keys of a map": [],
    }


def numbers_under(heading: str) -> dict[str, list[int]]:
    section = TEXT.partition(heading)[2].partition("\n#")[0]
    limits = dict(re.findall(r"^\| ([a-zA-Z ;]+) \| (.*) \|$", section, re.MULTILINE))
    return {what: [int(one.replace(",", "")) for one in re.findall(r"[\d,]*\d", text)] for what, text in limits.items()}
