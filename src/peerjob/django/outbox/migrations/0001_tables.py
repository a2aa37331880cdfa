"""Make the tables of an outbox and of its inbox."""

from __future__ import annotations

from typing import Any

from django.db import migrations

from peerjob.sql.tables import DEFAULT_TABLE, DIALECTS, removal, statements


def create(apps: Any, schema_editor: Any) -> None:
    """Make the tables on a database that can have them."""
    vendor = schema_editor.connection.vendor
    for dialect in DIALECTS:
        if dialect == vendor:
            for statement in statements(DEFAULT_TABLE, dialect):
                # with parameters, Django would take the percent signs of the statement for placeholders
                schema_editor.execute(statement, params=None)


def remove(apps: Any, schema_editor: Any) -> None:
    """Remove the tables with their rows."""
    if schema_editor.connection.vendor in DIALECTS:
        for statement in removal(DEFAULT_TABLE):
            schema_editor.execute(statement, params=None)


class Migration(migrations.Migration):
    """The tables of peerjob.sql."""

    initial = True
    operations = [migrations.RunPython(create, remove)]  # noqa: RUF012  # Django reads a list
