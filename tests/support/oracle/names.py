"""The names of a program: ids and requests come from it, and what a store numbers is compared by place.

*Names*: two stores give other fences and revisions to the same claims and writes. Each side keeps the number that its
store gave; all that is compared has the place among the numbers instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from peerjob.model.ids import hashed_id
from peerjob.store.base import Elections, Liveness, Store

MILLISECOND_US = 1_000
UNKNOWN_FENCE = 2**40
"""A fence that no program reaches."""
UNKNOWN_REVISION = 2**40


class Ids:
    """The ids of one run: the same for the same program and start."""

    def __init__(self, seed: int, start_us: int) -> None:
        self._seed = seed
        self.start_us = start_us

    def instance(self, serial: int, age_s: float = 0) -> str:
        """The id of an instance that was created so many seconds before the program began."""
        return hashed_id(self.start_us - round(age_s * 1_000_000), f"{self._seed} instance {serial}")

    def request(self, number: int) -> str:
        """The request id of an operation; requests ascend."""
        return hashed_id(self.start_us + number * MILLISECOND_US, f"{self._seed} request {number}")

    def incarnation(self, node: int, life: int) -> str:
        return hashed_id(self.start_us + life * MILLISECOND_US, f"{self._seed} node {node} life {life}")


@dataclass(eq=False)
class Side:
    """One of the two stores, with the numbers that it gave."""

    name: str
    store: Store
    fences: dict[tuple[str, int], int] = field(default_factory=dict[tuple[str, int], int])
    """(Instance, number of its claim) → the fence of the claim."""
    revisions: list[int] = field(default_factory=list[int])
    """The revisions of schedules, in the order in which they were seen."""
    terms: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    """The terms of campaigns, in the order in which they were seen."""
    livenesses: dict[str, Liveness] = field(default_factory=dict[str, Liveness])
    elections: Elections | None = None

    def fence(self, id: str, claim: int) -> int:
        """The fence of a claim, for a call."""
        return self.fences.get((id, claim), UNKNOWN_FENCE)

    def claim_of(self, id: str, fence: int) -> int | str:
        """The number of the claim with this fence, for the comparison."""
        if fence == 0:
            return 0
        found = [claim for (of, claim), known in self.fences.items() if of == id and known == fence]
        return found[0] if found else f"unknown fence {fence}"

    def revision(self, place: int | None) -> int:
        """The revision at a place, for a call."""
        return UNKNOWN_REVISION if place is None else self.revisions[place]

    def place_of(self, revision: int) -> int | str:
        """The place of a revision, for the comparison."""
        return self.revisions.index(revision) if revision in self.revisions else "unknown revision"

    def term_of(self, term: tuple[str, int]) -> int:
        """The place of a term among those that were seen."""
        if term not in self.terms:
            self.terms.append(term)
        return self.terms.index(term)

    async def liveness(self, incarnation: str) -> Liveness:
        """The client for the lease of an incarnation."""
        known = self.livenesses.get(incarnation)
        if known is None:
            known = self.store.liveness()
            await known.open()
            self.livenesses[incarnation] = known
        return known

    async def election(self) -> Elections:
        """The client for the leadership."""
        if self.elections is None:
            elections = self.store.elections()
            await elections.open()
            self.elections = elections
        return self.elections

    async def close(self) -> None:
        for liveness in self.livenesses.values():
            await liveness.close()
        if self.elections is not None:
            await self.elections.close()
        await self.store.close()
