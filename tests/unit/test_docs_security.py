"""What the threat model says about roles and limits is what the service does."""

import re
from pathlib import Path

from peerjob.cli.daemon.tokens import TOKEN_BYTES
from peerjob.model import bounds
from peerjob.model.rights import Role
from peerjob.node.observe.metrics import http as metrics
from peerjob.remote.server import calls, grpc_server, instances, server
from peerjob.remote.server.access import NEEDED_ROLES
from peerjob.remote.wire.requests import MAX_BULK
from peerjob.remote.wire.rpcs import SCOPES, SERVICE, Scope

TEXT = (Path(__file__).parents[2] / "docs" / "security.md").read_text()


def test_every_rpc_stands_with_its_role() -> None:
    rows = dict(re.findall(r"^\| (reader|operator|admin) \| ([A-Z].*) \|$", TEXT, re.MULTILINE))
    documented = {name: Role[role.upper()] for role, names in rows.items() for name in names.split(", ")}
    paths = {method.name: f"/{SERVICE.full_name}/{method.name}" for method in SERVICE.methods}
    assert documented == {name: NEEDED_ROLES[path] for name, path in paths.items()}


def test_the_limits_are_those_of_the_code() -> None:
    assert numbers_under("### Limits\n") == {
        "what": [],
        "a message": [server.MAX_MESSAGE >> 20],
        "calls at a time on one connection": [grpc_server.MAX_STREAMS],
        "calls that wait to be taken up": [grpc_server.MAX_PENDING],
        "connections": [grpc_server.MAX_CONNECTIONS],
        "connections of one address": [],
        "connections that have not begun HTTP/2, or have no calls": [
            grpc_server.HANDSHAKE_SECONDS,
            grpc_server.IDLE_SECONDS,
        ],
        "open calls of all connections": [calls.MAX_CALLS, calls.RESERVED_CALLS],
        "open calls of one caller": [calls.MAX_CALLS_CALLER],
        "answers that one caller has not read": [calls.MAX_UNREAD >> 20],
        "calls of one address whose token is being checked": [calls.MAX_ADMITTING],
        "messages on the way from one connection; from one caller": [
            calls.MAX_RECEIVING_CONNECTION,
            calls.MAX_RECEIVING,
        ],
        "a message on its way": [calls.RECEIVE_SECONDS],
        "health checks whose message is not complete; health watches": [calls.MAX_PROBES, calls.MAX_PROBE_WATCHES],
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
    limits = dict(re.findall(r"^\| ([a-zA-Z ;,/2]+) \| (.*) \|$", section, re.MULTILINE))
    return {what: [int(one.replace(",", "")) for one in re.findall(r"[\d,]*\d", text)] for what, text in limits.items()}


def test_the_scopes_are_those_of_the_code() -> None:
    section = TEXT.partition("### Limited tokens\n")[2].partition("\n#")[0]
    rows = [set(names.split(", ")) for names in re.findall(r"^\| ([A-Z][A-Za-z, ]+) \|", section, re.MULTILINE)]
    by_scope = [{name for name, scope in SCOPES.items() if scope is one} for one in Scope]
    assert sorted(map(sorted, rows[1:])) == sorted(map(sorted, by_scope))
