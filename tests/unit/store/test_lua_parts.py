"""The parts of the Redis and Valkey engine that need no server."""

import asyncio
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

import peerjob
import peerjob.store.lua
from peerjob.model.capabilities import Capabilities
from peerjob.model.clock import SystemClock
from peerjob.model.errors import StoreFullError, StoreUnavailableError
from peerjob.model.state import State
from peerjob.store.calls import CallRetry
from peerjob.store.lua.check.capabilities import durability_of, with_confirmation
from peerjob.store.lua.check.key_types import TYPES
from peerjob.store.lua.client.address import parse_address
from peerjob.store.lua.commands.codec import unpack_record
from peerjob.store.lua.commands.node_commands import _number  # pyright: ignore[reportPrivateUsage]
from peerjob.store.lua.scripts.rights import IN_HANDSHAKE, RIGHTS
from peerjob.store.lua.scripts.script import load_scripts
from peerjob.testing.factories import Factory
from support.lua_site import first_layout_record

make = Factory(SystemClock())


def test_the_scripts_are_found_in_a_zip_file(tmp_path: Path) -> None:
    package, archive = Path(peerjob.__file__).parent, tmp_path / "peerjob.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for folder, _, names in os.walk(package, followlinks=True):
            for name in names:
                if name.endswith((".py", ".lua")):
                    path = Path(folder, name)
                    file.write(path, path.relative_to(package.parent))
    code = (
        f"import sys; sys.path.insert(0, {str(archive)!r}); import peerjob.store.lua.scripts.script as script; "
        "print(script.__file__, *(one.sha for one in script.load_scripts().values()))"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert output[0].startswith(str(archive))
    assert sorted(output[1:]) == sorted(script.sha for script in load_scripts().values())


# -- what a URL asks a server to confirm


def test_what_a_step_waits_for_is_read() -> None:
    assert parse_address("redis://h").durability is None
    disk = parse_address("valkey://h/2?durability=aof").durability
    assert disk is not None
    assert (disk.command, disk.text) == (("WAITAOF", 1, 0, 3000), "aof")
    assert (disk.missing([1, 0]), disk.missing([0, 2])) == (
        "",
        "the server's append-only file did not confirm it within 3 s",
    )
    two = parse_address("redis://h?cluster=true&durability=replicas:2&durability_timeout=250ms").durability
    assert two is not None
    assert (two.command, two.text) == (("WAIT", 2, 250), "replicas:2")
    assert (two.missing(2), two.missing(3)) == ("", "")
    assert two.missing(1) == "2 replicas did not confirm it within 0.25 s (1 did)"
    assert two.missing(ValueError("UNBLOCKED")) == "2 replicas did not confirm it: UNBLOCKED"


@pytest.mark.parametrize(
    ("asked", "promised", "expected"),
    [
        ("", "none", ("none", "")),
        ("", "replicated", ("replicated", "")),
        ("?durability=aof", "none", ("fsync", "aof")),
        ("?durability=aof", "replicated", ("fsync", "aof")),
        ("?durability=replicas:2", "none", ("replicated", "replicas:2")),
        ("?durability=replicas:2", "everysec", ("replicated", "replicas:2")),
        ("?durability=replicas:2", "fsync", ("fsync", "replicas:2")),
    ],
)
def test_a_confirmation_raises_the_durability(asked: str, promised: Any, expected: tuple[str, str]) -> None:
    found = with_confirmation(
        parse_address(f"redis://h{asked}").durability, Capabilities(engine="redis", durability=promised)
    )
    assert (found.durability, found.confirmed_by) == expected


@pytest.mark.parametrize("text", [b"0", b"1", b"9007199254740991"])
def test_a_number_of_a_node_is_read(text: bytes) -> None:
    assert _number(text) == int(text)


@pytest.mark.parametrize("text", [b"-1", b"9007199254740992", b"1e3", b"", b"x" * 30])
def test_a_damaged_number_of_a_node_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"no number from 0|invalid literal"):
        _number(text)


