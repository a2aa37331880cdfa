"""The metadata of a trigger: the kinds that count, and the number of jobs for each node."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from peerjob.model.errors import OptionError

FOR_KEDA = frozenset({"scalerAddress", "enableTLS", "unsafeSsl", "tlsCertFile", "insecureSkipVerify"})
"""Options of a trigger that configure KEDA itself. KEDA also sends them to the scaler, which ignores them."""
FROM_ENVIRONMENT = "FromEnv"
"""The suffix of a name whose value KEDA took from the environment of the scaled container."""


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """The metadata of a trigger, checked."""

    kinds: tuple[str, ...] = ()
    """The kinds whose jobs count; an empty tuple means all kinds."""
    jobs_per_replica: float
    activation_jobs: float = 0.0
    """KEDA starts a target that is scaled to zero if there are more jobs than this number."""
    include_delayed: bool = False
    """Whether to count jobs that are not due yet, and jobs that wait for another instance of their schedule."""

    def active(self, jobs: int) -> bool:
        """Whether there are enough jobs to start a target that is scaled to zero."""
        return jobs > self.activation_jobs


def read_trigger(metadata: Mapping[str, str], workers: int) -> Trigger:
    """Check metadata; raises OptionError that names the bad value. `workers` is the default of jobsPerReplica."""
    given = {name.removesuffix(FROM_ENVIRONMENT): value for name, value in metadata.items() if name not in FOR_KEDA}
    kinds = _kinds(given.pop("kinds", None))
    per_replica = given.pop("jobsPerReplica", None)
    if per_replica is None and not workers:
        raise OptionError("jobsPerReplica", "none", "a number, as the node that answers has no workers of its own")
    trigger = Trigger(
        kinds=kinds,
        jobs_per_replica=workers if per_replica is None else _number("jobsPerReplica", per_replica, least=0.001),
        activation_jobs=_number("activationJobs", given.pop("activationJobs", "0"), least=0),
        include_delayed=_flag("includeDelayed", given.pop("includeDelayed", "false")),
    )
    for name in given:
        raise OptionError("metadata", name, "kinds, jobsPerReplica, activationJobs or includeDelayed")
    return trigger


def _kinds(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    kinds = tuple(dict.fromkeys(kind.strip() for kind in text.split(",")))
    if not all(kinds):
        raise OptionError("kinds", text, "names of kinds with commas between them; leave it out for all kinds")
    return kinds


def _number(name: str, text: str, *, least: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not least <= number < math.inf:
        raise OptionError(name, text, f"a number of {least:g} or more")
    return number


def _flag(name: str, text: str) -> bool:
    match text.strip().casefold():
        case "true":
            return True
        case "false":
            return False
        case _:
            raise OptionError(name, text, "true or false")
