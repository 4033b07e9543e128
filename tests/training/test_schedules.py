import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridgen.errors import InputError
from hybridgen.training.schedules import Cosine

value = st.floats(0, 1e3)


@given(value, value, st.floats(0.01, 1))
def test_a_schedule_begins_at_its_start_and_stays_at_its_end_from_until_on(start, end, until):
    schedule = Cosine(start=start, end=end, until=until)
    assert schedule(0) == pytest.approx(start)
    for progress in (until, (until + 1) / 2, 1.0):
        assert schedule(progress) == pytest.approx(end, abs=1e-9)


def test_a_third_of_the_way_is_a_quarter_of_the_fall():
    schedule = Cosine(start=5.0, end=1.0, until=0.6)
    assert schedule(0.2) == pytest.approx(5 - 4 * 0.25)
    assert schedule(0.3) == pytest.approx(3.0)
    assert schedule(0.4) == pytest.approx(1 + 4 * 0.25)


@given(value, st.floats(0, 1))
def test_without_an_end_nothing_changes(start, progress):
    assert Cosine(start=start)(progress) == start


@given(value, value)
def test_the_greatest_value_is_at_one_of_the_ends(start, end):
    assert Cosine(start=start, end=end).greatest == max(start, end)
    assert Cosine(start=start).greatest == start


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_falling_schedule_never_rises(a, b):
    schedule = Cosine(start=2.0, end=0.0, until=0.7)
    assert schedule(max(a, b)) <= schedule(min(a, b)) + 1e-12


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"start": -1.0}, "finite values >= 0, got -1.0 and None"),
        ({"start": 1.0, "end": -0.1}, "got 1.0 and -0.1"),
        ({"start": math.nan}, "finite"),
        ({"start": 1.0, "end": math.inf}, "finite"),
        ({"start": 1.0, "until": 0.0}, r"\(0, 1\], got 0.0"),
        ({"start": 1.0, "until": 1.5}, r"\(0, 1\], got 1.5"),
    ],
)
def test_an_impossible_schedule_is_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        Cosine(**settings)
