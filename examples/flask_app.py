"""The blocking API: a node inside an application that has no event loop.

    PEERJOB_STORE=redis://localhost flask --app examples/flask_app.py run

    curl -X POST 'localhost:5000/primes?below=100000'
    curl localhost:5000/jobs/<uuid>/result

The node starts with the first request of each process, so it works behind servers that fork. Without PEERJOB_STORE, the
store is the memory of the process.
"""

import os

from flask import Flask, abort, request
from flask.typing import ResponseReturnValue

from peerjob import JobCancelled, JobFailed, JobTimedOut, Node, UnknownInstanceError, job


@job(kind="count_primes", run_in="process", timeout="5m")
def count_primes(below: int) -> int:
    """Count the primes below a number, in a separate process, so that the application's threads stay free."""
    sieve = bytearray([1]) * below
    sieve[:2] = bytes(min(2, below))
    for number in range(2, int(below**0.5) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, below, number)))
    return sum(sieve)


app = Flask(__name__)
manager = Node(os.environ.get("PEERJOB_STORE", "memory://"), jobs=[count_primes], workers=2).blocking()


@app.post("/primes")
def accept() -> ResponseReturnValue:
    """Schedule a job and answer at once."""
    instance = manager.schedule(count_primes, request.args.get("below", 1_000_000, type=int))
    return {"uuid": instance.id, "state": str(instance.state)}, 202


@app.get("/jobs/<uuid:uuid>")
def show(uuid: str) -> ResponseReturnValue:
    """State, attempts and times."""
    try:
        return manager.lookup_instance(uuid, count_primes).to_dict()
    except UnknownInstanceError:
        abort(404)


@app.get("/jobs/<uuid:uuid>/result")
def result(uuid: str) -> ResponseReturnValue:
    """The result; waits for it up to ten seconds."""
    try:
        return {"primes": manager.lookup_instance(uuid, count_primes).result(timeout=10)}
    except UnknownInstanceError:
        abort(404)
    except (JobFailed, JobCancelled, JobTimedOut) as ended:
        return {"error": str(ended)}, 500
    except TimeoutError:
        return {"error": "not yet"}, 504
