"""What a client gets is what the node has: records, rows and errors survive the wire as they are."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerjob import Backfill, Filter, Leader, LogEntry, NodeView, Query, State, Stats, Term, Worker
from peerjob.handles.entries import HistoryEntry
from peerjob.handles.schedule import FireEntry, ScheduleView
from peerjob.model import errors
from peerjob.model.codec import encode_value
from peerjob.model.definition import Definition, encode_definition
from peerjob.model.durable import Wait
from peerjob.model.durable_errors import NotRunningError, StepLimitError
from peerjob.model.errors import OptionError, PeerjobError
from peerjob.model.firing import FireOutcome, FireRecord, ScheduleRow
from peerjob.model.record import LogLine, NodeInfo, Record, Transition
from peerjob.model.spec import ErrorInfo, Progress, Spec, encode, encode_arguments
from peerjob.model.state import SINGLE
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.wire import cluster, instances, queries, schedules, values
from peerjob.remote.wire.errors import MAX_DETAIL, error_in, status_of
from peerjob.remote.wire.rpcs import BACKFILL
from support.instances import an_instance

ID = "01900000-0000-7000-8000-0000000000ab"
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
NAME = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=20)
TIMES = st.integers(0, 4_000_000_000_000_000)
COUNTS = st.integers(0, 2**31 - 1)

records = st.builds(
    Record,
    id=st.just(ID),
    kind=TEXT,
    state=st.sampled_from(SINGLE),
    spec=st.builds(
        lambda args, schedule, nominal, retry_of: encode(
            Spec(args=encode_arguments(tuple(args), {}), schedule=schedule, nominal_us=nominal, retry_of=retry_of)
        ),
        st.lists(TEXT | st.integers() | st.decimals(allow_nan=False), max_size=3),
        TEXT,
        TIMES,
        st.none() | st.just(ID),
    )
    | st.binary(max_size=10),
    priority=st.integers(-(2**31), 2**31 - 1),
    due_us=TIMES,
    attempts=COUNTS,
    crashes=COUNTS,
    losses=COUNTS,
    fence=st.integers(0, 2**60),
    owner=TEXT,
    history=st.lists(
        st.builds(Transition, st.sampled_from(SINGLE), TIMES, TEXT, TEXT, st.integers(1, 100)), max_size=4
    ).map(tuple),
    result=st.none() | st.builds(encode_value, TEXT | st.tuples(TEXT, st.integers())) | st.binary(max_size=5),
    error=st.none() | st.builds(lambda *parts: encode(ErrorInfo(*parts)), TEXT, TEXT, TEXT),
    progress=st.none() | st.builds(lambda *parts: encode(Progress(*parts)), st.floats(0, 1), TEXT, TIMES),
    key=st.none() | TEXT,
    tags=st.lists(TEXT, max_size=3).map(tuple),
    slot=TEXT,
)


@given(records)
def test_a_record_survives(record: Record) -> None:
    message = pb.JobInstance.FromString(instances.instance_message(record, encoded=True).SerializeToString())

    assert instances.record_of(message) == record
    assert list(message.arguments) == list(message.results) == []


def test_clients_see_the_names_of_signals_that_callers_give() -> None:
    wait = Wait(signals=("approval@2", "ann@example.org"))
    record = Record(
        id=ID,
        kind="order",
        state=State.SCHEDULED,
        spec=b"",
        priority=0,
        due_us=0,
        attempts=0,
        crashes=0,
        losses=0,
        fence=1,
        owner="",
        history=(),
        wait=wait,
    )
    assert instances.instance_message(record, encoded=True).wait.signals == ["approval", "ann@example.org"]


@given(records)
def test_every_stored_record_can_be_shown_as_text(record: Record) -> None:
    message = instances.instance_message(record, encoded=False)

    assert (message.uuid, message.state) == (record.id, int(record.state))
    assert not message.HasField("spec")


@pytest.mark.parametrize(
    ("state", "field"),
    [
        (State.PROCESSING, "processed_at"),
        (State.COMPLETED, "completed_at"),
        (State.TERMINATED, "terminated_at"),
        (State.CANCELLED, "canceled_at"),
        (State.TIMED_OUT, "timed_out_at"),
    ],
)
@pytest.mark.parametrize("encoded", [False, True])
def test_a_message_has_the_time_of_each_state(state: State, field: str, encoded: bool) -> None:
    record = an_instance(state).record
    message = instances.instance_message(record, encoded=encoded)
    fields = ("processed_at", "completed_at", "terminated_at", "canceled_at", "timed_out_at")
    assert [name for name in fields if message.HasField(name)] == [field]  # type: ignore[arg-type]
    assert values.stamp_us(getattr(message, field)) == record.history[-1].at_us


@pytest.mark.parametrize(
    ("result", "texts"),
    [
        (None, []),
        ("text", ["text"]),
        (100, ["100"]),
        ((1, "b"), ["1", "b"]),
        ([1, "b"], ['[1,"b"]']),
        ({"a": Decimal("1.5")}, ['{"a":"1.5"}']),
        (True, ["true"]),
        (Decimal("1.50"), ["1.50"]),
        ('say "yes"\n', ['say "yes"\n']),
        ("\ud800", ["\\ud800"]),
    ],
    ids=ascii,
)
def test_results_as_text(result: Any, texts: list[str]) -> None:
    record = Record(
        id=ID,
        kind="k",
        state=State.COMPLETED,
        spec=encode(Spec(args=encode_arguments((result,), {}))),
        priority=5,
        due_us=0,
        attempts=1,
        crashes=0,
        losses=0,
        fence=1,
        owner="",
        history=(),
        result=encode_value(result),
    )
    assert list(instances.instance_message(record, encoded=False).results) == texts


@given(
    st.builds(
        LogLine, TIMES, st.sampled_from([1, 2, 4, 8]), TEXT, COUNTS, TEXT, st.none() | st.dictionaries(TEXT, TEXT)
    )
)
def test_a_log_line_survives(line: LogLine) -> None:
    entry = LogEntry(ID, "kind", line)
    again = instances.log_of(instances.log_message(entry, encoded=True))

    assert (again.line, again.instance_id, again.kind) == (line, ID, "kind")


def test_a_history_entry_survives() -> None:
    entry = HistoryEntry(ID, "kind", Transition(State.SCHEDULED, 1_764_000_000_123_456, "node", "retry 1 in 5s", 3))
    again = instances.history_of(instances.history_message(entry))

    assert (again.transition, again.instance_id, again.kind) == (entry.transition, ID, "kind")


moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
states = st.integers(1, int(State.ALL)).map(State)


@given(
    st.builds(
        Query,
        kind=st.none() | NAME,
        uuid=st.none() | st.just(ID),
        state=st.none() | states,
        level=st.none() | st.integers(1, 15),
        tag=st.none() | NAME,
        before=st.none() | moments,
        after=st.none() | moments,
        limit=st.integers(1, 10_000),
        cursor=st.none() | NAME,
        order=st.sampled_from(["asc", "desc"]),
    )
)
def test_a_query_survives(query: Query) -> None:
    message = pb.Query.FromString(queries.query_message(query).SerializeToString())

    assert queries.query_of(message) == queries.acting_query_of(message) == query


NOTHING = [
    pb.Query(kind=""),
    pb.Query(uuid=""),
    pb.Query(state=cast("Any", 0)),
    pb.Query(tag=""),
]
UNKNOWN_STATES = [pb.Query(state=cast("Any", number)) for number in (-1, 128, 255)]


@pytest.mark.parametrize("message", NOTHING, ids=str)
def test_a_lookup_takes_an_empty_criterion_for_one_that_is_not_set(message: pb.Query) -> None:
    assert queries.query_of(message) == Query(limit=10_000)


@pytest.mark.parametrize("message", [*NOTHING, *UNKNOWN_STATES, pb.Query()], ids=str)
def test_a_cancel_refuses_a_criterion_that_names_nothing(message: pb.Query) -> None:
    with pytest.raises(OptionError):
        queries.acting_query_of(message)
    if message != pb.Query():
        message = pb.Query.FromString(message.SerializeToString())
        message.all = True
        with pytest.raises(OptionError):
            queries.acting_query_of(message)


@pytest.mark.parametrize("message", UNKNOWN_STATES, ids=str)
def test_a_lookup_refuses_unknown_states(message: pb.Query) -> None:
    with pytest.raises(OptionError, match="state: expected states added up, at most 127"):
        queries.query_of(message)


def test_everything_is_acted_on_only_where_the_message_says_so() -> None:
    assert queries.acting_query_of(pb.Query(all=True)) == Query(limit=10_000)
    assert queries.filter_of(pb.Filter(all=True)) == Filter()
    with pytest.raises(OptionError, match="all = true"):
        queries.acting_query_of(pb.Query(limit=5, level=1))
    with pytest.raises(OptionError, match="all = true"):
        queries.filter_of(pb.Filter())


@given(
    st.builds(
        Filter,
        before=st.none() | moments,
        after=st.none() | moments,
        older_than=st.none() | st.timedeltas(timedelta(0), timedelta(9999)),
    )
)
def test_a_filter_survives(filter: Filter) -> None:
    assert queries.filter_of(queries.filter_message(filter)) == filter


@given(TIMES)
def test_times_survive_to_the_microsecond(time_us: int) -> None:
    assert values.stamp_us(values.stamp(time_us)) == time_us
    assert values.span_us(values.span(time_us)) == time_us
    assert values.span_us(values.span(-time_us)) == -time_us


def test_views_of_the_cluster_survive() -> None:
    info = NodeInfo(
        name="n",
        incarnation="i",
        kinds=("a", "b"),
        signatures={"a": "x"},
        workers=3,
        host="h",
        pid=7,
        version="1",
        started_us=5,
    )
    node = NodeView(info=info, running=2, renewed_us=6, expires_us=7, age_us=8)
    leader = Leader(incarnation="i", name="n", term=Term("etcd:1", 9), since_us=3)
    stats = Stats(counts={"a": {State.COMPLETED: 3}}, delayed=1, nodes=2, undecodable=4, unserved={"z": 5})
    workers = [Worker(number=0, node="n"), Worker(number=1, node="n", instance=ID, kind="a", stuck=True)]

    assert cluster.node_of(cluster.node_message(node)) == node
    assert cluster.leader_of(cluster.leader_message(leader)) == leader
    assert cluster.stats_of(cluster.stats_message(stats)) == stats
    assert [cluster.worker_of(cluster.worker_message(one), "n") for one in workers] == workers


@pytest.mark.parametrize(
    "definition",
    [
        encode_definition(Definition(kind="k", spec=encode(Spec(args=encode_arguments((1,), {}))), cron="* * * * *")),
        encode_definition(Definition(kind="k", spec=b"?", every_us=5)),
        b"unreadable",
    ],
    ids=["whole", "without arguments", "unreadable"],
)
def test_a_schedule_survives(definition: bytes) -> None:
    row = ScheduleRow(
        name="s",
        kind="k",
        definition=definition,
        revision=3,
        next_us=None,
        paused=True,
        note="why",
        created_us=1,
        updated_us=2,
        last_us=3,
        trimmed_us=4,
        holder=ID,
        parked=(ID,),
    )
    message = schedules.schedule_message(ScheduleView(row))

    assert schedules.row_of(message) == row
    assert message.HasField("unreadable") == (b"\xc4\x01?" in definition or definition == b"unreadable")


def test_a_fire_survives() -> None:
    for outcome in FireOutcome:
        record = FireRecord(
            nominal_us=1, outcome=outcome, at_us=2, until_us=3, count=4, instance=ID, parked=True, cancelled=ID,
            reason="r", node="n", term=5, coordinator="c", request="q",
        )  # fmt: skip
        again = schedules.fire_of("s", schedules.fire_message(FireEntry("s", record, ongoing=True)))
        assert (again.record, again.schedule, again.ongoing) == (record, "s", True)
    done = Backfill(times=5, made=1, known=2, trimmed=1, skipped=1)
    assert BACKFILL.result.read(BACKFILL.response(**BACKFILL.result.write(done))) == done


def _unsure(error: errors.StoreError) -> errors.StoreError:
    error.is_unsure = True
    return error


ERRORS: list[Exception] = [
    _unsure(errors.StoreUnavailableError("valkey://…", "no answer")),
    _unsure(errors.StoreFullError("a part may be stored")),
    errors.ArgumentError("sum", ["x: missing", "y: ü"]),
    errors.OptionError("limit", 0, "a number"),
    errors.OptionError("backoff", lambda: 1, "a duration"),
    errors.OptionError("x", "\ud800", "text"),
    errors.ScheduleError("naive"),
    errors.UnknownKindError("k", ["a", "b"]),
    errors.JobConflictError("k", "app.jobs:one", "app.jobs:two"),
    errors.UnknownInstanceError(ID),
    errors.RowRefusedError(ID, ID, "it has its key"),
    errors.UnknownScheduleError("s"),
    errors.UnknownNodeError("n", ("a", "b")),
    errors.PayloadTooLargeError("arguments", 5, 4),
    errors.EncodeError(("x", 0), "no"),
    errors.DecodeError("torn"),
    errors.StoreUnavailableError("redis://…", "refused"),
    errors.StoreUnconfirmedError("redis://…", "1 replica did not confirm it within 3 s"),
    errors.StoreFullError("full"),
    errors.StoreRefusedError("too large"),
    errors.StoreCredentialsError("wrong password"),
    errors.StorePermissionError("no right to ZADD"),
    errors.StoreCommandError("no EVALSHA"),
    errors.LayoutError("newer"),
    errors.StoreError("odd"),
    NotRunningError("it is final"),
    StepLimitError("0192f2a4", "n", "too large"),
    errors.NodeStateError("not final"),
    errors.NodeStoppedError("stopping"),
    errors.AuthError("no"),
    errors.UnauthenticatedError("who"),
    TimeoutError("late"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: f"{type(error).__name__} {ascii(str(error))[:40]}")
def test_an_error_is_raised_again_as_it_was(error: Exception) -> None:
    status = status_of(error)
    again = error_in(status.metadata)

    assert type(again) is type(error)
    assert str(again) == str(error).encode("utf-8", "backslashreplace").decode()
    for name, value in vars(error).items():
        shown = getattr(again, name)
        assert shown == value or shown == repr(value).encode("utf-8", "backslashreplace").decode() or "\\u" in shown
    assert status.code.name not in ("OK", "UNKNOWN")


def test_errors_of_every_kind_have_a_status() -> None:
    local = {
        errors.RemoteError,
        errors.NodeUnavailableError,
        errors.TlsMismatchError,
        errors.MissingExtraError,
        errors.TableError,
    }
    outcomes: set[type[PeerjobError]] = {
        errors.JobFailed,
        errors.JobCancelled,
        errors.JobTimedOut,
        errors.JobProcessDied,
        errors.OwnershipLost,
        errors.FlowFailed,
        errors.ResultTypeError,  # it is raised where a result is read
    }
    known = {type(error) for error in ERRORS}
    every = {one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, PeerjobError)}

    assert every - known - local - outcomes == {PeerjobError}


@pytest.mark.parametrize(
    "error",
    [
        errors.ArgumentError("sum", [f"{number}: " + "ü" * 3_000 for number in range(500)]),
        errors.UnknownKindError("k" * 100_000, ["x" * 200] * 1_000),
        errors.ScheduleError("€" * 100_000),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_large_error_fits_into_what_clients_take(error: Exception) -> None:
    status = status_of(error)

    assert len(status.metadata[0][1]) <= MAX_DETAIL
    assert len(status.text) <= 1_000
    assert type(error_in(status.metadata)) is type(error)


def test_an_error_that_is_not_ours_tells_no_more_than_its_name() -> None:
    status = status_of(RuntimeError("password=x"))

    assert (status.code.name, status.metadata) == ("INTERNAL", ())
    assert "password" not in status.text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        pb.ErrorDetail(type="Nope").SerializeToString(),
        pb.ErrorDetail(type="OptionError").SerializeToString(),
    ],
    ids=["empty", "rubbish", "unknown", "bare"],
)
def test_a_detail_that_cannot_be_read_is_none(data: bytes) -> None:
    assert error_in([("peerjob-error-bin", data)]) is None
    assert error_in([("other", "x")]) is None
    assert error_in(None) is None
