"""Operations of Alembic: `op.create_outbox()` and `op.drop_outbox()`, once this module is imported.

Import it in the migration, or in `env.py`: `import peerjob.sql.alembic`. It needs Alembic, and works with `--sql`, too.
"""

from __future__ import annotations

from typing import Any

from alembic.operations import MigrateOperation, Operations

from .tables import DEFAULT_TABLE, Dialect, checked_dialect, checked_table, removal, statements

__all__ = ["CreateOutbox", "DropOutbox"]


@Operations.register_operation("create_outbox")
class CreateOutbox(MigrateOperation):
    """Make the tables of an outbox and of its inbox that are missing."""

    def __init__(self, table: str = DEFAULT_TABLE) -> None:
        self.table = checked_table(table)

    @classmethod
    def create_outbox(cls, operations: Operations, table: str = DEFAULT_TABLE) -> Any:
        """`op.create_outbox(table)`."""
        return operations.invoke(cls(table))

    def reverse(self) -> MigrateOperation:
        """The operation that a downgrade needs."""
        return DropOutbox(self.table)


@Operations.register_operation("drop_outbox")
class DropOutbox(MigrateOperation):
    """Remove the tables of an outbox and of its inbox, with their rows."""

    def __init__(self, table: str = DEFAULT_TABLE) -> None:
        self.table = checked_table(table)

    @classmethod
    def drop_outbox(cls, operations: Operations, table: str = DEFAULT_TABLE) -> Any:
        """`op.drop_outbox(table)`."""
        return operations.invoke(cls(table))

    def reverse(self) -> MigrateOperation:
        """The operation that a downgrade needs."""
        return CreateOutbox(self.table)


def _dialect_of(operations: Operations) -> Dialect:
    return checked_dialect(operations.get_context().dialect.name, "op")


@Operations.implementation_for(CreateOutbox)
def _create(operations: Operations, operation: CreateOutbox) -> None:
    for statement in statements(operation.table, _dialect_of(operations)):
        operations.execute(statement)


@Operations.implementation_for(DropOutbox)
def _drop(operations: Operations, operation: DropOutbox) -> None:
    _dialect_of(operations)
    for statement in removal(operation.table):
        operations.execute(statement)
