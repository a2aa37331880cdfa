"""The stored values of steps and signals on which outcomes depend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peerjob.model.durable import SIGNAL_MARK
from peerjob.model.record import Outcome
from peerjob.store.kv.format.keys import Keys
from peerjob.store.kv.format.rows import Row
from peerjob.store.kv.format.thread_rows import thread_of
from peerjob.store.kv.write.guarded import GuardedKeyValue


class StepValues:
    """Reads them.

    Each change of a value also writes the record of the instance. So the compare of the record shows that the values
    are as they were read.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self.known: dict[str, bytes | None] = {}
        """Key → stored value, of those that were read; None for no value."""

    def key(self, id: str, name: str) -> str:
        """The key of a value."""
        return self._keys.step(id, name)

    async def read(
        self, kv: GuardedKeyValue, outcomes: Sequence[Outcome], rows: Mapping[str, tuple[int, Row]], *, again: bool
    ) -> None:
        """Read the signals that suspended instances await.

        Most steps are new, so the values of steps are read only with `again`, after a transaction had a conflict, and
        for an outcome with needs, which are attached before.
        """
        wanted: list[str] = []
        self.known.clear()
        for outcome in outcomes:
            if again or outcome.needs:
                wanted += (self.key(outcome.id, step.name) for step in outcome.steps)
            if outcome.wait is not None and outcome.wait.signals and outcome.id in rows:
                thread = thread_of(rows[outcome.id][1])
                if thread is not None and thread.signals:
                    wanted += (self.key(outcome.id, SIGNAL_MARK + name) for name in outcome.wait.signals)
        if wanted:
            entries = await kv.get(list(dict.fromkeys(wanted)))
            values = (None if entry is None else entry.value for entry in entries)
            self.known |= dict(zip(dict.fromkeys(wanted), values, strict=True))

    def is_taken(self, outcome: Outcome) -> bool:
        """Whether a step of an outcome is known to have another value."""
        values = ((self.known.get(self.key(outcome.id, step.name)), step.value) for step in outcome.steps)
        return any(known not in (None, value) for known, value in values)
