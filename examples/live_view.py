"""A page that shows a job while it runs: states, log lines and progress, as server-sent events.

    PEERJOB_STORE=redis://localhost uvicorn --app-dir examples live_view:app

Open http://localhost:8000 for the page, or follow a job in a terminal:

    uuid=$(curl -sX POST localhost:8000/jobs | jq -r .uuid)
    curl -N localhost:8000/jobs/$uuid/events

The stream ends when the job is final, and also when the application stops: a browser then connects again, to another
replica, and gets the present state first.
"""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.responses import HTMLResponse, StreamingResponse

from peerjob import (
    INJECTED,
    Context,
    Event,
    Instance,
    Node,
    NodeStateError,
    StoreUnavailableError,
    UnknownInstanceError,
    job,
)
from peerjob.model.json_text import to_json

PAGE = """<!doctype html>
<title>peerjob</title>
<button onclick="run()">Run a job</button> <b id=state></b> <progress id=bar value=0></progress> <pre id=log></pre>
<script>
async function run() {
  const {uuid} = await (await fetch('/jobs', {method: 'POST'})).json()
  watch(uuid)
}
function watch(uuid) {
  const source = new EventSource(`/jobs/${uuid}/events`)
  source.onopen = () => { log.textContent = '' }  // each connection begins with the present state and all log lines
  source.addEventListener('state', event => show(JSON.parse(event.data)))
  source.addEventListener('progress', event => show(JSON.parse(event.data)))
  source.addEventListener('log', event => { log.append(JSON.parse(event.data).log.message + '\\n') })
  source.addEventListener('end', () => source.close())
  // the browser connects again by itself, but gives up at an answer such as 502, which a proxy sends without a replica
  source.onerror = () => { if (source.readyState === EventSource.CLOSED) setTimeout(watch, 3000, uuid) }
}
function show(event) { state.textContent = event.state; bar.value = event.progress?.fraction ?? 0 }
</script>"""


@job(kind="bake", timeout="5m")
async def bake(steps: int, seconds: float, context: Context = INJECTED, instance: Instance = INJECTED) -> str:
    """Bake bread, slowly."""
    for step in range(steps):
        instance.log.info("step %d of %d", step + 1, steps)
        context.progress((step + 1) / steps)
        await asyncio.sleep(seconds / steps)
    return "bread"


node = Node(os.environ.get("PEERJOB_STORE", "memory://"), jobs=[bake])
closing = asyncio.Event()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
    # uvicorn waits for open responses before it ends the lifespan, so streams must end at the signal itself
    for number in (signal.SIGTERM, signal.SIGINT):
        close_at(number)
    async with node:
        yield


def close_at(number: int) -> None:
    """Let a signal end the streams, and then do what it did before."""
    loop, before = asyncio.get_running_loop(), signal.getsignal(number)

    def handle(*arguments: Any) -> None:
        loop.call_soon_threadsafe(closing.set)
        if callable(before):
            before(*arguments)

    signal.signal(number, handle)


app = FastAPI(title="Live view", lifespan=lifespan)


@app.get("/")
async def page() -> HTMLResponse:
    """The page."""
    return HTMLResponse(PAGE)


@app.post("/jobs", status_code=202)
async def accept(steps: int = 10, seconds: float = 5) -> dict[str, str]:
    """Schedule a job."""
    return {"uuid": (await node.schedule(bake, steps, seconds)).id}


@app.get("/jobs/{uuid}/events")
async def events(uuid: str) -> StreamingResponse:
    """The present state of a job, its log lines so far, and then each change."""
    try:
        instance = await node.lookup_instance(uuid, bake)
    except (UnknownInstanceError, ValueError) as error:
        raise HTTPException(404, f"no job {uuid}") from error
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(server_sent(instance), media_type="text/event-stream", headers=headers)


async def server_sent(instance: Instance[str]) -> AsyncGenerator[str, None]:
    """The text of a stream. "end" tells the browser to close; without it, the browser connects again."""
    async with aclosing(until_closing(instance.watch())) as events:
        try:
            async for event in events:
                yield f"event: {event.what}\ndata: {to_json(event.to_dict())}\n\n"
        except UnknownInstanceError:
            pass  # retention has removed the job
        except (NodeStateError, StoreUnavailableError):
            return
    if not closing.is_set():
        yield "event: end\ndata:\n\n"


async def until_closing(events: AsyncIterator[Event]) -> AsyncGenerator[Event, None]:
    """The events, until the last one or until the application stops."""
    ending = asyncio.ensure_future(closing.wait())
    following = None
    try:
        while True:
            following = asyncio.ensure_future(following_of(events))
            await asyncio.wait((following, ending), return_when=asyncio.FIRST_COMPLETED)
            if not following.done() or (event := following.result()) is None:
                return
            yield event
    finally:
        ending.cancel()
        if following is not None:
            following.cancel()


async def following_of(events: AsyncIterator[Event]) -> Event | None:
    """The next event; None at the end."""
    return await anext(events, None)
