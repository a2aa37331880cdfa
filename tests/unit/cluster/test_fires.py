"""The fire that a decision of the misfire policy becomes."""

import pytest

from peerjob.cluster.fires import fire_of
from peerjob.cluster.misfire import MisfireStep
from peerjob.model.definition import Definition
from peerjob.model.firing import FireOutcome
from peerjob.testing.clock import VirtualClock

SECOND = 1_000_000


@pytest.mark.parametrize(("missed", "until"), [(1, 0), (2, 2), (5, 5)])
def test_only_a_stretch_of_several_times_has_an_end(clock: VirtualClock, missed: int, until: int) -> None:
    definition = Definition(kind="k", spec=b"", every_us=SECOND, anchor_us=0)
    step = MisfireStep(
        outcome=FireOutcome.MISSED,
        nominal_us=SECOND,
        until_us=missed * SECOND,
        count=missed,
        next_us=(missed + 1) * SECOND,
    )
    fire = fire_of(step, definition, schedule="s", revision=1, id="id", clock=clock)
    assert (fire.nominal_us, fire.until_us, fire.count) == (SECOND, until * SECOND, missed)
