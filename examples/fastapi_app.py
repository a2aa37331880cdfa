"""A web application that is a node of the cluster: any replica may run the jobs that one replica accepts.

    PEERJOB_STORE=redis://localhost uvicorn --app-dir examples fastapi_app:app

    curl -X POST 'localhost:8000/words' --json '{"text": "to be or not to be"}'
    curl localhost:8000/jobs/<uuid>
    curl localhost:8000/jobs/<uuid>/result

You may start several replicas. Each one is a node, and if one dies, the others finish its jobs. Without PEERJOB_STORE,
the store is the memory of the process, which is enough for a single replica only.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query
from pydantic import BaseModel

from peerjob import (
    INJECTED,
    Context,
    Instance,
    JobCancelled,
    JobFailed,
    JobTimedOut,
    Metrics,
    MetricsServer,
    Node,
    UnknownInstanceError,
    job,
)


class Text(BaseModel):
    text: str
    seconds: float = 0
    """How many seconds the job takes, so that you can see the job run."""


@job(kind="count_words", max_retries=3, backoff="1s", timeout="5m")
async def count_words(text: Text, context: Context = INJECTED) -> dict[str, int]:
    """Count how often each word occurs."""
    words = text.text.split()
    counts: Counter[str] = Counter()
    for done, word in enumerate(words, 1):
        counts[word] += 1
        context.progress(done / len(words), word)
        await asyncio.sleep(text.seconds / len(words))
    return dict(counts)


node = Node(os.environ.get("PEERJOB_STORE", "memory://"), jobs=[count_words])


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
    listen = os.environ.get("PEERJOB_METRICS_LISTEN")
    # this server answers requests for metrics and the probes of Kubernetes, such as /livez
    shown = MetricsServer(Metrics(node), listen) if listen else nullcontext()
    # when the application stops, running jobs return to the queue, and another replica runs them
    async with shown, node:
        yield


app = FastAPI(title="Words", lifespan=lifespan)


@app.post("/words", status_code=202)
async def accept(text: Text) -> dict[str, str]:
    """Schedule a job and answer at once. From now on, no killed process loses the job."""
    instance = await node.schedule(count_words, text)
    return {"uuid": instance.id, "state": str(instance.state)}


@app.get("/jobs/{uuid}")
async def show(uuid: str) -> dict[str, Any]:
    """State, attempts, times and progress."""
    return (await find(uuid)).to_dict()


@app.get("/jobs/{uuid}/result")
async def result(uuid: str, wait: Annotated[float, Query(ge=0, le=60)] = 10) -> dict[str, int]:
    """The result; waits for it up to `wait` seconds."""
    instance = await find(uuid)
    try:
        return await instance.result(timeout=wait)
    except (JobFailed, JobCancelled, JobTimedOut) as ended:
        raise HTTPException(500, str(ended)) from ended
    except TimeoutError as error:
        raise HTTPException(504, "not yet") from error


@app.delete("/jobs/{uuid}")
async def cancel(uuid: str) -> dict[str, bool]:
    """Cancel the job, on any replica."""
    return {"cancelled": await (await find(uuid)).cancel()}


async def find(uuid: str) -> Instance[dict[str, int]]:
    try:
        return await node.lookup_instance(uuid, count_words)
    except (UnknownInstanceError, ValueError) as error:
        raise HTTPException(404, f"no job {uuid}") from error