@pytest.mark.parametrize(
    ("aof", "policy", "replicas", "save", "promised", "warned"),
    [
        ("1", "always", 0, "", "fsync", ""),
        ("1", "everysec", 0, "", "everysec", ""),
        ("1", None, 0, "", "everysec", ""),
        ("1", "no", 0, "", "none", "half minute"),
        ("1", "no", 2, "3600 1", "none", "half minute"),
        ("0", "always", 1, "", "replicated", ""),
        ("0", "always", 0, "3600 1", "none", "snapshots only"),
        ("0", "always", 0, "", "none", "nothing on disk"),
    ],
)
def test_what_a_server_promises_is_read_from_all_that_it_tells(
    aof: str, policy: str | None, replicas: int, save: str, promised: str, warned: str
) -> None:
    info = {"aof_enabled": aof, "connected_slaves": str(replicas)}
    config = {"save": save} if policy is None else {"save": save, "appendfsync": policy}
    durability, warnings = durability_of(info, config)
    assert durability == promised
    assert [warned in warning for warning in warnings] == [True] * bool(warned)


# -- scripts


def test_a_script_gets_what_it_names_and_nothing_else() -> None:
    scripts = load_scripts()
    assert "local function decode(" in scripts["claim"].source
    assert "local function decode(" not in scripts["read"].source
    assert len({script.sha for script in scripts.values()}) == len(scripts)
    for script in scripts.values():
        shebang = script.source.splitlines()[0]
        grows = script.name in (
            "enqueue",
            "enqueue_alike",
            "enqueue_alike_keyed",
            "enqueue_indexed",
            "enqueue_keyed",
            "enqueue_one",
            "enqueue_waking",
            "fire",
            "put_schedule",
            "restore",
            "spawn",
        )
        assert shebang == "#!lua" if grows else shebang in ("#!lua flags=allow-oom", "#!lua flags=no-writes")


def test_a_late_function_contains_what_only_late_ones_need() -> None:
    before, late = load_scripts()["claim"].source.split("local function write_planned_aside(...)\n")
    assert "local function unindex(" not in before
    assert late.index("local function unindex(") < late.index("return write_planned_aside(...)\n")
    assert "local function write_planned_aside(" not in load_scripts()["read"].source


def test_a_reader_can_hold_each_script() -> None:
    folder = Path(peerjob.store.lua.__file__).parent / "scripts"
    sizes = {path.name: len(path.read_text().splitlines()) for path in folder.rglob("*.lua")}
    assert {name: size for name, size in sizes.items() if size > 250} == {}


def test_the_checked_rights_are_the_commands_of_the_scripts() -> None:
    """A quoted word in capitals is a command, or a word of a command."""
    quoted = {
        word.lower()
        for script in load_scripts().values()
        if script.name != "wipe"
        for word in re.findall(r"'([A-Z]{3,})'", script.source)
    }
    options = {"byscore", "bylex", "count", "layout", "limit", "match", "pxat", "rev", "withscores", "withvalues"}
    assert quoted - options == set(RIGHTS) - {*IN_HANDSHAKE, "blmpop", "evalsha", "script|load"}


def test_every_script_is_run_and_every_run_script_exists() -> None:
    texts = [path.read_text() for path in Path(peerjob.store.lua.__file__).parent.rglob("*.py")]
    quoted = {name for text in texts for name in re.findall(r'"(\w+)"', text)}
    run = {name for text in texts for name in re.findall(r'run(?:_durably)?\(\(?\s*"(\w+)"', text)}
    assert set(load_scripts()) <= quoted
    assert run <= set(load_scripts())
    assert len(run) > 30


def test_no_local_name_is_that_of_a_definition() -> None:
    """A script gets each definition that it names: a local name or a field would add one, which costs every call."""
    folder = Path(peerjob.store.lua.__file__).parent / "scripts"
    defined: set[str] = set()
    for path in (folder / "lib").glob("*.lua"):
        for names in re.findall(r"^local (?:function )?([\w, ]+)", path.read_text(), re.MULTILINE):
            defined.update(names.strip().split(", "))
    bound = (
        r"\blocal (?:function )?([\w, ]+)|\bfor ([\w, ]+?) (?:in|=)|\bfunction ?\w*\(([\w, ]*)\)"
        r"|(?:\{|\}, )(\w+) = (?!\4\b)"  # a field of a table
    )
    clashes: list[tuple[str, str]] = []
    for path in folder.rglob("*.lua"):
        text = re.sub("--.*", "", path.read_text())
        if path.parent.name == "lib":
            text = re.sub(r"^local (?:function \w+)?", "", text, flags=re.MULTILINE)
        for groups in re.findall(bound, text):
            clashes += [(path.name, name) for name in re.split("[, ]+", "".join(groups)) if name in defined]
    assert clashes == []


