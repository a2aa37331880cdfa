"""Sends the table of types through a manager."""

from typing import Any

from peerjob import ArgumentError, Instance, JobFailed, Manager, State

from .typed_values import ECHOES, GIVERS, REFUSED, ROWS, TAKERS, WHERE, same


async def wrong_on_the_way(manager: Manager, timeout: float = 60) -> list[str]:
    """Rows whose value, or its class, is not what arrived: in the body, in `result()`, or in a later lookup."""
    instances = await manager.schedule_many(ECHOES[row.name].call(row.value) for row in ROWS)
    wrong: list[str] = []
    for row, instance in zip(ROWS, instances, strict=True):
        looked_up = await manager.lookup_instance(instance.id, ECHOES[row.name])
        for one in (instance, looked_up):
            found = await _ended(one, timeout)
            if not same(found, row.expected):
                wrong.append(f"{row.name}: {found!r}, a {type(found).__name__}, for {row.expected!r}")
    return wrong


async def wrongly_taken(manager: Manager, timeout: float = 60) -> list[str]:
    """Rows that must be refused, as an argument and as a result, and are not, or without the name of the element."""
    wrong: list[str] = []
    for row in REFUSED:
        where = WHERE.get(row.name, "")
        try:
            await manager.schedule(TAKERS[row.name], row.value)
            wrong.append(f"{row.name}: taken as an argument")
        except ArgumentError as error:
            if f"value{where}: " not in str(error):
                wrong.append(f"{row.name}: {error}")
    instances = await manager.schedule_many(GIVERS[row.name].call() for row in REFUSED)
    for row, instance in zip(REFUSED, instances, strict=True):
        where = WHERE.get(row.name, "")
        found = await _ended(instance, timeout)
        info = (await instance.refresh()).error
        if instance.state is not State.TERMINATED or info is None or f"value{where}: " not in info.message:
            wrong.append(f"{row.name}: {found!r}")
        elif info.type != "peerjob.EncodeError":
            wrong.append(f"{row.name}: {info}")
    return wrong


async def _ended(instance: Instance[Any], timeout: float) -> Any:
    try:
        return await instance.result(timeout)
    except JobFailed as error:
        return error
