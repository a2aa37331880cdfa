"""Measures one cell in a process of its own, and prints a JSON object.

python -m scale.cell '{"engine": "redis", "part": "verbs"}'
"""

import json
import signal
import sys

import uvloop

from .cells import Cell
from .durable import flows, gates, steps
from .engines import metered
from .idle import idle
from .leading import schedules
from .shards import clustered, shards
from .verbs import Measure, contention, verbs
from .waiting import waiting

PARTS: dict[str, Measure] = {
    "verbs": verbs,
    "contention": contention,
    "waiting": waiting,
    "schedules": schedules,
    "idle": idle,
    "shards": shards,
    "flows": flows,
    "steps": steps,
    "gates": gates,
}


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its servers and their data end with it
    cell = Cell(**json.loads(sys.argv[1]))
    with clustered(cell.engine) if cell.part == "shards" else metered(cell.engine) as site:
        found = uvloop.run(PARTS[cell.part](site, cell))
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
