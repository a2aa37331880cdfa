"""UUIDv7 ids: always growing, and telling their time."""

import itertools
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerjob.model.clock import SystemClock
from peerjob.model.ids import IdSource, child_ids, derived_id, id_text, id_time_us
from peerjob.testing.clock import VirtualClock
from support.waiting import IN_TIME


class ErraticClock(SystemClock):
    """A clock that jumps to and fro between given times."""

    def __init__(self, times: list[int]) -> None:
        super().__init__()
        self._times = iter(times)
        self._seeded = random.Random(0)

    def time_us(self) -> int:
        return next(self._times)

    @property
    def random(self) -> random.Random:
        return self._seeded


def test_an_id_is_a_uuid_of_version_7() -> None:
    for text in IdSource(SystemClock()).take(1000):
        read = UUID(text)
        assert (read.version, read.variant) == (7, RFC_4122)
        assert str(read) == text


@given(st.lists(st.integers(0, 2**47 * 1000), min_size=2, max_size=30), st.integers(1, 5))
def test_ids_grow_even_if_the_clock_goes_back(times: list[int], count: int) -> None:
    source = IdSource(ErraticClock(times))
    ids = [id for _ in times for id in source.take(count)]
    assert ids == sorted(set(ids))
    assert ids == [str(read) for read in sorted(UUID(id) for id in ids)]


def test_ids_grow_within_a_millisecond() -> None:
    ids = IdSource(VirtualClock()).take(10_000)
    assert ids == sorted(set(ids))
    assert len({id_time_us(id) for id in ids}) == 1


def test_an_id_tells_its_millisecond() -> None:
    start = datetime(2031, 2, 3, 4, 5, 6, 789_000, tzinfo=UTC)
    id = IdSource(VirtualClock(start + timedelta(microseconds=999))).one()
    assert id_time_us(id) == VirtualClock(start).time_us()


class StandingClock(SystemClock):
    """A clock that stands still."""

    def time_us(self) -> int:
        return 1_900_000_000_000_000


def ids_of_child(source: IdSource, count: int) -> set[str]:
    """Ids that a forked child takes."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, "\n".join(source.take(count)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        ids = set(pipe.read().split())
    os.waitpid(pid, 0)
    return ids


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("used_before", [False, True])
def test_processes_that_fork_never_take_the_same_id(used_before: bool) -> None:
    source = IdSource(StandingClock())
    if used_before:
        source.one()
    ids = [ids_of_child(source, 50) for _ in range(4)]
    ids.append(set(source.take(50)))
    assert len(set[str]().union(*ids)) == 250


def test_threads_never_get_the_same_id() -> None:
    source = IdSource(SystemClock())
    with ThreadPoolExecutor(8) as pool:
        taken = [id for ids in pool.map(source.take, [500] * 16) for id in ids]
    assert len(set(taken)) == 16 * 500


def test_two_sources_make_different_ids() -> None:
    assert not {*IdSource(SystemClock()).take(100)} & {*IdSource(SystemClock()).take(100)}


def test_one_seed_gives_the_same_ids() -> None:
    assert IdSource(VirtualClock(seed=4)).take(50) == IdSource(VirtualClock(seed=4)).take(50)


@given(st.uuids())
def test_any_spelling_of_a_uuid_is_one_text(uuid: UUID) -> None:
    spellings = (uuid, str(uuid), uuid.hex, str(uuid).upper(), f"{{{uuid}}}", uuid.urn)
    assert {id_text(spelling) for spelling in spellings} == {str(uuid)}


@pytest.mark.parametrize("text", ["", "1", "not a uuid", "0" * 31, "g" * 32])
def test_what_is_no_uuid_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"UUID|base 16"):
        id_text(text)


# -- ids that follow from others


def test_derived_ids_are_different_and_have_the_time_of_the_request() -> None:
    ids = IdSource(SystemClock())
    made = ids.take(1000)
    seen = set(made)
    # a retry of retries: ids of one request have one time
    for _ in range(3):
        request = ids.one()
        made = [derived_id(request, one) for one in made]
        assert {id_time_us(one) for one in made} == {id_time_us(request)}
        seen |= set(made)
    assert len(seen) == 4000
    for one in seen:
        read = UUID(one)
        assert (read.version, read.variant, str(read)) == (7, RFC_4122, one)


def test_a_derived_id_is_the_same_each_time() -> None:
    request, other, source = IdSource(SystemClock()).take(3)
    assert derived_id(request, source) == derived_id(request.upper(), source.upper())
    assert derived_id(request, source) != derived_id(other, source)


def test_ids_that_follow_from_others_are_those_of_earlier_releases() -> None:
    parent, request = "0193f0a0-1234-7abc-9def-0123456789ab", "0193f0a0-5678-7abc-9def-0123456789ab"
    assert child_ids(parent, ["child/0", "page", "ü"]) == [
        "0193f0a0-1234-7820-99c1-be93a858806b",
        "0193f0a0-1234-7375-982e-9637b7e44b89",
        "0193f0a0-1234-7bb4-a38d-886815185958",
    ]
    assert derived_id(request, parent) == "0193f0a0-5678-7896-8bdd-952d3cba30b7"


# -- without a lock


def test_ids_ascend_when_the_counter_begins_again() -> None:
    source: Any = IdSource(StandingClock())
    source._count = itertools.count((1 << 26) - 50)
    ids = source.take(100)
    assert ids == sorted(set(ids))
    assert id_time_us(ids[-1]) == id_time_us(ids[0]) + 1000


def test_an_id_can_be_made_while_another_one_is() -> None:
    """As by a signal handler, or by a thread for which such a handler waits."""
    inner: list[str] = []

    class Interrupted(SystemClock):
        @property
        def random(self) -> random.Random:
            if made and not inner:
                inner.append("")
                thread = threading.Thread(target=lambda: inner.append(source.one()), daemon=True)
                thread.start()
                thread.join(IN_TIME)
            return super().random

    made: list[str] = []
    source = IdSource(Interrupted())
    made.append(source.one())
    made.append(source.one())
    assert len({*made, *inner[1:]}) == 3
    made.append(source.one())
    assert made == sorted(made)
