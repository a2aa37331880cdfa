"""How the steps of an instance are divided into lines of an export."""

import pytest

from peerjob.model.durable import MAX_STEP_BYTES, MAX_STEPS_CALL, Step
from peerjob.model.record import StoreLimits
from peerjob.model.restored import Restored
from peerjob.store.memory.driver import memory_store
from peerjob.store.rules import FLOWS_LAYOUT
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Factory
from peerjob.transfer.instances import moved_instances
from peerjob.transfer.lines import MovedInstance, MovedSteps

MOST = MAX_STEP_BYTES


@pytest.mark.parametrize(
    ("sizes", "lines"),
    [
        ([MOST], [1]),
        ([MOST - 1, 1], [2]),
        ([MOST - 1, 2], [1, 1]),
        ([MOST, 1, MOST - 1, 1], [1, 2, 1]),
        ([1] * (MAX_STEPS_CALL + 1), [MAX_STEPS_CALL, 1]),
        ([1] * (2 * MAX_STEPS_CALL), [MAX_STEPS_CALL, MAX_STEPS_CALL]),
    ],
)
async def test_a_line_has_as_many_steps_as_one_call_restores(
    clock: VirtualClock, namespace: str, sizes: list[int], lines: list[int]
) -> None:
    store = memory_store("memory://", namespace=namespace, clock=clock, limits=StoreLimits())
    await store.require_layout(FLOWS_LAYOUT, "steps")
    new = Factory(clock).instance(due_us=1_000)
    steps = [Step(f"{number:03}", b"x" * size) for number, size in enumerate(sizes)]
    for step in steps:
        await store.restore([Restored(instance=new, steps=(step,), open=True)])
    await store.restore([Restored(instance=new)])

    first, *rest = [line async for line in moved_instances(store)]

    assert isinstance(first, MovedInstance)
    parts = [line for line in rest if isinstance(line, MovedSteps)]
    assert [len(part.steps) for part in parts] == lines
    assert [step for part in parts for step in part.steps] == steps
    assert [part.open for part in parts] == [True] * (len(parts) - 1) + [False]
