"""Each argument of a public constructor is kept, or refused with an error of peerjob that names it."""

import enum
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from redis.credentials import CredentialProvider

import peerjob
from peerjob import (
    Backoff,
    Client,
    Filter,
    Job,
    JobGroup,
    KeyLimit,
    Limit,
    Node,
    OptionError,
    PeerjobError,
    Query,
    Rights,
    Role,
    Token,
)
from peerjob.model.limits import MAX_SEED
from peerjob.model.printable import shown
from peerjob.store.drivers import open_elections, open_store
from peerjob.testing import Eager, TestCluster, VirtualClock
from peerjob.web import SignIn, dashboard
from support.odd_values import ODD, allowed, out_of_bounds, parameters_of

NODE = Node()
PRINCIPAL_OF = {"admin": Rights(role=Role.ADMIN)}
CLOCK = peerjob.SystemClock()


async def refuse_all(request: object) -> None: ...


CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "Node": (Node, {}),
    "Client": (Client, {}),
    "Server": (peerjob.Server, {"node": NODE}),
    "ScalerServer": (peerjob.ScalerServer, {"node": NODE}),
    "ServerTls": (peerjob.ServerTls, {"certificate": "a.pem", "key": "a.key"}),
    "ClientTls": (peerjob.ClientTls, {}),
    "Token": (Token, {"digest": "0" * 64, "rights": Rights(role=Role.READER)}),
    "Token.of": (Token.of, {"token": "x", "role": Role.READER}),
    "Tokens": (peerjob.Tokens, {"tokens": ()}),
    "Tokens.load": (peerjob.Tokens.load, {"path": "/dev/null"}),
    "Jwt": (peerjob.Jwt, {"issuer": "i", "audience": "a", "keys": "https://localhost/keys", "rights": PRINCIPAL_OF}),
    "Rights": (Rights, {"role": Role.READER}),
    "Flow": (peerjob.Flow, {"name": "import"}),
    "Signal": (peerjob.Signal, {"name": "approval", "type": bool}),
    "Principal": (peerjob.Principal, {"name": "x", "rights": Rights(role=Role.READER)}),
    "Metrics": (peerjob.Metrics, {"node": NODE}),
    "MetricsServer": (peerjob.MetricsServer, {"metrics": peerjob.Metrics(NODE)}),
    "dashboard": (dashboard, {"manager": NODE, "authorize": refuse_all}),
    "Job": (Job, {"kind": "work"}),
    "JobGroup": (JobGroup, {}),
    "job": (peerjob.job, {}),
    "Backoff": (Backoff, {}),
    "Backoff.exponential": (Backoff.exponential, {}),
    "Backoff.fixed": (Backoff.fixed, {"wait": 1}),
    "Limit": (Limit, {"name": "few", "concurrency": 1}),
    "KeyLimit": (KeyLimit, {"key": "all"}),
    "Jitter": (peerjob.Jitter, {"limit_us": 1, "by_name": True}),
    "Jitter.hashed": (peerjob.Jitter.hashed, {"limit": 1}),
    "Jitter.random": (peerjob.Jitter.random, {"limit": 1}),
    "Depends": (peerjob.Depends, {"factory": refuse_all}),
    "Query": (Query, {}),
    "Filter": (Filter, {}),
    "StoreLimits": (peerjob.StoreLimits, {}),
    "explain": (peerjob.explain, {"spec": "@daily"}),
    "history_cleaner": (peerjob.history_cleaner, {}),
    "instance_cleaner": (peerjob.instance_cleaner, {}),
    "log_cleaner": (peerjob.log_cleaner, {}),
    "open_store": (
        open_store,
        {"url": "memory://", "namespace": "x", "clock": CLOCK, "limits": peerjob.StoreLimits()},
    ),
    "open_elections": (open_elections, {"url": "memory://", "namespace": "x", "clock": CLOCK}),
    "Eager": (Eager, {}),
    "TestCluster": (TestCluster, {}),
    "VirtualClock": (VirtualClock, {}),
    "SignIn": (SignIn, {"authenticators": [peerjob.Tokens(())], "clock": CLOCK}),
}
# a sum of states or levels is as good as its members: `State` and `Level` are flags
SUMS = {"Query(state)", "Query(level)"}
NAMES = {name: getattr(peerjob, name) for name in peerjob.__all__}


