"""Requests to etcd are encoded by hand; protobuf decodes them as intended."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from peerjob.store.etcd.api import etcd
from peerjob.store.etcd.transaction import MAX_OPERATIONS, AtomicRequest, SeparateRequest, reading
from peerjob.store.kv.format.base import Compare, Delete, Op, Put, Range, Transaction

KEYS = st.text(st.characters(codec="ascii"), min_size=1, max_size=200)
ENDS = st.just("") | KEYS
VALUES = st.binary(max_size=300) | st.integers(0, 20_000).map(bytes)
NUMBERS = st.integers(0, 2**63 - 1)
COMPARES = st.builds(Compare, KEYS, NUMBERS) | st.builds(Compare, KEYS, below=KEYS) | st.builds(Compare, KEYS, end=KEYS)
OPS: st.SearchStrategy[Op] = st.builds(Put, KEYS, VALUES, NUMBERS) | st.builds(Delete, KEYS, ENDS)
RANGES = st.builds(Range, KEYS, ENDS, NUMBERS, st.booleans(), st.booleans())
STEPS = st.builds(
    Transaction, st.lists(COMPARES, max_size=3), st.lists(OPS, max_size=4), st.lists(RANGES, max_size=2).map(tuple)
)


def compare(wanted: Compare) -> dict[str, Any]:
    key = wanted.key.encode()
    if wanted.end:
        return {"target": "CREATE", "key": key, "create_revision": 0, "range_end": wanted.end.encode()}
    if wanted.below:
        return {"result": "LESS", "target": "VALUE", "key": key, "value": wanted.below.encode()}
    return {"target": "MOD", "key": key, "mod_revision": wanted.mod}


def write(op: Op) -> dict[str, Any]:
    if isinstance(op, Put):
        return {"request_put": {"key": op.key.encode(), "value": op.value, "lease": op.lease}}
    return {"request_delete_range": {"key": op.key.encode(), "range_end": op.end.encode()}}


def read(wanted: Range) -> dict[str, Any]:
    return {
        "request_range": {
            "key": wanted.start.encode(),
            "range_end": wanted.end.encode(),
            "limit": wanted.limit,
            "keys_only": wanted.keys_only,
            "sort_order": "DESCEND" if wanted.reverse else "NONE",
        }
    }


def nested(transaction: Transaction, compares: Sequence[Compare]) -> dict[str, Any]:
    return {"request_txn": {"compare": [*map(compare, compares)], "success": branch(transaction)}}


def branch(transaction: Transaction) -> list[dict[str, Any]]:
    return [*map(write, transaction.ops), *map(read, transaction.reads)]


@given(st.lists(STEPS, max_size=4), STEPS, st.lists(COMPARES, max_size=2))
def test_steps_are_nested_behind_the_guards_and_what_goes_along_needs_all_of_them(
    transactions: list[Transaction], also: Transaction, guards: list[Compare]
) -> None:
    every = list(dict.fromkeys(compare for transaction in [*transactions, also] for compare in transaction.compares))
    expected = etcd.TxnRequest(
        compare=[*map(compare, guards)],
        success=[*(nested(transaction, transaction.compares) for transaction in transactions), nested(also, every)],
    )
    assert etcd.TxnRequest.FromString(SeparateRequest(transactions, also, guards).data) == expected


def test_too_many_compares_stand_outside_and_the_steps_by_themselves_in_the_other_branch() -> None:
    guards = [Compare("guard", mod=7)]
    transactions = [
        Transaction([Compare(f"transaction/{n}", mod=n), Compare("both")], [Put(f"transaction/{n}", b"x")])
        for n in range(3)
    ]
    also = Transaction([Compare(f"more/{n}") for n in range(123)], [Put("also", b"y"), Delete("gone")], [Range("also")])
    every = list(
        dict.fromkeys(
            one for part in (guards, *(transaction.compares for transaction in [*transactions, also])) for one in part
        )
    )
    expected = etcd.TxnRequest(
        compare=[*map(compare, every)],
        success=[*(nested(transaction, []) for transaction in transactions), *branch(also)],
        failure=[nested(transaction, [*guards, *transaction.compares]) for transaction in transactions],
    )
    assert etcd.TxnRequest.FromString(SeparateRequest(transactions, also, guards).data) == expected


@given(st.lists(RANGES, max_size=5))
def test_reads_stand_alone(ranges: list[Range]) -> None:
    assert etcd.TxnRequest.FromString(reading(ranges)) == etcd.TxnRequest(success=[*map(read, ranges)])


@given(st.lists(STEPS, max_size=4), STEPS, st.lists(COMPARES, max_size=2))
def test_all_or_nothing_has_each_compare_once_and_few_nested_transactions(
    transactions: list[Transaction], also: Transaction, guards: list[Compare]
) -> None:
    every = dict.fromkeys([*guards, *(one for transaction in [*transactions, also] for one in transaction.compares)])
    expected = etcd.TxnRequest(
        compare=[*map(compare, every)],
        success=[
            {"request_txn": {"success": [one for transaction in transactions for one in branch(transaction)]}},
            nested(also, []),
        ],
    )
    whole = AtomicRequest(transactions, also, guards)
    assert whole.fits
    assert etcd.TxnRequest.FromString(whole.data) == expected


@given(st.integers(2, 70), st.integers(1, 3), st.integers(0, 24), st.integers(0, 60))
def test_all_or_nothing_fits_or_says_that_it_does_not(transactions: int, compares: int, ops: int, along: int) -> None:
    every = [
        Transaction([Compare(f"{n}/{at}") for at in range(compares)], [Put(f"{n}/{at}", b"x") for at in range(ops)])
        for n in range(transactions)
    ]
    whole = AtomicRequest(every, Transaction([], [Put(f"along/{n}", b"y") for n in range(along)]))
    request = etcd.TxnRequest.FromString(whole.data)
    inner = [one.request_txn.success for one in request.success]
    width = max(len(request.compare), len(inner))
    assert whole.fits == (max(ops, along) + max(transactions * compares, transactions + 1) <= MAX_OPERATIONS)
    assert not whole.fits or width + max(map(len, inner)) <= MAX_OPERATIONS
    assert [one.request_put.key for part in inner[:-1] for one in part] == [
        op.key.encode() for transaction in every for op in transaction.ops if isinstance(op, Put)
    ]
