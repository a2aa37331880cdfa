"""A row of an outbox keeps each field of its instance."""

from typing import Any

import msgspec
import pytest

from peerjob import DecodeError
from peerjob.model.record import LAST_MOMENT_US, NewInstance
from peerjob.model.spec import Spec, encode
from peerjob.sql.rows import VERSION, decode_row, encode_row
from peerjob.sql.sessions import identity_of

NOT_IN_A_ROW = {"delay_us", "attempts", "crashes", "losses"}
"""The delay becomes a time, and counts of runs come from another store only."""


def test_each_field_comes_back() -> None:
    new = NewInstance(
        id="00000000-0000-7000-8000-000000000001",
        kind="charge",
        spec=encode(Spec(args=b"")),
        priority=-3,
        due_us=7,
        key="k",
        tags=("t",),
        retention_us=0,
        max_crashes=9,
        limit_key="user/7",
        key_concurrency=2,
    )
    assert decode_row(new.id, encode_row(new, 0)) == new
    defaults = NewInstance(id="", kind="", spec=b"")
    same = {name for name in NewInstance.__struct_fields__ if getattr(new, name) == getattr(defaults, name)}
    assert same == NOT_IN_A_ROW, "a new field of an instance must be in the rows of an outbox, and in this test"


def test_a_delay_becomes_a_time() -> None:
    new = NewInstance(id="i", kind="k", spec=encode(Spec(args=b"")), delay_us=5)
    assert decode_row("i", encode_row(new, 100)).due_us == 105


def test_a_time_after_the_year_9999_becomes_the_last_one() -> None:
    new = NewInstance(id="i", kind="k", spec=encode(Spec(args=b"")), due_us=LAST_MOMENT_US + 1)
    assert decode_row("i", encode_row(new, 0)).due_us == LAST_MOMENT_US


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("kind", kind) for kind in ("", "a\0b", "x" * 201)),
        *(("priority", number) for number in (2**31, -(2**31) - 1)),
        *(("due_us", number) for number in (253_402_300_800_000_000, 2**63 - 1)),
        *(("key", key) for key in ("a\0b", "x" * 1_001)),
        *(("tags", tags) for tags in (("a\0b",), ("x" * 201,), ("t",) * 51)),
        *((name, number) for name in ("retention_us", "max_crashes", "key_concurrency") for number in (-1, 2**64 - 1)),
        *(("limit_key", key) for key in ("\0", "x" * 201)),
    ],
)
def test_a_damaged_row_makes_no_record_that_cannot_be_read(field: str, value: Any) -> None:
    given: dict[str, Any] = {"kind": "k", "spec": encode(Spec(args=b"")), field: value}
    with pytest.raises(DecodeError, match=rf"row of an outbox cannot be read: .*\$\.{field}"):
        decode_row("i", bytes((VERSION,)) + msgspec.msgpack.encode(given))


@pytest.mark.parametrize("host", ["", None, "127.0.0.1", "::1"])
def test_names_of_this_machine_are_one_database(host: str | None) -> None:
    assert identity_of("postgresql", host, None, "shop") == identity_of("postgresql", "localhost", 5432, "shop")
    assert identity_of("postgresql", host, None, "shop") != identity_of("postgresql", "db", 5432, "shop")
