"""Who is refused is told when to come again, by how fast requests are really answered."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgvision.server.middleware import LONGEST_RETRY, RateEstimate


def paced(gap, count, start=100.0):
    rate = RateEstimate()
    rate.start(start)
    for number in range(1, count + 1):
        rate.finish(start + number * gap)
    return rate, start + count * gap


@pytest.mark.parametrize("gap", [0.025, 0.5, 2.0])
def test_refused_ones_come_back_as_fast_as_work_is_done(gap):
    rate, now = paced(gap, 200)
    waits = [rate.retry_after(8, now) for _ in range(12)]
    expected = [(8 + number) * gap for number in range(12)]
    assert waits == [min(LONGEST_RETRY, max(1, math.ceil(round(one, 6)))) for one in expected]


def test_a_pause_is_not_taken_for_slowness():
    rate, now = paced(0.1, 50)
    rate.start(now + 3600)
    rate.finish(now + 3600.1)
    assert rate.retry_after(10, now + 3600.1) == 1


def test_a_model_that_has_answered_nothing_yet_is_found_out():
    rate = RateEstimate()
    rate.start(50.0)
    assert rate.retry_after(64, 50.01) == 1
    assert rate.retry_after(64, 60.0) == LONGEST_RETRY


def test_promises_pass_as_time_goes_by():
    rate, now = paced(0.5, 200)
    assert [rate.retry_after(4, now) for _ in range(100)][-1] == LONGEST_RETRY
    for number in range(1, 61):  # work goes on, and nobody is refused meanwhile
        rate.finish(now + number * 0.5)
    assert rate.retry_after(4, now + 30.0) == 2


@given(
    gaps=st.lists(st.floats(0.0, 1e4), max_size=80),
    asked=st.lists(st.tuples(st.integers(1, 10_000), st.floats(0.0, 100.0)), max_size=50),
)
def test_it_is_always_a_whole_number_of_seconds_within_bounds(gaps, asked):
    rate, now = RateEstimate(), 0.0
    rate.start(now)
    for gap in gaps:
        now += gap
        rate.finish(now)
    for inside, pause in asked:
        now += pause
        assert 1 <= rate.retry_after(inside, now) <= LONGEST_RETRY
