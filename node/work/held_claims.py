"""Every claim that this incarnation holds, from the reply to a claim until its end is accepted."""

from __future__ import annotations

from peerjob.model.record import DIGEST_SIZE, digest_share

from .run import Run


class HeldClaims:
    """Id → run. Its count and digest are read by the lease thread, so they are kept, not computed."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._sum = 0

    def __len__(self) -> int:
        return len(self._runs)

    def __contains__(self, id: str) -> bool:
        return id in self._runs

    def add(self, run: Run) -> None:
        self._runs[run.claim.id] = run
        self._sum += digest_share(run.claim.fence)

    def remove(self, run: Run) -> None:
        """Forget a claim; a newer claim of the same instance stays."""
        if self._runs.get(run.claim.id) is run:
            del self._runs[run.claim.id]
            self._sum -= digest_share(run.claim.fence)

    def get(self, id: str) -> Run | None:
        return self._runs.get(id)

    def runs(self) -> list[Run]:
        return list(self._runs.values())

    def clear(self) -> list[Run]:
        """Forget everything (the incarnation is dead); what was held."""
        runs = self.runs()
        self._runs.clear()
        self._sum = 0
        return runs

    def summary(self) -> tuple[int, int]:
        """(count, digest) as `Liveness.renew` takes them. Safe from another thread; a torn read only asks again."""
        return len(self._runs), self._sum % DIGEST_SIZE
