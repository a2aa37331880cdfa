"""The part of the store contract about limits: what they mean for all commands, and the commands that change them.

A *shared limit* is a cap of the claim, as those of `Want.kinds`:

* The claim passes over a kind that is paused, or one of whose limits has no claims left. The instances stay in their
  queue, so no permit is kept elsewhere.
* A limit has claims left up to its concurrency, less the claimed instances of its kinds. Bodies of cancelled instances
  count until they end. The rate allows claims by GCRA (`LimitNumbers`).
* Only claims that are given use up a rate. Nothing gives them back. A repeated claim uses nothing.
* If claims of a full limit end, the command wakes idle nodes: at most as many as the limit has claims left, less those
  that the same turn goes on to claim.
* An enqueue to a paused kind, or to a limit that is full by its concurrency, wakes no node.
* If only time opens a limit, one idle node gets the moment (`Claimed.next_due_us`). An enqueue, and a claim that leaves
  work behind, wake one node if no live idle node has the moment.
* `Renewed.work_due` tells of no work that the limits hold back.
* A limit that cannot be read lets all pass, with an ERROR. The next claim of its kinds tells `Claimed.limits_missing`.

A *key limit* is a gate in front of the queue of its kind:

* An instance with a `limit_key` comes to the gate where it would enter the queue: when it is due, and after it has got
  the slot of its schedule.
* At most `concurrency` instances of a key are *admitted*: they are in the queue, or claimed. The others wait in no
  queue. No claim and no `work_due` sees them, `due` does not count them, and no node is woken for them.
* An instance leaves its key when its claim ends, or its body if it was cancelled, or when it leaves the queue without a
  claim. RETRY and SNOOZE leave the key. HAND_BACK, `leave` and `reap` leave it and come again, with the old due time.
* A key admits instances after all other effects of a command, and in a claim also after delayed instances have moved.
  While the key is not full, the next one is the best by priority, due time and id: of those that wait, and of those
  that this command brought.
* The queue is in the order of priority, due time and id. An instance that waited before this command has the time of
  its admission there instead of its due time. Its record keeps the due time.
* If an instance that came has a better priority than the one that the key admitted last, and that one is not claimed,
  the two change places.
* The concurrency of a key is that of the setting for the kind. Without a setting, it is the one that came with the last
  `enqueue` or `fire` of a due instance. Other instances bring theirs only to a key that has no instances.

The first use of a limit (`publish_limits` with one, `pause_kind`) raises the layout of the namespace to LIMITS_LAYOUT
in the same step. It raises LayoutError, with the names, if a live incarnation does not read that layout
(`NodeInfo.reads_layout`). On some stores, the first instance with a key does so, too. In a namespace without limits and
paused kinds, the other commands do nothing for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from peerjob.model.stored_limit import KeyLimitPage, KindLimits, LimitKey, LimitPage, LimitSetting


class Limits(Protocol):
    """The commands about limits."""

    async def publish_limits(self, limits: Sequence[KindLimits]) -> None:
        """Replace the limits of kinds, each kind once; at most MAX_BATCH. Adds the kinds to the catalogue.

        One transaction each. The numbers of a shared limit are those that were published last; its rate goes on from
        the present use. A kind that is published without limits has none from now on, and its instances that wait for a
        key are admitted as the key gets room. A shared limit without kinds and without a setting is gone. What may go
        on from now wakes idle nodes. The same call again changes nothing.

        Raises OptionError, with nothing stored for the kind, if a shared limit would have more than MAX_LIMIT_KINDS
        kinds, or a concurrency is above `Capabilities.limits`. Raises LayoutError. A call without a limit sends nothing
        to the server if this store has seen no LIMITS_LAYOUT in the namespace.
        """
        ...

    async def set_limit(self, setting: LimitSetting) -> bool:
        """Replace or remove the setting of a shared limit, or of the keys of a kind, in one transaction.

        False: nothing has this limit, and nothing is stored. A setting stays when its kinds are gone. Lower numbers end
        no claim and take no admission back. A shared limit with more room wakes idle nodes in the same transaction. The
        keys of a kind with more room admit instances in transactions of at most 500 keys, before the call returns; if
        the caller dies, `check_limits` goes on. Raises OptionError.
        """
        ...

    async def pause_kind(self, kind: str, paused: bool, note: str = "") -> None:
        """Pause a kind, or resume it, in one transaction: claims pass over a paused kind. Claimed instances go on.

        Fires and enqueues happen as before. The pause stays, also for a kind that nothing runs, until it is resumed.
        To resume wakes idle nodes. Raises LayoutError.
        """
        ...

    async def throttle(self, name: str, delay_us: int, *, shorten: bool = False) -> bool:
        """Close a shared limit until `delay_us` from now, by the clock that counts rates; False: no kind has the limit.

        A limit that is closed for longer stays so, unless `shorten`: then it opens after `delay_us`, with 0 at once. A
        closed limit gives no claims; claimed instances go on. A call that opens it wakes idle nodes.
        """
        ...

    async def limits(self, *, kind: str | None = None, cursor: str | None = None, limit: int = 100) -> LimitPage:
        """The shared limits by name, then the kinds that are paused or have a key limit, by name.

        With a kind: only its shared limits, and its own view. Reads the counters of at most `limit` limits, and is not
        for hot paths.
        """
        ...

    async def key_limits(
        self,
        kind: str,
        *,
        prefix: str = "",
        waiting_only: bool = False,
        cursor: str | None = None,
        limit: int = 500,
    ) -> KeyLimitPage:
        """A page of the keys of a kind that have admitted or waiting instances; a page may be short, even empty.

        Without prefix, the first page of all keys has a view with the key "" if unfinished instances have no key.
        """
        ...

    async def limit_keys(self, ids: Sequence[str]) -> list[LimitKey | None]:
        """The key of each instance; None for one that is unknown, final with its body ended, or without a key.

        At most MAX_BATCH. For an export, and to explain why an instance waits.
        """
        ...

    async def key_holders(self, kind: str, key: str) -> list[str]:
        """Up to MAX_HOLDERS instances that are admitted with this key. May read all keys of the kind, in pages."""
        ...

    async def check_limits(self, cursor: str | None = None) -> tuple[int, str | None]:
        """Check a page of 500 admissions; returns how many belonged to no instance, and the cursor of the next page.

        Frees these, and logs an ERROR. Lets each key of the page that has room admit instances. The last page also
        removes the published limits of kinds that have left the catalogue. Does nothing in a namespace without limits.
        """
        ...
