"""The part of the store contract that has connections of its own: the lease of a node, and the election of a leader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from peerjob.model.firing import Candidate, Leader, Term
from peerjob.model.record import Renewed


class Liveness(Protocol):
    """A separate client for the renewal of one lease; it belongs to the event loop that opened it.

    It shares only the server with its store, so it works from another thread and loop.
    """

    async def open(self, wake: Callable[[], None] | None = None) -> None:
        """Connect. The client calls `wake` in this event loop if a renewal helps before its time."""
        ...

    async def renew(self, incarnation: str, *, ttl_us: int, running: int, count: int, fences_digest: int) -> Renewed:
        """Extend the lease to now + ttl; an expired lease too, unless the incarnation was marked dead.

        `running` is the load to show. `count` and `fences_digest` (see `record.digest`) describe the claims that
        the caller knows. If they differ from the claims in the store, the answer lists the latter in `held`.
        The answer also says what an idle node would otherwise ask for: whether work is due, and when a lease of a peer
        can end. A store that cannot say it cheaply leaves both fields out; the node then asks each second.
        The driver does not retry; raises StoreUnavailableError within three fifths of the ttl. The caller can
        cancel the call earlier.
        """
        ...

    async def withdraw(self, incarnation: str, request: str, *, timeout: float) -> None:
        """Hand back the claims of a waiting `claim_on_hint`, whose event loop is blocked, and let work wake peers."""

    async def close(self) -> None: ...


class Elections(Protocol):
    """A separate client for the leadership of one namespace; it belongs to the event loop that opened it.

    One leadership is a *term*. A leader that campaigns again within the ttl keeps the term; otherwise it ends.
    The driver retries no call; each raises StoreUnavailableError within three fifths of the ttl (2 s before the
    first ttl). The caller can cancel the call earlier.
    """

    async def open(self) -> None:
        """Connect; raises StoreUnavailableError within 5 s."""
        ...

    async def campaign(self, candidate: Candidate, *, ttl_us: int) -> Leader:
        """Take the leadership if it is free, or keep the candidate's own; returns the current leader.

        Taking it begins a higher term. Keeping it writes as little as the server allows.
        """
        ...

    async def resign(self, incarnation: str, *, refused: Term | None = None) -> None:
        """End the leadership of this incarnation, if it leads, so that a peer can take it at once.

        `refused` is a term to which the store answered DEPOSED. If the incarnation still leads in that term, the
        coordinator lost its latest data, as after a restore: later terms then have another `Term.coordinator`.
        """
        ...

    async def leader(self) -> Leader | None:
        """The current leader; None if there is none."""
        ...

    async def changed(self, timeout: float) -> bool:
        """Wait until the leader may have changed; False after `timeout` seconds.

        It has also changed when the ttl of the leader that the last `campaign` returned may be over: a candidate that
        waits does not ask in between. The hint "leader" tells of a resignation as well.
        """
        ...

    async def close(self) -> None:
        """Close the connections. The leadership, if held, ends with its ttl."""
        ...
