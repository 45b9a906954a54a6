"""Dot products of long gradients, against float64."""

import numpy as np
import pytest
import torch

from vla_cl.methods.gradient_vectors import SUMMED, GradientRows


def filled(lengths, seed, spread):
    """Rows that nearly point the same way, and a gradient of the same shapes."""
    generator = np.random.default_rng(seed)
    parameters = [torch.zeros(length) for length in lengths]
    rows = GradientRows(4, parameters)
    common = [generator.standard_normal(length) for length in lengths]
    for row in range(4):
        near = [c + spread * generator.standard_normal(len(c)) for c in common]
        rows.write(row, [torch.from_numpy(part).float() for part in near])
    return rows, [torch.from_numpy(part).float() for part in common]


@pytest.mark.parametrize("lengths", [(5,), (SUMMED,), (3, 2 * SUMMED + 7, SUMMED - 1), (4_000_000, 10)])
def test_products_of_long_gradients_have_the_digits_of_float64(lengths):
    rows, gradient = filled(lengths, seed=0, spread=1e-2)
    exact = rows.matrix.double().numpy()
    vector = torch.cat(gradient).double().numpy()
    np.testing.assert_allclose(rows.gram().numpy(), exact @ exact.T, rtol=1e-6)
    np.testing.assert_allclose(rows.products(rows.flat(gradient)).numpy(), exact @ vector, rtol=1e-6)


def test_a_missing_gradient_counts_as_zero():
    rows, gradient = filled((6, 9), seed=1, spread=1.0)
    exact = rows.matrix[:, 6:].double() @ gradient[1].double()
    torch.testing.assert_close(rows.products(rows.flat([None, gradient[1]])), exact)


def test_rows_are_added_each_times_its_factor_but_not_to_a_missing_gradient():
    rows, gradient = filled((6, 9), seed=1, spread=1.0)
    factors = torch.tensor([0.5, -2.0, 0.0, 3.0], dtype=torch.float64)
    added = torch.ones(15)
    rows.add_to(added, factors)
    torch.testing.assert_close(added, (1 + factors @ rows.matrix.double()).float())
    wanted = gradient[1] + added[6:]
    rows.add_parts(added, [None, gradient[1]])
    assert torch.equal(gradient[1], wanted)
