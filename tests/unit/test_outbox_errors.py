"""What the errors of databases say, whichever driver and library they come from."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from peerjob.sql.tables import Dialect, is_conflict, table_error


class Psycopg3Error(Exception):
    def __init__(self, state: str | None, text: str = "") -> None:
        super().__init__(text)
        self.sqlstate = state


class Psycopg2Error(Exception):
    def __init__(self, state: str | None, text: str = "") -> None:
        super().__init__(text)
        self.pgcode = state


class WrappedError(Exception):
    """As SQLAlchemy wraps an error of a driver."""

    def __init__(self, orig: Exception) -> None:
        super().__init__("wrapped")
        self.orig = orig


def caused(error: Exception) -> Exception:
    """As Django wraps an error of a driver."""
    outer = Exception("caused")
    outer.__cause__ = error
    return outer


def told(error: Exception, dialect: Dialect) -> str | None:
    found = table_error(error, "outbox", dialect)
    return None if found is None else str(found).partition(";")[0].removeprefix("table outbox ")


Driver = Callable[..., Exception]
Wrap = Callable[[Exception], Exception]
DRIVERS: list[Driver] = [Psycopg3Error, Psycopg2Error]
WRAPS: dict[str, Wrap] = {
    "bare": lambda error: error,
    "wrapped": WrappedError,
    "caused": caused,
    "both": lambda error: caused(WrappedError(error)),
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(("state", "conflict"), [("40001", True), ("40P01", True), ("40002", False), (None, False)])
def test_a_conflict_is_one_in_each_driver_and_library(
    driver: Driver, wrap: Wrap, state: str | None, conflict: bool
) -> None:
    assert is_conflict(wrap(driver(state))) is conflict


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ("42P01", "is missing"),
        ("3F000", "is missing"),
        *((state, "is of another version (it has no such)") for state in ("42703", "42804", "42883", "23502")),
        ("23505", None),
    ],
)
def test_an_error_about_the_tables_is_told(driver: Driver, wrap: Wrap, state: str | None, problem: str | None) -> None:
    assert told(wrap(driver(state, "it has no such\nLINE 1")), "postgresql") == problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("no such table: outbox", "is missing"),
        *(
            (text, f"is of another version ({text})")
            for text in ("table outbox has no column named x", "no such column: x", "NOT NULL constraint failed: x")
        ),
        ("database is locked", None),
    ],
)
def test_an_error_of_sqlite_about_the_tables_is_told(text: str, problem: str | None) -> None:
    assert told(Exception(text), "sqlite") == problem


def test_a_ring_of_causes_ends() -> None:
    first, second = Exception("first"), Exception("second")
    first.__cause__, second.__cause__ = second, first
    assert not is_conflict(first)
