"""ASGI applications with a node: one stops it, as the documentation says, and one forgets to."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI

import peerjob.node.node
from peerjob import Node
from support.leaving_program import GRACE, JOBS

peerjob.node.node.GRACE = GRACE
node = Node(os.environ["URL"], jobs=JOBS, namespace=os.environ["NAMESPACE"], workers=2)


@asynccontextmanager
async def within(_app: FastAPI) -> AsyncGenerator[None]:
    async with node:
        yield


@asynccontextmanager
async def started(_app: FastAPI) -> AsyncGenerator[None]:
    await node.start()
    yield


stops = FastAPI(lifespan=within)
forgets = FastAPI(lifespan=started)
