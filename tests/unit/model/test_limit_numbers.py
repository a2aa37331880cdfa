"""The numbers of a rate when the clock that counts is set forward or back."""

from hypothesis import given
from hypothesis import strategies as st

from peerjob.model.stored_limit import STALE_US, LimitNumbers

NUMBERS = st.builds(LimitNumbers, period_us=st.integers(1, 10**8), burst=st.integers(1, 100))
TIMES = st.integers(0, 10**12)
MOVES = st.tuples(st.integers(0, 10**9), st.one_of(st.just(0), st.integers(1, 10**12)))
"""A wait, and a step of the clock forward; both in microseconds."""


@given(NUMBERS, TIMES, TIMES)
def test_a_rate_waits_at_most_a_minute_longer_when_the_clock_was_set_back(
    numbers: LimitNumbers, now_us: int, back_us: int
) -> None:
    tat_us = numbers.tat_after(0, now_us + back_us, numbers.burst)
    latest_us = now_us + STALE_US + numbers.period_us
    assert numbers.starts_at(tat_us, now_us) or numbers.starts_at(tat_us, latest_us)


@given(NUMBERS, st.lists(MOVES, max_size=20))
def test_each_step_of_the_clock_forward_allows_at_most_one_more_burst(
    numbers: LimitNumbers, moves: list[tuple[int, int]]
) -> None:
    now_us, tat_us, waited_us, steps = 10**15, 0, 0, 0
    claims = numbers.starts_at(tat_us, now_us)
    tat_us = numbers.tat_after(tat_us, now_us, claims)
    for wait_us, step_us in moves:
        now_us, waited_us, steps = now_us + wait_us + step_us, waited_us + wait_us, steps + (step_us > 0)
        given_now = numbers.starts_at(tat_us, now_us)
        tat_us = numbers.tat_after(tat_us, now_us, given_now)
        claims += given_now
        assert (claims - numbers.burst * (1 + steps)) * numbers.period_us <= waited_us
