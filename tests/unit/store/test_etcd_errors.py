"""What the errors and the statuses of etcd mean. No server that the tests start gives each of them."""

from typing import Any

import pytest

from peerjob.model.errors import (
    StoreCredentialsError,
    StoreError,
    StorePermissionError,
    StoreRefusedError,
    StoreUnavailableError,
)
from peerjob.model.findings import Severity
from peerjob.store.etcd.address import parse_address
from peerjob.store.etcd.api import codes, etcd
from peerjob.store.etcd.diagnosis import _member  # pyright: ignore[reportPrivateUsage]
from peerjob.store.etcd.errors import translated
from peerjob.store.kv.format.base import LeaseEndedError

MIB = 1 << 20


class RpcError:
    """An error of gRPC."""

    def __init__(self, code: Any, details: str | None) -> None:
        self._code, self._details = code, details

    def code(self) -> Any:
        return self._code

    def details(self) -> str | None:
        return self._details


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        (codes.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", StoreUnavailableError),
        (codes.RESOURCE_EXHAUSTED, "trying to send message larger than max (9 vs. 8)", StoreRefusedError),
        (codes.UNKNOWN, "etcdserver: request is too large", StoreRefusedError),
        (codes.PERMISSION_DENIED, None, StorePermissionError),
        (codes.UNKNOWN, "etcdserver: permission denied", StorePermissionError),
        (codes.UNAUTHENTICATED, None, StoreCredentialsError),
        (codes.INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID", StoreCredentialsError),
        (codes.INVALID_ARGUMENT, "etcdserver: user name is empty", StoreCredentialsError),
        (codes.UNKNOWN, "etcdserver: invalid auth token", StoreCredentialsError),
        (codes.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", StoreCredentialsError),
        (codes.NOT_FOUND, "etcdserver: requested lease not found", LeaseEndedError),
        (codes.UNAVAILABLE, "etcdserver: no leader", StoreUnavailableError),
        (codes.DEADLINE_EXCEEDED, None, StoreUnavailableError),
        (codes.CANCELLED, None, StoreUnavailableError),
        (codes.ABORTED, None, StoreUnavailableError),
        (codes.INTERNAL, None, StoreUnavailableError),
        (codes.UNKNOWN, None, StoreUnavailableError),
        (codes.RESOURCE_EXHAUSTED, "etcdserver: too many requests", StoreUnavailableError),
        (codes.FAILED_PRECONDITION, None, StoreUnavailableError),
        (codes.INVALID_ARGUMENT, "etcdserver: too many operations in txn request", StoreRefusedError),
        (codes.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", StoreError),
        (codes.UNIMPLEMENTED, None, StoreError),
    ],
)
def test_each_error_of_etcd_has_its_error_of_peerjob(
    code: Any, details: str | None, expected: type[StoreError]
) -> None:
    error = translated(RpcError(code, details), "etcd://here")
    assert type(error) is expected
    assert "etcd://here" in str(error)
    assert (details or code.name) in str(error) or expected in (StorePermissionError, StoreCredentialsError)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, {}),
        ({"version": "3.5.0"}, {}),
        ({"version": "4.0.0"}, {}),
        ({"version": "3.4.99"}, {"server": Severity.FAIL}),
        ({"version": "2.9.0"}, {"server": Severity.FAIL}),
        ({"leader": 0}, {"server": Severity.FAIL}),
        ({"errors": ["alarm:NOSPACE"]}, {"alarm": Severity.FAIL}),
        ({"dbSize": 599 * MIB, "dbSizeInUse": 599 * MIB}, {}),
        ({"dbSize": 600 * MIB, "dbSizeInUse": 600 * MIB}, {"quota": Severity.WARN}),
        ({"dbSize": 800 * MIB, "dbSizeInUse": 800 * MIB}, {"quota": Severity.FAIL}),
        ({"dbSize": 100 * MIB, "dbSizeInUse": 0}, {}),
        ({"dbSize": 100 * MIB + 1, "dbSizeInUse": 0}, {"fragmentation": Severity.WARN}),
        ({"dbSize": 400 * MIB, "dbSizeInUse": 200 * MIB}, {}),
        ({"dbSize": 400 * MIB, "dbSizeInUse": 200 * MIB - 1}, {"fragmentation": Severity.WARN}),
    ],
)
def test_the_diagnosis_of_a_member(changed: dict[str, Any], expected: dict[str, Severity]) -> None:
    usual: dict[str, Any] = {"version": "3.6.1", "leader": 1, "dbSize": MIB, "dbSizeInUse": MIB}
    status = etcd.StatusResponse(**(usual | {"dbSizeQuota": 1_000 * MIB} | changed))
    found = {one.subject: one.verdict for one in _member("here:2379", status, parse_address("etcd://here"))}
    assert found == {"server": Severity.OK, "quota": Severity.OK} | expected
