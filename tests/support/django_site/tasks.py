"""Tasks of many kinds."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.db import connections

from peerjob import Context, Retry
from peerjob.django import with_options
from peerjob.django.framework import VERSION, AnyTask, TaskContext

if TYPE_CHECKING or VERSION >= (6, 0):
    from django.tasks import task  # pyright: ignore[reportMissingModuleSource]
else:
    from django_tasks import task

seen: list[Any] = []
"""What the tasks of a test have seen, in order."""


@task
def add(x: int, y: int = 1) -> int:
    """Add two numbers."""
    return x + y


@task
async def add_later(x: int, y: int = 1) -> int:
    await asyncio.sleep(0)
    return x + y


@task(queue_name="mail", priority=7)
def send(to: object) -> None:
    seen.append(to)


@task
def fails(text: str) -> None:
    raise LookupError(text)


@task
async def fails_later(text: str) -> None:
    raise LookupError(text)


@task
def exits() -> None:
    raise SystemExit("bye")


@task
def returns_object() -> object:
    return object()


@task
def returns_nan() -> float:
    return float("nan")


@task
def returns(value: object) -> object:
    return {1: (value, b"bytes")}


@task(takes_context=True)
def context_of(context: TaskContext[Any, Any], *, key: object = None) -> list[Any]:
    assert isinstance(context, TaskContext)
    return [context.task_result.id, context.attempt, context.task_result.kwargs, context.task_result.worker_ids]


@with_options(max_retries=2, tags=["tried"])
@task(takes_context=True)
def third_time(context: TaskContext[Any, Any]) -> int:
    if context.attempt < 3:
        raise Retry(reason=f"attempt {context.attempt}")
    return context.attempt


@with_options(run_in="process")
@task(takes_context=True)
def apart(context: TaskContext[Any, Any]) -> list[Any]:
    return [os.getpid(), context.task_result.id, Context.current().attempt, connections["default"].connection is None]


@task
def uses_database() -> None:
    """Use a connection, and tell which one."""
    connections["default"].ensure_connection()
    seen.append((threading.get_ident(), connections["default"]))


@task
async def uses_database_later() -> None:
    await sync_to_async(uses_database.func)()


@task
def rests(seconds: float) -> float:
    """Rest, without an ear for a cancellation."""
    print("rests", flush=True)
    time.sleep(seconds)
    print("rested", flush=True)
    return seconds


@task
def enqueues(x: int) -> str:
    return add.enqueue(x).id


@task
async def enqueues_later(x: int) -> str:
    return (await add.aenqueue(x)).id


@with_options(every="1h")
@task
def tidy() -> str:
    return "tidy"


def _hidden() -> str:
    return "hidden"


shown: AnyTask = task(_hidden)
"""A task that has not the name of its function."""
