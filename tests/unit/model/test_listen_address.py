"""Addresses on which servers listen."""

import pytest

from peerjob.model.listen_address import is_loopback


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("localhost.example", False),
        ("jobs.example", False),
        ("", False),
    ],
)
def test_only_programs_on_this_machine_reach_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
