"""All parts of the suite in one class."""

from __future__ import annotations

from functools import cached_property
from typing import Unpack

from msgspec.structs import replace

from peerjob.model.record import NewInstance, StoreLimits
from peerjob.store.base import Store
from peerjob.testing.factories import Factory, InstanceOptions

from .activity import ActivityRules
from .audit import AuditRules
from .batches import BatchRules
from .cancel import CancelRules
from .catalogue import CatalogueRules
from .changes import ChangeRules
from .children import ChildRules
from .descriptors import DescriptorRules
from .durable_walk import DurableWalks
from .election import ElectionRules
from .enqueue import EnqueueRules
from .fields import FieldRules
from .fires import FiringRules, TermRules
from .flow_needs import FlowNeedRules
from .hinted_claims import HintedClaimRules
from .hints import HintRules
from .history import HistoryRules
from .holds import CascadeRules, HoldRules
from .idempotency import IdempotencyRules
from .idle_nodes import IdleRules
from .instructions import InstructionRules
from .isolation import IsolationRules
from .key_limits import KeyLimitRules
from .key_order import KeyOrderRules
from .key_races import KeyRaceRules
from .key_waits import KeyWaitRules
from .kinds import KindRules
from .ledger import LedgerRules
from .limits import LimitRules
from .liveness import LivenessRules
from .logs import LogRules
from .lookups import ReadingRules
from .needs import NeedRules
from .order import OrderRules
from .overlap import OverlapRules
from .ownership import OwnershipRules
from .queue import QueueRules
from .rates import RateRules
from .replacement import ReplacingRules
from .residue import ResidueRules
from .restoring import RestoreRules
from .retention import RetentionRules
from .row_fields import RowFieldRules
from .run_now import RunNowRules
from .schedules import ScheduleRules
from .shared_limits import SharedLimitRules
from .signals import SignalRules
from .slot_handover import PassingRules
from .steps import StepRules
from .suspects import SuspectRules
from .suspending import SuspendRules
from .walk import RandomWalks
from .ways import WayRules


class _RulesWithoutLimits(
    EnqueueRules,
    QueueRules,
    OrderRules,
    KindRules,
    LimitRules,
    HistoryRules,
    FieldRules,
    OwnershipRules,
    IdempotencyRules,
    LivenessRules,
    InstructionRules,
    SuspectRules,
    CancelRules,
    RunNowRules,
    HintRules,
    IdleRules,
    HintedClaimRules,
    ReadingRules,
    LogRules,
    RetentionRules,
    ResidueRules,
    IsolationRules,
    AuditRules,
    ActivityRules,
    CatalogueRules,
    DescriptorRules,
    ScheduleRules,
    RowFieldRules,
    ChangeRules,
    FiringRules,
    TermRules,
    LedgerRules,
    OverlapRules,
    PassingRules,
    ReplacingRules,
    ElectionRules,
    BatchRules,
    RandomWalks,
    StepRules,
    SignalRules,
    SuspendRules,
    ChildRules,
    NeedRules,
    HoldRules,
    CascadeRules,
    FlowNeedRules,
    RestoreRules,
    DurableWalks,
):
    """The rules that hold with and without limits."""


class StoreConformance(
    _RulesWithoutLimits,
    SharedLimitRules,
    RateRules,
    KeyLimitRules,
    KeyOrderRules,
    KeyRaceRules,
    KeyWaitRules,
    WayRules,
):
    """Every rule of the contract in `peerjob.store.base`; a subclass provides `make_store`."""


class KeyedConformance(_RulesWithoutLimits):
    """The rules again, with a key limit on each instance that is wide enough to change nothing."""

    @cached_property
    def make(self) -> Factory:
        return _KeyedFactory(self.clock)

    async def open(self, limits: StoreLimits | None = None, namespace: str | None = None) -> Store:
        """Open a store on a namespace that has a limit, because a kind without instances is paused."""
        store = await super().open(limits, namespace)
        await store.pause_kind(_UNUSED, True)
        return store

    async def assert_nothing_left(self, store: Store) -> None:
        await store.pause_kind(_UNUSED, False)
        assert await self.check_all(store) == 0
        await super().assert_nothing_left(store)


_UNUSED = "unused"


class _KeyedFactory(Factory):
    """Gives each instance one of 16 limit keys."""

    def instance(self, **options: Unpack[InstanceOptions]) -> NewInstance:
        new = super().instance(**options)
        return replace(new, limit_key=f"key {new.id[-1]}", key_concurrency=1_000)
