"""A row of an outbox keeps each field of its instance."""

from peerjob.model.record import NewInstance
from peerjob.model.spec import Spec, encode
from peerjob.sql.rows import decode_row, encode_row

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
