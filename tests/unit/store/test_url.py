"""URLs of stores: no message shows the password."""

import pytest

from peerjob import Node, OptionError
from peerjob.model.clock import SystemClock
from peerjob.model.record import StoreLimits
from peerjob.store.drivers import diagnose, open_store
from peerjob.store.url import redact

UNESCAPED = [
    *("redis://u:se/cret@h", "redis://:se#cret@h:1", "valkey://u:se?cret@h", "redis://u:se?c=ret@h"),
    *("etcd://u:se/cret@h", "etcds://u:se?cret@h:1", "rediss://:se[cret@h", "ftp://u:secret@h"),
    *("redis://u:secret@h:99999", "redis://u:secret@h/first", "etcd://u:secret@h,:1"),
]


@pytest.mark.parametrize("url", UNESCAPED)
async def test_what_is_said_about_a_url_holds_nothing_of_its_password(url: str) -> None:
    for where in ("store", "coordinator"):
        with pytest.raises(OptionError) as caught:
            Node(url) if where == "store" else Node(coordinator=url)
        message = str(caught.value)
        assert "***@h" in message
        assert not any(part in message for part in ("se/", "se#", "se?", "se[", "cret", "ret@"))


async def test_an_unknown_option_is_not_shown_beside_a_password() -> None:
    with pytest.raises(OptionError) as caught:
        Node("redis+sentinel://h/m?sentinel_password=begin&end=1")
    assert "end" not in str(caught.value)


async def test_a_url_that_cannot_be_read_is_no_surprise_to_a_diagnosis() -> None:
    with pytest.raises(OptionError, match="%5B"):
        await diagnose("redis://:se[cret@h", namespace="x", clock=SystemClock())


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("memory:///name", "without a path"),
        ("memory:name", ":// after its scheme"),
        ("memory://?max_keys=0", "above 0"),
        ("memory://?max_keys=1&max_keys=2", "the option 'max_keys' once"),
        ("sqlite:///a/%ff.db", "text in UTF-8"),
        ("sqlite:///a/b.db?sync=full&sync=normal", "the option 'sync' once"),
        ("etcd://:secret@h", "the name of a user"),
        ("etcd://h:0", "ports from 1"),
        ("etcd://h?quota=1&quota=2", "the option 'quota' once"),
        ("etcd://h#2", "without #"),
    ],
)
def test_a_url_with_a_part_that_has_no_meaning_is_refused(url: str, expected: str) -> None:
    with pytest.raises(OptionError, match=expected) as caught:
        Node(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:1/2?cluster=true", "redis://h:1/2?cluster=true"),
        ("redis://u@h", "redis://***@h"),  # it may be a password in the wrong place
        ("redis://u:p@h:1/2", "redis://u:***@h:1/2"),
        ("etcd://u:p@a:1,b:2?quota=1", "etcd://u:***@a:1,b:2?quota=1"),
        ("redis://:a@b@h", "redis://:***@h"),
        ("redis+sentinel://u:p@s:1,t/m?sentinel_password=x&y", "redis+sentinel://u:***@s:1,t/m?sentinel_password=***"),
        ("redis+sentinel://u:p@s/m?sentinel_password=x@y", "redis+sentinel://***"),
        ("redis://u:p?password=x@h", "redis://***"),
        ("memory://", "memory://"),
        ("nothing", "nothing"),
    ],
)
def test_the_rest_of_a_url_is_shown(url: str, shown: str) -> None:
    assert redact(url) == shown


@pytest.mark.parametrize("url", ["redis://h", "valkey://h", "redis+sentinel://h/m", "etcd://h", "memory://"])
async def test_a_store_names_its_engine_before_it_is_open(url: str) -> None:
    store = open_store(url, namespace="x", clock=SystemClock(), limits=StoreLimits())
    assert store.capabilities.engine == url.partition(":")[0].partition("+")[0]
