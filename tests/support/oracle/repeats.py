"""Calls that come again: the caller repeats one whose answer was lost, or an earlier one arrives late."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

from .known import Made, ignored

REMEMBERED = 60
"""Seconds for which each store remembers an answer, and an incarnation that has ended."""
_KEPT = 40
"""Calls that can still arrive late."""
_MAY_BE_LATE = {"claim_on_hint", "commit", "renew", "put_schedule", "remove_schedule", "cancel", "run_now"}
"""Verbs of which an earlier call can arrive after a later one: it waited on a connection that its caller has left."""
UNLIKE_AGAIN = {"leave"}
"""Verbs whose repeated call tells less than the first one."""


@dataclass(frozen=True)
class Sent:
    """A call that was made."""

    made: Made
    at: float
    """When it was made, in elapsed seconds."""
    answer: Any = None
    """The first answer of the engine."""

    @property
    def caller(self) -> tuple[str, str]:
        return self.made.verb, self.made.incarnation


@dataclass
class Repeats:
    """The calls of a run that can come again."""

    _done: list[Sent] = field(default_factory=list[Sent])
    """Calls that can be sent again."""
    _sent: list[Sent] = field(default_factory=list[Sent])
    """The last calls that can arrive late."""

    def note(self, made: Made, at: float, answer: Any) -> None:
        """Keep a call that was made."""
        sent = Sent(made, at, answer)
        if not made.once and made.verb not in UNLIKE_AGAIN:
            self._done.append(sent)
        if made.verb in _MAY_BE_LATE:
            self._sent = [*self._sent, sent][-_KEPT:]

    def note_race(self, mades: Collection[Made], at: float) -> None:
        """Keep the calls of a race, which can be sent again."""
        self._done += [Sent(made, at) for made in mades if not made.once and made.verb not in UNLIKE_AGAIN]

    def again(self, back: int, now: float) -> Made | None:
        """An earlier call, if its caller has not sent a later one of that verb."""
        if len(self._done) < back:
            return None
        one = self._done[-back]
        later = self._done[len(self._done) - back + 1 :]
        if any(other.caller == one.caller for other in later) or now - one.at > REMEMBERED:
            return None
        return replace(one.made, learn=one.made.learn if one.made.want else ignored)

    def late(self, pick: int, now: float, ended: Collection[str], *, waits_on_server: bool) -> Sent | None:
        """An earlier call whose caller has sent a later one of that verb, or has ended."""
        callers = [sent.caller for sent in self._sent]
        late = [
            sent
            for number, sent in enumerate(self._sent)
            if now - sent.at <= REMEMBERED
            and (sent.made.verb != "claim_on_hint" or waits_on_server)
            and (sent.made.incarnation in ended if sent.made.verb == "renew" else sent.caller in callers[number + 1 :])
        ]
        if not late:
            return None
        sent = late[pick % len(late)]
        # the store remembers the answer to one request of a caller, so the present one cannot come again
        self._done = [one for one in self._done if one.caller != sent.caller]
        return replace(sent, made=replace(sent.made, learn=ignored))
