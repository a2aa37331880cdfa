"""Names of the package: those that are imported at first use, and one that does not exist."""

from typing import assert_type

import peerjob
from peerjob import Client


def clients(one: Client) -> None:
    assert_type(one, peerjob.Client)


def mistyped() -> None:
    print(peerjob.Nod)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownArgumentType, reportUnknownMemberType]
