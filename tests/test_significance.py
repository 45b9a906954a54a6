"""The tests behind "forgotten" against scipy, and what they could have shown against all outcomes tried."""

import math
from itertools import product

import pytest
from scipy.stats import fisher_exact, ttest_ind_from_stats

from vla_cl.metrics.significance import (
    Cell,
    fisher,
    holm,
    holm_level,
    smallest_visible_mean,
    smallest_visible_share,
    welch,
)


@pytest.mark.parametrize(("of", "of_other"), [(1, 1), (3, 5), (6, 6), (20, 20), (20, 7)])
def test_fisher_is_scipys(of, of_other):
    for one, other in product(range(of + 1), range(of_other + 1)):
        expected = fisher_exact([[one, of - one], [other, of_other - other]]).pvalue
        assert fisher(Cell(one / of, of), Cell(other / of_other, of_other)) == pytest.approx(expected, rel=1e-9)


def test_twenty_of_twenty_to_fifteen_is_beyond_chance_alone_and_not_beside_another():
    p = fisher(Cell(1.0, 20), Cell(0.75, 20))
    assert p == pytest.approx(0.0471, abs=1e-4)
    assert holm([p, 0.9])[0] > 0.05


@pytest.mark.parametrize(
    ("one", "other"),
    [((0.5, 0.1, 5), (0.3, 0.2, 9)), ((0.0, 0.0, 4), (1.0, 0.5, 4)), ((2.0, 1e-9, 3), (2.0, 3e-9, 3))],
)
def test_welch_is_scipys(one, other):
    cells = [Cell(mean, count, spread) for mean, spread, count in (one, other)]
    expected = ttest_ind_from_stats(*one, *other, equal_var=False).pvalue
    assert welch(*cells) == pytest.approx(expected)


@pytest.mark.parametrize("cell", [Cell(0.5, 1, 0.1), Cell(0.5, 5), Cell(0.5, 5, 0.0)])
def test_without_a_spread_there_is_no_test(cell):
    assert math.isnan(welch(cell, Cell(0.3, 5, 0.0)))
    assert math.isnan(smallest_visible_mean(cell, Cell(0.3, 5, 0.0), 0.05))


def test_holm_as_its_paper_has_it():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("others", [[], [0.5], [0.001], [0.001, 0.02, 0.9], [0.012, 0.012, 0.012]])
def test_the_level_beside_others_is_where_holm_begins_to_reject(others):
    level = holm_level(others)
    assert holm([level * (1 - 1e-9), *others])[0] <= 0.05
    assert holm([level * (1 + 1e-6), *others])[0] > 0.05


def test_what_six_episodes_could_have_shown():
    """From 6 of 6 only a fall to 1 of 6 or less; from 3 of 6 none."""
    assert smallest_visible_share(Cell(1.0, 6), 6, 0.05, sign=1) == pytest.approx(5 / 6)
    assert smallest_visible_share(Cell(0.5, 6), 6, 0.05, sign=1) == math.inf
    assert smallest_visible_share(Cell(0.0, 6), 6, 0.05, sign=-1) == pytest.approx(5 / 6)  # an error rate that rises


def test_a_difference_of_means_that_could_just_be_shown_has_the_level_as_its_p_value():
    before, after = Cell(1.0, 8, 0.3), Cell(0.2, 12, 0.5)
    visible = smallest_visible_mean(before, after, 0.02)
    assert welch(before, Cell(1.0 - visible, 12, 0.5)) == pytest.approx(0.02)
