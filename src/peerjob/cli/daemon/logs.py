"""The log lines of a daemon on standard error: for people, or one JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from peerjob.model.injected import current_run
from peerjob.model.printable import printable, printable_json

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LogFormat(StrEnum):
    """The format of log lines."""

    HUMAN = "human"
    JSON = "json"


class LogLevel(StrEnum):
    """The lowest level that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def configure(format: LogFormat, level: str, node: str) -> None:
    """Send all records of this level and above to standard error only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(node) if format is LogFormat.JSON else HumanFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(True)


class HumanFormatter(logging.Formatter):
    """Time (UTC), level, logger and message; a traceback on indented lines.

    So no message can look like another log line, or control a terminal.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802  # overrides a method of Formatter
        return _time(record)

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), lines=True).replace("\n", "\n    ")


class JsonFormatter(logging.Formatter):
    """An object with time (UTC), level, logger, message and node.

    Records of a job also have `instance`, `kind` and `attempt`, records with a traceback `exception`, and values of
    `extra=` keep their names.
    """

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "node": self._node,
        }
        run = current_run.get()
        if run is not None and not run.detached:
            line |= {"instance": run.id, "kind": run.kind, "attempt": run.attempt}
        if record.exc_text:
            line["exception"] = record.exc_text
        elif record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD and name not in line}
        return printable_json(json.dumps(line, default=str, ensure_ascii=False))


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
