"""Tests that do not stop their nodes; a separate pytest runs them."""

import os
from typing import Any

import pytest

import peerjob.node.node
from peerjob import Node
from support.leaving_program import GRACE, make_node, start, use

URL, NAMESPACE = os.environ["URL"], os.environ["NAMESPACE"]
peerjob.node.node.GRACE = GRACE


@pytest.fixture(scope="session")
def manager() -> Any:
    return make_node(URL, NAMESPACE).blocking()


def test_with_the_facade(manager: Any) -> None:
    use(manager, "thread", "")


async def test_with_a_bare_node() -> None:
    await start(URL, NAMESPACE, "loop")


def test_that_fails() -> None:
    assert Node is None