# -- retries


async def test_a_call_is_tried_until_it_succeeds() -> None:
    tries = 0

    async def call() -> str:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise StoreUnavailableError("url", "away")
        return "done"

    assert await CallRetry(clock=SystemClock(), retry_for=30)(call) == "done"
    assert tries == 4


async def test_the_last_error_is_raised_when_time_is_over() -> None:
    async def call() -> str:
        raise StoreUnavailableError("url", "away")

    async with asyncio.timeout(60):
        with pytest.raises(StoreUnavailableError):
            await CallRetry(clock=SystemClock(), retry_for=0.1)(call)


@pytest.mark.parametrize("lost", [0, 1])
async def test_a_refusal_after_a_lost_attempt_is_unsure(lost: int) -> None:
    tries = 0

    async def call() -> str:
        nonlocal tries
        tries += 1
        if tries <= lost:
            raise StoreUnavailableError("url", "away")
        raise StoreFullError("full")

    with pytest.raises(StoreFullError) as caught:
        await CallRetry(clock=SystemClock(), retry_for=30)(call)
    assert caught.value.is_unsure is bool(lost)


# -- records


@pytest.mark.parametrize("raw", [b"", b"\x01", b"\x02" * 200, b"\x01" * 500, b"not a record of ours" * 10])
def test_what_is_no_record_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match="record of"):
        unpack_record(make.id(), raw, b"")


@pytest.mark.parametrize("key", ["", "k"])
def test_records_of_the_first_release_are_read(key: str) -> None:
    id = make.id()
    record = unpack_record(id, first_layout_record(key=key, at_us=1_764_000_000_123_457), b"spec")
    assert (record.id, record.kind, record.state, record.spec) == (id, "work", State.SCHEDULED, b"spec")
    assert (record.key, record.slot, record.due_us) == (key or None, "", 1_764_000_000_123_457)
    with_slot = unpack_record(id, first_layout_record(key=key, slot="schedule"), b"spec")
    assert (with_slot.key, with_slot.slot) == (key or None, "schedule")


def test_records_that_differ_in_id_spec_and_result_keep_their_own() -> None:
    results = [b"", b"1", b"result" * 10_000, b"2", b""]
    ids = [make.id() for _ in results]
    read = [
        unpack_record(id, first_layout_record(result=result), id.encode())
        for id, result in zip(ids, results, strict=True)
    ]
    assert [(one.id, one.spec, one.result) for one in read] == [
        (id, id.encode(), result or None) for id, result in zip(ids, results, strict=True)
    ]


@pytest.mark.parametrize("left", range(12))
def test_a_record_cut_after_its_result_is_a_value_error(left: int) -> None:
    whole = first_layout_record(result=b"1234")
    assert unpack_record(make.id(), whole, b"").result == b"1234", "the next one begins alike"
    with pytest.raises(ValueError, match="record of"):
        unpack_record(make.id(), whole[: len(whole) - 12 + left], b"")


def test_a_record_cut_within_its_result_is_a_value_error() -> None:
    whole = first_layout_record(result=b"1234")
    assert unpack_record(make.id(), whole, b"").result == b"1234", "the next one begins and ends alike"
    with pytest.raises(ValueError, match="record of"):
        unpack_record(make.id(), whole.replace(b"1234", b"12"), b"")


def test_a_record_of_another_format_names_the_format() -> None:
    """A later format may have other sizes in the place of the result."""
    with pytest.raises(ValueError, match="format 2, 1 expected"):
        unpack_record(make.id(), b"\2\2\4" + b"\xff" * 100, b"")


def test_a_record_cut_within_its_slot_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="record of"):
        unpack_record(make.id(), first_layout_record(slot="schedule")[:-1], b"")


def test_each_key_has_a_type() -> None:
    keys = Path(peerjob.store.lua.__file__).parent / "scripts" / "lib" / "keys.lua"
    names = set(re.findall(r"(?:PREFIX \.\. |kind_key\()'([a-z]+)", keys.read_text()))
    assert names - TYPES.keys() == {"bad"}, "a record that was set aside keeps its type"
