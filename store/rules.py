"""Rules that are the same in each engine: the layout of a namespace, and limits, texts and checks of fires.

The layout of a namespace decides which releases may write it. A release with incompatible transitions raises the
number. Every transaction that writes compares it, so a node of another release changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from peerjob.model.errors import LayoutError, OptionError
from peerjob.model.firing import MAX_SCHEDULES, Fire, FireOutcome
from peerjob.model.listed import listed
from peerjob.model.record import DIGEST_SIZE, NodeInfo, digest_share
from peerjob.model.state import State
from peerjob.model.stored_limit import MAX_LIMIT_KINDS, KindLimits, LimitSetting, LimitSupport

LAYOUT = 2
"""The layout of a new namespace. Layout 1 was written before version 0.1 and cannot be read."""
LIMITS_LAYOUT = 3
"""The layout of a namespace that has used limits. `check_readers` tells when a namespace gets it."""
FLOWS_LAYOUT = 4
"""The layout of a namespace that has used steps, signals or children. It includes LIMITS_LAYOUT."""
READS_LAYOUT = 4
"""The highest layout that this release can work with. Each node tells it: `NodeInfo.reads_layout`."""
MAX_REMOVALS = 1_000
"""The store remembers this many removals of schedules; a reader that missed more removals loads all schedules again."""
STILL_RUNS = "an earlier instance is not over"
QUEUE_FULL = "the queue is full"
KEY_TAKEN = "the key is taken"
"""STILL_RUNS, QUEUE_FULL and KEY_TAKEN are the reasons in the record of a fire that the store skipped."""
REPLACED = "replaced by a later fire"
"""The note of an instance that a later fire cancelled, because the schedule has the overlap policy REPLACE."""
SUSPENDED = "suspended"
"""The note of an instance that a SUSPEND without a note made Scheduled."""
PARENT_ENDED = "its parent ended"
"""The note of a child that was cancelled because its parent is final."""

_MAKES_INSTANCE = (FireOutcome.FIRED, FireOutcome.BACKFILLED, FireOutcome.TRIGGERED)


def need_failed(id: str, state: State | None) -> str:
    """The note of an instance that was cancelled because a child that it needs did not complete; None: it is gone."""
    return f"needs {id}, which " + ("is gone" if state is None else f"ended {state}")


def check_layout(layout: str, *, namespace: str, url: str) -> None:
    """Raise LayoutError unless this release can work with the layout of a namespace."""
    number = int(layout) if layout.isascii() and layout.isdigit() else None
    if number is not None and LAYOUT <= number <= READS_LAYOUT:
        return
    if number is not None and number < LAYOUT:
        cure = f"it was written before release 0.1: remove it with `jobd clear --namespace {namespace}`"
    else:
        cure = "a newer release writes it: upgrade this node"
    raise LayoutError(
        f"namespace {namespace!r} at {url} has layout {layout}, this release reads up to {READS_LAYOUT}; {cure}",
        found=number,
        known=READS_LAYOUT,
    )


def check_readers(live: Iterable[NodeInfo], layout: int, what: str, *, namespace: str, url: str) -> None:
    """Raise LayoutError if a live node cannot work with the layout that `what` needs.

    The step that raises the layout calls this for all live incarnations, so no node of an older release works on.
    """
    names = sorted({node.name for node in live if node.reads_layout < layout})
    if names:
        raise layout_refused(names, layout, what, namespace=namespace, url=url)


def layout_refused(names: Sequence[str], layout: int, what: str, *, namespace: str, url: str) -> LayoutError:
    """The error that names the nodes because of which a namespace keeps its layout."""
    return LayoutError(
        f"{what} need layout {layout} in namespace {namespace!r} at {url}, but these nodes read only an older layout: "
        f"{listed(names)}; update peerjob on all nodes first, then use {what}",
        known=layout,
        nodes=names,
    )


def check_fires(fires: Sequence[Fire]) -> None:
    """Raise ValueError if the call is too large, or if a fire has an instance that does not fit its outcome."""
    check_count(fires, "fires")
    for fire in fires:
        if (fire.instance is None) == (fire.outcome in _MAKES_INSTANCE):
            needed = "needs an instance" if fire.instance is None else "takes no instance"
            raise ValueError(f"fire of {fire.schedule!r}: the outcome {fire.outcome.value!r} {needed}")


def check_count(items: Sequence[object], what: str) -> None:
    """Raise ValueError if one call has too many schedules or fires."""
    if len(items) > MAX_SCHEDULES:
        raise ValueError(f"a call holds at most {MAX_SCHEDULES} {what}, got {len(items)}")


def check_published(limits: KindLimits, support: LimitSupport) -> None:
    """Raise OptionError for limits of a kind that a store cannot count."""
    for shared in limits.shared:
        _check_concurrency(f"limit {shared.name!r}", shared.numbers.concurrency, support)
    _check_concurrency(f"the key limit of kind {limits.kind!r}", limits.key_concurrency, support)


def check_setting(setting: LimitSetting, support: LimitSupport) -> None:
    """Raise OptionError for a setting that a store cannot count."""
    what = f"limit {setting.name!r}" if setting.name else f"the key limit of kind {setting.kind!r}"
    _check_concurrency(what, setting.numbers.concurrency, support)


def _check_concurrency(what: str, concurrency: int, support: LimitSupport) -> None:
    if concurrency > support.max_concurrency:
        raise OptionError(f"concurrency of {what}", concurrency, f"at most {support.max_concurrency:,} on this store")


def check_kinds_of_limit(name: str, kinds: int) -> None:
    """Raise OptionError if too many kinds share a limit."""
    if kinds > MAX_LIMIT_KINDS:
        raise OptionError("limits", name, f"a limit that at most {MAX_LIMIT_KINDS} kinds share")


def digest(fences: Iterable[int]) -> int:
    """Return a number that node and store compare, to check whether they know the same claims."""
    return sum(map(digest_share, fences)) % DIGEST_SIZE