def called(call: Callable[..., Any], arguments: dict[str, Any]) -> object:
    """Call a function whose parameters may be positional-only."""
    positional = [one.name for one in inspect.signature(call).parameters.values() if one.kind is one.POSITIONAL_ONLY]
    given = [arguments[name] for name in positional if name in arguments]
    return call(*given, **{name: value for name, value in arguments.items() if name not in positional})


@pytest.mark.parametrize("name", CALLS)
def test_each_argument_is_kept_or_refused(name: str) -> None:
    call, good = CALLS[name]
    called(call, good)
    wrong: list[str] = []
    for parameter, annotation in parameters_of(call, {**NAMES, "CredentialProvider": CredentialProvider}).items():
        for value in ODD:
            place = f"{name}({parameter}={shown(value)[:40]})"
            try:
                called(call, {**good, parameter: value})
            except PeerjobError as error:
                if not isinstance(error, OptionError | peerjob.ScheduleError):
                    wrong.append(f"{place}: {error!r}")
            except Exception as error:  # noqa: BLE001  # any other error is the finding
                wrong.append(f"{place}: {type(error).__name__}: {error!s:.100}")
            else:
                if f"{name}({parameter})" in SUMS and isinstance(value, int | list):
                    continue
                if parameter == "seed" and type(value) is int and abs(value) <= MAX_SEED:
                    continue
                if not allowed(value, annotation) or out_of_bounds(value, annotation):
                    wrong.append(f"{place}: accepted")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Node(workers=10**9), "workers: expected a whole number from 0 to 10,000, got 1000000000"),
        (lambda: Node(store_limits=cast(Any, 5)), "store_limits: expected a StoreLimits or None, got 5"),
        (lambda: Node(lease_ttl="2d"), "lease_ttl: expected 1 second or more, at most a day, got '2d'"),
        (lambda: Client(token=cast(Any, b"secret")), "token: expected text or None, got '… (a bytes)'"),
        (lambda: Token.of(cast(Any, ["secret"]), Role.READER), "token: expected text, got '… (a list)'"),
    ],
)
def test_the_error_says_what_was_given_and_what_was_expected(make: Callable[[], object], told: str) -> None:
    with pytest.raises(OptionError) as caught:
        make()
    assert str(caught.value) == told


def test_a_store_that_lacks_verbs_is_refused_with_their_names() -> None:
    class Older:
        """A store as a release before two of the verbs knew it."""

        def __getattr__(self, name: str) -> object:
            if name in ("get_ended", "check_needs"):
                raise AttributeError(name)
            return print

    with pytest.raises(OptionError) as caught:
        Node(cast(Any, Older()))
    assert str(caught.value).startswith("store: expected text or a Store with check_needs, get_ended, got ")


class Dsn:
    """A URL of a settings library: no text, with a repr that has the password."""

    def __repr__(self) -> str:
        return "Dsn('redis://:secret@host')"


PEM = "-----BEGIN PRIVATE KEY-----\nsecret" + "x" * 300


SECRETS: dict[str, Callable[[], object]] = {
    "store": lambda: Node(cast(Any, Dsn())),
    "coordinator": lambda: Node(coordinator=cast(Any, Dsn())),
    "open_store": lambda: open_store(cast(Any, Dsn()), namespace="x", clock=CLOCK, limits=peerjob.StoreLimits()),
    "open_elections": lambda: open_elections(cast(Any, Dsn()), namespace="x", clock=CLOCK),
    "export": lambda: peerjob.export_namespace(cast(Any, Dsn())),
    "key of a server": lambda: peerjob.ServerTls(certificate="a.pem", key=cast(Any, bytearray(PEM, "ascii"))),
    "key of a client": lambda: peerjob.ClientTls(certificate="a.pem", key=cast(Any, [PEM])),
    "key as text": lambda: peerjob.ClientTls(certificate=b"-----BEGIN", key=PEM).credentials(),
    "key of a server as text": lambda: peerjob.ServerTls(certificate=b"-----BEGIN", key=PEM).read(),
}


