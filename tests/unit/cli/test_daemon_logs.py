"""What a daemon logs, in both forms."""

import asyncio
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from peerjob import Job
from peerjob.cli.daemon.logs import HumanFormatter, JsonFormatter
from peerjob.testing import running_node


class Kept(logging.Handler):
    """Keeps what it is given, as lines of JSON."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter("one"))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def kept() -> Iterator[Kept]:
    handler = Kept()
    logger = logging.getLogger("shop")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(logging.NOTSET)
    logger.removeHandler(handler)


def test_a_line_for_people_has_time_level_logger_and_message() -> None:
    record = logging.LogRecord("shop", logging.WARNING, __file__, 1, "low on %s", ("tea",), None)

    line = HumanFormatter().format(record)
    time, rest = line.split(" ", 1)
    assert len(time) == len("2026-11-24T21:05:04.193Z")
    assert time.endswith("Z")
    assert rest == "WARNING shop: low on tea"


def test_a_line_of_json_keeps_what_was_given_with_it(kept: Kept) -> None:
    logging.getLogger("shop").warning("low\non %s", "tea", extra={"left": 3, "of": object, "message_id": "x"})

    (line,) = kept.lines
    assert "\n" not in line
    found = json.loads(line)
    assert {name: found[name] for name in ("level", "logger", "message", "node", "left")} == {
        "level": "warning",
        "logger": "shop",
        "message": "low\non tea",
        "node": "one",
        "left": 3,
    }
    assert "instance" not in found


def test_a_traceback_stands_in_the_line(kept: Kept) -> None:
    try:
        raise ValueError("no tea")
    except ValueError:
        logging.getLogger("shop").exception("it failed")

    found = json.loads(kept.lines[0])
    assert found["level"] == "error"
    assert found["exception"].endswith("ValueError: no tea")


async def test_a_line_of_a_job_tells_which(kept: Kept) -> None:
    async def brew() -> None:
        logging.getLogger("shop").info("brewing")
        await asyncio.sleep(0)

    async with running_node(Job("brew", brew)) as node:
        instance = await node.schedule("brew")
        await instance.wait()

    found = json.loads(kept.lines[0])
    assert (found["instance"], found["kind"], found["attempt"]) == (str(instance.uuid), "brew", 1)


async def test_a_failure_has_its_instance_and_its_traceback_apart_from_the_message() -> None:
    def burn() -> None:
        raise ValueError("no tea")

    handler, logger = Kept(), logging.getLogger("peerjob.job")
    logger.addHandler(handler)
    try:
        async with running_node(Job("burn", burn)) as node:
            instance = await node.schedule("burn")
            await instance.wait()
    finally:
        logger.removeHandler(handler)
    found = json.loads(handler.lines[0])
    assert (found["instance"], found["kind"], found["attempt"]) == (instance.id, "burn", 1)
    assert found["exception"].endswith("ValueError: no tea")
    assert "Traceback" not in found["message"]


def test_no_message_looks_like_a_line_or_commands_a_terminal() -> None:
    text = "x\n2026-11-24T21:05:04.193Z ERROR   peerjob: forged\x1b[2J\x9b2J\u202e\rback"
    try:
        raise ValueError(text)
    except ValueError:
        error = sys.exc_info()
    record = logging.LogRecord("shop\n", logging.ERROR, __file__, 1, "%s", (text,), error)
    first, *more = HumanFormatter().format(record).split("\n")
    assert first.isprintable()
    assert more
    assert all(line.startswith("    ") and line.isprintable() for line in more)


def test_a_line_of_json_commands_no_terminal(kept: Kept) -> None:
    logging.getLogger("shop").warning("\x9b2J\u202e é", extra={"\x7f": "\x1b"})
    (line,) = kept.lines
    assert line.isprintable()
    assert json.loads(line)["message"] == "\x9b2J\u202e é"
