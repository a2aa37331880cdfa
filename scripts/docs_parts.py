"""The parts of the documentation that come from elsewhere: docstrings, tables in the code, commands, the README.

A page marks the place of a part with a comment: `<!-- part: errors -->`. The hooks of MkDocs call `part`.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_type_hints

import typer.main
from typer.cli import get_docs_for_click

from peerjob.cli import jobctl, jobd
from peerjob.cli.ctl.settings import CtlOptions
from peerjob.cli.daemon.settings import DaemonSettings
from peerjob.cli.settings import Setting, variable_of

ROOT = Path(__file__).parents[1]
ERRORS = [ROOT / "src" / "peerjob" / "model" / name for name in ("errors.py", "durable_errors.py")]
SOLUTION = "Solution: "


def part(name: str) -> str:
    """The Markdown of a part. Raises KeyError."""
    match name:
        case "comparison":
            return _comparison()
        case "errors":
            return _errors()
        case "jobctl":
            return _commands("jobctl", jobctl.app)
        case "jobctl settings":
            return _settings(CtlOptions)
        case "jobd":
            return _commands("jobd", jobd.app)
        case "jobd settings":
            return _settings(DaemonSettings)
        case _:
            raise KeyError(name)


def _comparison() -> str:
    text = (ROOT / "README.md").read_text().partition("\n## Comparison\n")[2]
    return text.partition("\n## ")[0]


# -- errors ----------------------------------------------------------------------------------------------------------


def _errors() -> str:
    rows = ["| error | is also | when | solution |", "|---|---|---|---|"]
    for error in (node for path in ERRORS for node in ast.parse(path.read_text()).body):
        if isinstance(error, ast.ClassDef):
            text = ast.get_docstring(error) or ""
            when, _, solution = text.partition(f"\n\n{SOLUTION}")
            bases = ", ".join(f"`{ast.unparse(base)}`" for base in error.bases)
            cells = [f"[`{error.name}`][peerjob.{error.name}]", bases, when, solution]
            if solution:
                rows.append(f"| {' | '.join(' '.join(cell.split()) for cell in cells)} |")
    return "\n".join(rows)


# -- commands --------------------------------------------------------------------------------------------------------


def _commands(name: str, app: typer.Typer) -> str:
    command = typer.main.get_command(app)
    context: Any = command.make_context(name, [], resilient_parsing=True)
    text = get_docs_for_click(obj=command, ctx=context, name=name)
    # the page has a title of its own, and its table of contents lists the commands in full
    text = re.sub(r"\A# .*\n", "", text)
    return re.sub(r"^\*\*Commands\*\*:\n\n(\* .*\n)+", "", text, flags=re.MULTILINE)


# -- settings --------------------------------------------------------------------------------------------------------


def _settings(table: type[Any]) -> str:
    rows = ["| flag | environment | default | meaning |", "|---|---|---|---|"]
    for row in _rows(table):
        cells = [cell.replace("|", r"\|") for cell in row]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _rows(table: type[Any]) -> Iterator[tuple[str, str, str, str]]:
    hints = get_type_hints(table, include_extras=True)
    for field in fields(table):
        row = hints[field.name].__metadata__[0]
        if not isinstance(row, Setting):
            yield f"`{row.metavar}`", f"`{row.envvar}`", "", str(row.help)
            continue
        flags = row.flags or (f"--{field.name.replace('_', '-')}",)
        variable = variable_of(field.name) if row.variable == "" else row.variable
        value = field.default if field.default is not MISSING else ""
        default = row.more.get("show_default") or ("none" if value is None else f"`{_text(value)}`")
        yield ", ".join(f"`{flag}`" for flag in flags), f"`{variable}`" if variable else "", default, row.help


def _text(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    print(part(sys.argv[1]))
