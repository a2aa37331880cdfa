"""What a namespace holds. The commands read and change it; `copy.deepcopy` makes an independent copy."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import msgspec

from peerjob.model.audit import AuditRecord
from peerjob.model.durable import Wait, When
from peerjob.model.firing import FireRecord, Leader
from peerjob.model.published import KindDescriptor
from peerjob.model.record import (
    MAX_CRASHES,
    Hint,
    Instruction,
    LogLine,
    NodeInfo,
    Record,
    Transition,
    Want,
    is_suspect,
)
from peerjob.model.state import State
from peerjob.model.stored_limit import LimitNumbers
from peerjob.store.rules import LAYOUT


@dataclass(kw_only=True)
class InstanceData:
    """One instance, from its enqueue until it is removed."""

    id: str
    kind: str
    spec: bytes
    priority: int
    due_us: int
    created_us: int
    key: str | None = None
    tags: tuple[str, ...] = ()
    retention_us: int | None = None
    max_crashes: int = MAX_CRASHES
    state: State = State.UNSET
    history: list[Transition] = field(default_factory=list[Transition])
    attempts: int = 0
    crashes: int = 0
    losses: int = 0
    fence: int = 0
    owner: str = ""
    """The incarnation that holds the claim, that still runs the cancelled instance, or whose outcome ended it."""
    started: bool = False
    """Whether the owner reported that the body has started."""
    releasing: bool = False
    """Whether the instance is cancelled, and the owner has not reported the end of its body."""
    expires_us: int = 0
    """When the retention of the final instance ends."""
    slot: str = ""
    """The schedule whose slot the instance holds or waits for."""
    limit_key: str = ""
    key_concurrency: int = 0
    queued_us: int = 0
    """Orders the queue within a priority: the due time, or the time at which its key admitted it."""
    result: bytes | None = None
    error: bytes | None = None
    progress: bytes | None = None
    logs: list[LogLine] = field(default_factory=list[LogLine])
    logged: int = 0
    """How many lines were appended; the last one in `logs` has the number `logged - 1`."""
    dropped: int = 0
    """How many of them were dropped at the limit."""
    steps: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """Steps and signals by stored name."""
    wait: Wait | None = None
    """What the instance waits for, until its claim or until a signal or its needs end the wait."""
    former_due_us: int = 0
    """The due time before a wait with a time."""
    needs: set[str] = field(default_factory=set[str])
    """The children that are not over, of those that were needed under this fence."""
    parent: str = ""
    open: bool = False
    """Whether the instance is a child that gets more needs."""
    has_children: bool = False
    """Whether the instance has ever made a child."""

    @property
    def suspect(self) -> bool:
        """Whether the instance may have killed nodes, so that it is claimed alone."""
        return is_suspect(self.crashes, self.losses)

    @property
    def held(self) -> bool:
        """Whether an incarnation holds the claim, or has not released the cancelled instance."""
        return self.state is State.PROCESSING or self.releasing

    @property
    def over(self) -> bool:
        """Whether the instance is final and its body has ended: its key and its slot are free."""
        return self.state.is_final and not self.releasing

    def waits(self, now_us: int) -> bool:
        """Whether the instance waits. A wait whose time has come is over."""
        wait = self.wait
        return wait is not None and (wait.until_us is None or wait.until_us > now_us)


@dataclass(frozen=True)
class Edge:
    """An instance needs another one, under a fence."""

    dependant: str
    fence: int
    when: When


@dataclass(kw_only=True)
class NodeData:
    """One incarnation. After its end, it stays for an hour, so that a late join does not bring it back."""

    info: NodeInfo
    ttl_us: int = 0
    expires_us: int = 0
    running: int = 0
    instruction: Instruction | None = None
    idle: Want | None = None
    """The last claim, if it found nothing and no hint about work was sent since."""
    hints: list[Hint] = field(default_factory=list[Hint])
    """Hints that the node has not read yet."""
    hears_changes_until_us: int = 0
    ended: str = ""
    """"left" or "dead"; "" while the incarnation lives, even if its lease has expired."""
    ended_us: int = 0
    suspect_ran: bool = False
    """Whether a suspect ran on the node when it died, so that only suspects are charged."""
    charged: set[str] = field(default_factory=set[str])
    """Instances that were charged with a crash because the node died."""
    forgiven: bool = False
    """Whether the process of the node turned out to be alive, so that its death charges no crash."""

    def alive(self, now_us: int) -> bool:
        """Whether the incarnation has not ended, and its lease has not expired."""
        return not self.ended and self.expires_us >= now_us


@dataclass(kw_only=True)
class LedgerEntry:
    """One record of a ledger, with the requests of the fires that wrote it."""

    record: FireRecord
    requests: list[str] = field(default_factory=list[str])


@dataclass(kw_only=True)
class ScheduleData:
    """One schedule and its ledger. Its slot is in `Namespace.slots`, since instances outlive their schedule."""

    name: str
    kind: str
    definition: bytes
    revision: int
    next_us: int | None
    paused: bool
    note: str
    created_us: int
    updated_us: int
    last_us: int
    trimmed_us: int
    ledger: dict[tuple[int, int, str], LedgerEntry] = field(default_factory=dict[tuple[int, int, str], LedgerEntry])
    """Entries by position; see `ledger.position_of`."""
    stretch: tuple[int, int, str] | None = None
    """The position of the last entry, if the last nominal times made no instance: the next ones can join it."""


@dataclass
class Remembered:
    """The answer to a request, for the same request again."""

    request: str
    answer: object
    until_us: int


@dataclass(kw_only=True)
class PublishedKind:
    """A kind of the catalogue, with its descriptors, the latest published first."""

    until_us: int
    descriptors: list[KindDescriptor] = field(default_factory=list[KindDescriptor])


@dataclass(kw_only=True)
class LimitData:
    """A shared limit."""

    code: LimitNumbers = field(default_factory=LimitNumbers)
    setting: LimitNumbers | None = None
    note: str = ""
    tat_us: int = 0
    """The theoretical arrival time of the next claim, by the rate."""
    closed_us: int = 0
    """Until when the limit is throttled."""
    told: str = ""
    """The incarnation that claims again at `told_us`, when the limit opens."""
    told_us: int = 0

    @property
    def numbers(self) -> LimitNumbers:
        """The numbers that count."""
        return self.code if self.setting is None else self.setting.over(self.code)


@dataclass(kw_only=True)
class LimitsOfKind:
    """What limits a kind."""

    names: tuple[str, ...] = ()
    """Its shared limits."""
    key_concurrency: int = 0
    own_concurrency: int = 0
    """The setting for its keys; 0: that of the code counts."""
    note: str = ""
    paused: bool = False
    reason: str = ""


@dataclass(kw_only=True)
class KeyData:
    """A key of a kind that has instances."""

    concurrency: int
    admitted: list[str] = field(default_factory=list[str])
    """The instances in the queue or claimed, in the order of their admission."""
    waiting: list[tuple[int, int, str]] = field(default_factory=list[tuple[int, int, str]])
    """(priority, due time, id) of the others: a sorted list."""


@dataclass(kw_only=True)
class Namespace:
    """All data of one namespace."""

    instances: dict[str, InstanceData] = field(default_factory=dict[str, InstanceData])
    keys: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    """Kind and unique key → the instance that has the key and is not over."""
    removed: dict[str, int] = field(default_factory=dict[str, int])
    """Id of a removed instance → until when the same enqueue may come again."""
    last_fence: int = 0
    max_instances: int | None = None
    """From this number of instances on, the store takes no new ones."""
    undecodable: int = 0

    # the queues: sorted lists
    ready: dict[str, list[tuple[int, int, str]]] = field(default_factory=dict[str, list[tuple[int, int, str]]])
    """Kind → (priority, `queued_us`, id) of its claimable instances."""
    delayed: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    """(due time, id) of the instances that no claim has found due yet."""
    expiring: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    """(end of the retention, id) of the instances that are over."""
    slots: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Schedule → the instance that holds its slot, then those that wait for it, in no queue."""

    edges: dict[str, list[Edge]] = field(default_factory=dict[str, list[Edge]])
    """Instance that is not over → what needs it."""
    children: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Parent that is not final → its children, which are held."""

    layout: int = LAYOUT
    shared_limits: dict[str, LimitData] = field(default_factory=dict[str, LimitData])
    kind_rules: dict[str, LimitsOfKind] = field(default_factory=dict[str, LimitsOfKind])
    limit_keys: dict[tuple[str, str], KeyData] = field(default_factory=dict[tuple[str, str], KeyData])
    """Kind and key → the instances of the key that are not delayed and not over."""

    nodes: dict[str, NodeData] = field(default_factory=dict[str, NodeData])
    watchers: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    """Instance → the incarnations that wait for its end."""
    answers: dict[tuple[str, str], Remembered] = field(default_factory=dict[tuple[str, str], Remembered])
    """Caller and command → the last answer."""

    schedules: dict[str, ScheduleData] = field(default_factory=dict[str, ScheduleData])
    revision: int = 0
    removals: dict[str, int] = field(default_factory=dict[str, int])
    """Removed schedule → the revision of its removal; the last MAX_REMOVALS of them."""
    floor: int = 0
    """The latest revision of a removal that is no longer remembered."""
    terms: dict[str, int] = field(default_factory=dict[str, int])
    """Coordinator → the highest term of it that the store has seen."""
    leader: Leader | None = None
    leads_until_us: int = 0

    kinds: dict[str, PublishedKind] = field(default_factory=dict[str, PublishedKind])
    audit: list[AuditRecord] = field(default_factory=list[AuditRecord])
    activity: dict[int, bytes] = field(default_factory=dict[int, bytes])
    """Position in the ring of slots → sample."""

    def held_by(self, incarnation: str) -> list[InstanceData]:
        """The claims of an incarnation, with the cancelled instances that it has not released."""
        return [instance for instance in self.instances.values() if instance.held and instance.owner == incarnation]


def to_record(instance: InstanceData) -> Record:
    """An instance as readers see it."""
    record = msgspec.convert(instance, Record, from_attributes=True)
    return msgspec.structs.replace(
        record, owner="" if instance.releasing else instance.owner, has_steps=bool(instance.steps)
    )


def wants(want: Want, kinds: Collection[str]) -> bool:
    """Whether a claim can take one of some kinds."""
    return any(want.kinds.get(kind, 0) > 0 for kind in kinds)
