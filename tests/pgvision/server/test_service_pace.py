"""Who is refused is told when to come again, by how fast requests are really answered."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgvision.server.pace import LONGEST, Pace


def paced(gap, count, start=100.0):
    pace = Pace()
    pace.begin(start)
    for number in range(1, count + 1):
        pace.end(start + number * gap)
    return pace, start + count * gap


@pytest.mark.parametrize("gap", [0.025, 0.5, 2.0])
def test_refused_ones_come_back_as_fast_as_work_is_done(gap):
    pace, now = paced(gap, 200)
    waits = [pace.seconds_to_wait(8, now) for _ in range(12)]
    expected = [(8 + number) * gap for number in range(12)]
    assert waits == [min(LONGEST, max(1, math.ceil(round(one, 6)))) for one in expected]


def test_a_pause_is_not_taken_for_slowness():
    pace, now = paced(0.1, 50)
    pace.begin(now + 3600)
    pace.end(now + 3600.1)
    assert pace.seconds_to_wait(10, now + 3600.1) == 1


def test_a_model_that_has_answered_nothing_yet_is_found_out():
    pace = Pace()
    pace.begin(50.0)
    assert pace.seconds_to_wait(64, 50.01) == 1
    assert pace.seconds_to_wait(64, 60.0) == LONGEST


def test_promises_pass_as_time_goes_by():
    pace, now = paced(0.5, 200)
    assert [pace.seconds_to_wait(4, now) for _ in range(100)][-1] == LONGEST
    for number in range(1, 61):  # work goes on, and nobody is refused meanwhile
        pace.end(now + number * 0.5)
    assert pace.seconds_to_wait(4, now + 30.0) == 2


@given(
    gaps=st.lists(st.floats(0.0, 1e4), max_size=80),
    asked=st.lists(st.tuples(st.integers(1, 10_000), st.floats(0.0, 100.0)), max_size=50),
)
def test_it_is_always_a_whole_number_of_seconds_within_bounds(gaps, asked):
    pace, now = Pace(), 0.0
    pace.begin(now)
    for gap in gaps:
        now += gap
        pace.end(now)
    for inside, pause in asked:
        now += pause
        assert 1 <= pace.seconds_to_wait(inside, now) <= LONGEST
