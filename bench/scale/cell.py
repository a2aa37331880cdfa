"""Measures one cell in a process of its own, and prints a JSON object.

python -m scale.cell '{"engine": "redis", "part": "verbs"}'
"""

import json
import sys

import uvloop

from .cells import Cell
from .engines import metered
from .idle import idle
from .leading import schedules
from .verbs import Measure, contention, verbs
from .waiting import waiting

PARTS: dict[str, Measure] = {
    "verbs": verbs,
    "contention": contention,
    "waiting": waiting,
    "schedules": schedules,
    "idle": idle,
}


def main() -> None:
    cell = Cell(**json.loads(sys.argv[1]))
    with metered(cell.engine) as site:
        found = uvloop.run(PARTS[cell.part](site, cell))
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
