"""What the rights of a token include, and until when."""

from datetime import UTC, datetime

import pytest

from peerjob.model.clock import to_us
from peerjob.model.rights import Rights, Role


@pytest.mark.parametrize(
    ("limit", "kind", "expected"),
    [
        ("mail.*", "mail.x", True),
        ("mail.*", "mail.", True),
        ("mail.*", "mail", False),
        ("mail.*", "mailer.x", False),
        ("report", "report", True),
        ("report", "report2", False),
        ("*", "report", True),
    ],
)
def test_a_limit_is_a_kind_or_a_prefix(limit: str, kind: str, expected: bool) -> None:
    assert Rights(role=Role.OPERATOR, kinds=(limit,)).include(kind) is expected


def test_rights_end_at_the_given_moment() -> None:
    until = datetime(2027, 1, 31, tzinfo=UTC)
    rights = Rights(role=Role.READER, until=until)
    assert [rights.expired(to_us(until) + late) for late in (-1, 0, 1)] == [False, True, True]
