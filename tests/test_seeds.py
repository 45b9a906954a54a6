"""A metric over seeds, against formulas written out here."""

import math

import pytest

from vla_cl.metrics import Estimate
from vla_cl.metrics.seeds import over_seeds


def test_one_seed_keeps_the_interval_of_its_episodes():
    found = over_seeds([Estimate(0.5, 0.4, 0.65)], 0.0)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.4, 0.65))


def test_seeds_that_differ_have_students_interval():
    values = (0.2, 0.5, 0.8)
    found = over_seeds([Estimate(value, value - 0.01, value + 0.01) for value in values], -1.0)
    half = 4.302653 * 0.3 / math.sqrt(3)  # t(0.975; 2), standard deviation 0.3
    assert found.value == pytest.approx(0.5)
    assert found.low == pytest.approx(0.5 - half, abs=1e-6)
    assert found.high == 1.0  # 0.5 + half is above the range


def test_seeds_that_agree_have_the_interval_of_one_since_all_have_the_same_states():
    found = over_seeds([Estimate(1.0, 0.9, 1.0)] * 4, 0.0)
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 0.9, 1.0))


def test_the_range_is_kept():
    found = over_seeds([Estimate(0.0, 0.0, 0.3), Estimate(1.0, 0.7, 1.0), Estimate(1.0, 0.7, 1.0)], 0.0)
    assert (found.low, found.high) == (0.0, 1.0)


@pytest.mark.parametrize("values", [(0.1, 0.11), (0.0, 1.0)])
def test_two_seeds_have_no_interval_whether_they_agree_or_not(values):
    found = over_seeds([Estimate(value, max(0.0, value - 0.1), min(1.0, value + 0.1)) for value in values], 0.0)
    assert found.value == pytest.approx(sum(values) / 2)
    assert math.isnan(found.low) and math.isnan(found.high)
    assert found.why.startswith("two seeds: too few")


@pytest.mark.parametrize("position", [0, 1])
def test_undefined_stays_undefined(position):
    estimates = [Estimate(0.5, 0.4, 0.6)]
    estimates.insert(position, Estimate(math.nan, math.nan, math.nan))
    assert math.isnan(over_seeds(estimates, 0.0).value)


def test_a_value_without_interval_has_none_over_seeds_either():
    found = over_seeds([Estimate(0.5, math.nan, math.nan), Estimate(0.7, 0.6, 0.8)], 0.0)
    assert found.value == pytest.approx(0.6)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_no_seed_is_refused():
    with pytest.raises(ValueError, match="at least one seed"):
        over_seeds([], 0.0)
