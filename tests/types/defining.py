"""Jobs as users define them: what the checkers know of each, and which mistakes they refuse."""

import functools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from tenacity import wait_random_exponential

from peerjob import Backoff, Call, Instance, Job, JobGroup, Priority, Recovered, State, job


def add(x: int, y: int) -> int:
    return x + y


class Greeter:
    def __init__(self, greeting: str) -> None:
        self.greeting = greeting

    def __call__(self, name: str) -> str:
        return f"{self.greeting} {name}"

    def shout(self, name: str, *, marks: int = 1) -> str:
        return self(name).upper() + "!" * marks


# -- any callable, with a kind ----------------------------------------------------------------------------------------

negate: Callable[[int], int] = lambda number: -number  # noqa: E731

sum_job = Job("sum", add)
double_job = Job("double", functools.partial(add, 2))
negate_job = Job("negate", negate)
greet_job = Job("greet", Greeter("Hello"))
shout_job = Job("shout", Greeter("Hello").shout)
handle = Job("runs.elsewhere")

assert_type(sum_job(1, 2), int)
assert_type(double_job.call(2), Call[int])
assert_type(negate_job(1), int)
assert_type(greet_job("Ann"), str)
assert_type(shout_job("Ann", marks=2), str)
assert_type(handle, Job[..., Any, Any])
assert_type(handle.call("whatever", 1, deep=True), Call[Any])


# -- decorated functions stay functions -------------------------------------------------------------------------------


@job
def concat(a: str, b: str) -> str:
    return f"{a}, {b}"


@job(kind="divide", max_retries=3, timeout=30, priority=0)
def divide(a: int, b: int) -> tuple[int, int]:
    return divmod(a, b)


@job
async def fetch(url: str, *, tries: int = 1) -> bytes:
    return url.encode() * tries


@job(kind="ping")
async def ping() -> None: ...


async def in_place() -> None:
    assert_type(concat("a", "b"), str)
    assert_type(divide(7, 2), tuple[int, int])
    assert_type(await fetch("x", tries=2), bytes)
    assert_type(fetch.call("x"), Call[bytes])
    await ping()


def mistakes_in_place() -> None:
    concat("a")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    concat("a", 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    divide(7, 2, 1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    length: int = concat("a", "b")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    print(length)
    Job(add)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    Job("sum", 42)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    Job("sum", executor=add)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


# -- options ----------------------------------------------------------------------------------------------------------


def log_result(instance: Instance, result: object) -> None:
    instance.log.info("result %s", result)


async def log_state(instance: Instance[Any], state: State) -> None:
    instance.log.info("now %s", state)


def forgive(instance: Instance[Any], error: BaseException) -> Recovered | Exception | None:
    if isinstance(error, LookupError):
        return Recovered(0)
    return RuntimeError(f"{instance.id}: {error}") if instance.attempts > 2 else None


def is_transient(error: BaseException) -> bool:
    return isinstance(error, ConnectionError)


def longer_and_longer(instance: Instance[Any], error: BaseException) -> timedelta:
    return timedelta(seconds=instance.attempts)


def by_arguments(arguments: Any) -> str:
    return f"{arguments.a}/{arguments.b}"


@job(
    kind="everything",
    description="Takes every option there is",
    aliases=["all", "the.lot"],
    version=2,
    priority=Priority.LOW,
    max_retries=None,
    retry_on=(ConnectionError, is_transient),
    no_retry_on=KeyError,
    backoff=Backoff.exponential(initial="1s", factor=2, max=timedelta(minutes=5), jitter=0.2),
    timeout="1h30m",
    run_in="process",
    on_store_loss="continue",
    max_crashes=5,
    key=by_arguments,
    on_complete=log_result,
    on_terminate=forgive,
    on_state_change=log_state,
    tags=["nightly"],
    retention=timedelta(days=7),
)
def everything(a: int, b: int) -> int:
    return a + b


later = concat.with_options(after=5, priority=200)
at_night = concat.with_options(at=datetime(2030, 1, 1, 3, tzinfo=UTC), key="night", name="the night one")
local_time = concat.with_options(at="2030-01-01T03:00", timezone="Europe/Berlin")
recurring = concat.with_options(cron="*/5 * * * *", overlap="skip", misfire="run_once", jitter="10s", start_deadline=60)
growing = concat.with_options(max_retries=9, backoff=longer_and_longer)
spread = concat.with_options(max_retries=9, backoff=wait_random_exponential(max=60))
fixed = concat.with_options(max_retries=9, backoff="2s", retry_on=OSError)

assert_type(later("a", "b"), str)
assert_type(later.call("a", "b"), Call[str])


def mistakes_in_options() -> None:
    concat.with_options(prioritty=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    concat.with_options(priority="high")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    concat.with_options(run_in="gpu")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    concat.with_options(timeout=[5])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    concat.with_options(retry_on="OSError")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    concat.with_options(on_complete=add)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    concat.with_options(on_state_change=forgive)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    concat.with_options(overlap="maybe")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Job("sum", add, max_retries="three")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    job(kind="x", max_retires=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


# -- groups, and functions over jobs ----------------------------------------------------------------------------------

mail = JobGroup("mail.", max_retries=3, backoff=Backoff.fixed(10))


@mail.job
def send(to: str, subject: str = "") -> bool:
    return bool(to + subject)


@mail.job(kind="sweep", priority=9)
async def sweep(older_than: timedelta) -> int:
    return older_than.days


kept = mail.add(sum_job)

assert_type(send("ann@example.org"), bool)
assert_type(sweep.call(timedelta(days=1)), Call[int])
assert_type(kept(1, 2), int)
assert_type([one.kind for one in mail], list[str])

JobGroup(priority="high")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def kinds(jobs: list[Job]) -> list[str]:
    return [one.kind for one in jobs]


def urgent(one: Job[[str, str], str]) -> Job[[str, str], str]:
    return one.with_options(priority=Priority.HIGH)


kinds([sum_job, fetch, handle, send])
urgent(concat)
urgent(divide)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