@pytest.mark.parametrize("make", SECRETS.values(), ids=SECRETS)
def test_no_error_shows_a_password_or_a_private_key(make: Callable[[], object]) -> None:
    with pytest.raises(OptionError) as caught:
        make()
    assert "secret" not in f"{caught.value} {caught.value.given!r}"


@dataclass(frozen=True, kw_only=True)
class Tenant(peerjob.Principal):
    """A subclass of an application, with a field that it sets later."""

    tenant: str = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "tenant", self.name.partition("/")[0])


def test_a_subclass_sets_its_own_fields_after_the_check() -> None:
    assert Tenant(name="a/b", rights=Rights(role=Role.READER)).tenant == "a"
    with pytest.raises(OptionError, match=r"^rights: expected a Rights"):
        Tenant(name="a/b", rights=cast(Any, Role.READER))


def test_a_class_of_the_same_name_in_the_module_of_a_subclass_changes_no_check(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        pass

    monkeypatch.setattr(sys.modules[__name__], "Rights", Other)
    assert Tenant(name="a", rights=peerjob.Rights(role=Role.READER)).rights.role is Role.READER


async def test_an_override_of_an_application_can_allow_more() -> None:
    class ByKind(Node):
        async def count(self, query: Query | str | None = None) -> int:
            return await super().count(Query(kind=query) if isinstance(query, str) else query)

    async with ByKind() as node:
        assert await node.count("work") == 0
        with pytest.raises(OptionError, match=r"^query: expected"):
            await node.count(cast(Any, 5))


def test_jobs_of_a_module_whose_name_is_no_identifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "2nd-nightly.py").write_text("import peerjob\n@peerjob.job(kind='nightly')\ndef nightly(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert [one.kind for one in Node(jobs="2nd-nightly").jobs()] == ["nightly"]


def test_a_seed_of_128_bits() -> None:
    assert VirtualClock(seed=2**128 - 1).random.random() == VirtualClock(seed=2**128 - 1).random.random()


def test_the_text_of_an_error_is_short() -> None:
    with pytest.raises(OptionError, match=r"^workers: expected .*, got '1{499}… \(1,000,002 characters\)$"):
        Node(workers=cast(Any, "1" * 1_000_000))
    with pytest.raises(OptionError, match=r"got <int that cannot be shown>$"):
        Node(workers=10**5_000)


@pytest.mark.parametrize(("name", "value"), [("store", 5), ("namespace", None), ("clock", "now"), ("lines", "x")])
async def test_exports_and_imports_refuse_wrong_types(name: str, value: object) -> None:
    arguments: dict[str, Any] = {"store": "memory://", "lines": [], name: value}
    with pytest.raises(OptionError, match=f"^{name}: expected"):
        await peerjob.import_namespace(**arguments)
    del arguments["lines"]
    if name != "lines":
        with pytest.raises(OptionError, match=f"^{name}: expected"):
            await anext(peerjob.export_namespace(**arguments))


def test_each_public_constructor_is_in_the_table() -> None:
    made_by_peerjob = {
        *("Activity", "AuditRecord", "Backfill", "BlockingContext", "BlockingInstance", "BlockingManager"),
        *("BlockingChild", "BlockingSchedule", "Call", "Child"),
        *("Capabilities", "ClockChange", "Context", "Distribution", "ErrorInfo", "Event", "Explanation", "Finding"),
        *("FireEntry", "HistoryEntry", "Imported", "Instance", "KindActivity", "Leader", "LogEntry", "LogLine"),
        *("NodeInfo", "NodeStats", "NodeView", "Policy", "ProbeAnswer", "Progress", "RegisteredJob", "ResultPage"),
        *("BlockingFlowInstance", "Ended", "FlowInstance", "Member", "Suspended"),
        *("KeyLimitView", "LimitSupport", "LimitView", "Schedule", "ScheduleView", "Stats", "Term", "Worker"),
    }
    any_value = {"Recovered", "Secret", "SystemClock", "Finished"}
    asynchronous = {"export_namespace", "import_namespace", "serve_metrics"}
    contracts = {"Clock", "Elections", "Manager", "Store"}
    public = {
        name
        for name, one in NAMES.items()
        if inspect.isfunction(one) or (inspect.isclass(one) and not issubclass(one, Exception | enum.Enum))
    }
    assert public - made_by_peerjob - any_value - asynchronous - contracts <= CALLS.keys()
