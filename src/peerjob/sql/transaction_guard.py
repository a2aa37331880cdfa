"""Keeps the transaction of `transact` whole: its function must not end it."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from peerjob.model.errors import OptionError

from .tables import FENCES, causes

_ENDS = re.compile(
    r"(?:\s|;|--[^\n]*\n|/\*.*?\*/)*"
    r"(commit|end|abort|rollback(?!(\s+(work|transaction))?\s+to\b)|prepare\s+transaction)\b",
    re.IGNORECASE | re.DOTALL,
)
"""A statement that ends a transaction, perhaps after comments. A rollback to a savepoint does not."""
_EXPECTED = "a function that leaves the end of its transaction to transact; session.begin_nested() can undo a part"


class TransactionGuard:
    """Refuses each commit of a transaction of SQLAlchemy until `open`, before it happens.

    It does not see a commit of the driver's own connection. A foreign key refuses that one: see
    `inbox_rows.lock_fence`. Where the database does not check the key, the mark of the transaction tells of the commit
    afterwards: see `inbox_rows.keep_value`.
    """

    def __init__(self, connection: Any, name: str, mark: int) -> None:
        from sqlalchemy import event

        self.mark = mark
        """The mark of the transaction, of `inbox_rows.lock_fence`."""
        self._name = name
        self._transaction = connection.get_transaction()
        self._is_open = False
        self._refused: OptionError | None = None
        # SQLAlchemy forgets these with the Connection
        event.listen(connection, "commit", self._committing)
        event.listen(connection, "before_cursor_execute", self._executing)

    def open(self) -> None:
        """Allow the commit of `transact`; raises OptionError if the function has ended the transaction."""
        if self._refused is not None:
            raise self._refused  # the function has caught it
        if not self._transaction.is_active:
            raise self.ended("a rollback")
        self._is_open = True

    def ended(self, end: str) -> OptionError:
        """The error for an end of the transaction."""
        return OptionError("function", f"{end} inside of transact {self._name!r}", _EXPECTED)

    @contextmanager
    def telling(self) -> Generator[None]:
        """Tell of an end within.

        After a rollback, SQLAlchemy says only that the transaction takes nothing more. After a commit of the driver's
        connection, the database tells only of its foreign key.
        """
        from sqlalchemy.exc import InvalidRequestError

        try:
            yield
        except InvalidRequestError as error:
            if type(error) is InvalidRequestError and not self._transaction.is_active:
                raise self._refused or self.ended("a rollback") from error
            raise
        except Exception as error:
            if any(getattr(cause, "sqlstate", "") == "23503" and FENCES in str(cause) for cause in causes(error)):
                raise self.ended("a commit of the driver's connection, or SET CONSTRAINTS ALL IMMEDIATE,") from error
            raise

    def _refuse(self, end: str) -> None:
        self._refused = self.ended(end)
        raise self._refused

    def _committing(self, connection: Any) -> None:
        if not self._is_open:
            # after an error here, SQLAlchemy leaves the transaction open on the connection of its pool
            connection.connection.rollback()
            self._refuse("a commit")

    def _executing(self, connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if not self._is_open and (end := _ENDS.match(statement)):
            self._refuse(end[1].upper())
