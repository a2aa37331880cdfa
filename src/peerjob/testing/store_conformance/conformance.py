"""All parts of the suite in one class."""

from .activity import ActivityRules
from .audit import AuditRules
from .batches import BatchRules
from .cancel import CancelRules
from .catalogue import CatalogueRules
from .changes import ChangeRules
from .descriptors import DescriptorRules
from .election import ElectionRules
from .enqueue import EnqueueRules
from .fields import FieldRules
from .fires import FiringRules, TermRules
from .hinted_claims import HintedClaimRules
from .hints import HintRules
from .history import HistoryRules
from .idempotency import IdempotencyRules
from .idle_nodes import IdleRules
from .instructions import InstructionRules
from .isolation import IsolationRules
from .kinds import KindRules
from .ledger import LedgerRules
from .limits import LimitRules
from .liveness import LivenessRules
from .logs import LogRules
from .lookups import ReadingRules
from .order import OrderRules
from .overlap import OverlapRules
from .ownership import OwnershipRules
from .queue import QueueRules
from .rates import RateRules
from .replacement import ReplacingRules
from .residue import ResidueRules
from .retention import RetentionRules
from .row_fields import RowFieldRules
from .run_now import RunNowRules
from .schedules import ScheduleRules
from .shared_limits import SharedLimitRules
from .slot_handover import PassingRules
from .suspects import SuspectRules
from .walk import RandomWalks


class StoreConformance(
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
    SharedLimitRules,
    RateRules,
    BatchRules,
    RandomWalks,
):
    """Every rule of the contract in `peerjob.store.base`; a subclass provides `make_store`."""
