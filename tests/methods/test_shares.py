"""Replay's share at any batch size, and what every term of a loss weighs, as the equation of the method's card says."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from linear_model import NEW, OLD, Alike, Linear, gradient, mean_gradient
from tiny_model import experience

from vla_cl.memory.mixing import Mixture
from vla_cl.methods.cama import ConfidenceAwareMovingAverage
from vla_cl.methods.der import DarkExperienceReplay
from vla_cl.methods.er import ExperienceReplay
from vla_cl.methods.generative_replay import GenerativeDistillation, GenerativeReplay
from vla_cl.methods.mir import MaximallyInterferedRetrieval
from vla_cl.training.learning import Processes
from vla_cl.types import ConfigurationError

SHARES = (Fraction(1, 6), Fraction(1, 5), Fraction(1, 4), Fraction(1, 2), Fraction(2, 3), Fraction(1))
SIZES = range(1, 9)
BEFORE, NOW = [0.2, 0.1, -0.4], [0.5, -0.3, 0.7]
"""Weights when the old task had been learnt, and in the steps."""


def after_a_task(kind, **options):
    method = kind(**options)
    method.attach(Linear(), train_seed=3)
    method.end_task(experience(0), Alike(OLD))
    method.begin_task(experience(1))
    method.model.move(NOW)
    return method


@pytest.mark.parametrize("mixing", ["added", "replaced"])
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("size", SIZES)
def test_on_average_over_the_steps_a_share_is_what_the_setting_says(mixing, share, size):
    mixture = Mixture(mixing, round(float(share), 6))
    wanted = share * size
    counts = [mixture.count(size, seed=1, step=step) for step in range(60)]
    for first in range(0, 60, share.denominator):
        assert sum(counts[first : first + share.denominator]) == wanted * share.denominator
    assert set(counts) <= {math.floor(wanted), math.ceil(wanted)}
    assert mixture.mean(size) == pytest.approx(float(wanted))
    assert mixture.most(size) == math.ceil(wanted)
    if mixing == "replaced":
        assert (sum(size - count for count in counts) > 0) == (share < 1)  # new data are seen at every size


def test_shares_of_whole_samples_are_the_same_in_every_step():
    for share, size, count in ((1.0, 64, 64), (0.5, 64, 32), (0.25, 8, 2), (2 / 3, 48, 32), (0.1, 10, 1), (8.0, 3, 24)):
        mixture = Mixture("added", share)
        assert {mixture.count(size, 0, step) for step in range(200)} == {count}
        assert mixture.mean(size) == count
        assert mixture.size_weight(size, count) == 1
    coin = Mixture("coin_flip", 0.2)
    counts = [coin.count(4, 0, step) for step in range(4000)]
    assert set(counts) == {0, 4}
    assert np.mean(counts) / 4 == pytest.approx(0.2, abs=4 * math.sqrt(0.2 * 0.8 / 4000))
    assert Mixture("replaced", 0.0).count(4, 0, 1) == 0
    with pytest.raises(ConfigurationError, match="must be 0 or at least 1e-05"):
        Mixture("replaced", 1e-7)


@pytest.mark.parametrize("kind", [ExperienceReplay, MaximallyInterferedRetrieval, GenerativeReplay])
@pytest.mark.parametrize("mixing", ["added", "replaced"])
@pytest.mark.parametrize("share", SHARES[:5])
@pytest.mark.parametrize("size", SIZES)
def test_the_mean_step_is_the_mean_loss_of_the_union(kind, mixing, share, size):
    method = after_a_task(kind, mixing=mixing, share=round(float(share), 6))
    found = mean_gradient(method, size, share.denominator)
    new, old = (1, share) if mixing == "added" else (1 - share, share)
    expected = (float(new) * gradient(NOW, NEW) + float(old) * gradient(NOW, OLD)) / float(new + old)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("refresh_every", [1, 3])
def test_mir_replays_its_share_whatever_a_choice_serves(refresh_every):
    method = after_a_task(MaximallyInterferedRetrieval, share=0.25, refresh_every=refresh_every)
    expected = 0.75 * gradient(NOW, NEW) + 0.25 * gradient(NOW, OLD)
    for size in SIZES:
        assert mean_gradient(method, size, 4) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mixing", ["added", "replaced"])
@pytest.mark.parametrize("share", SHARES[:5])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("alpha", "beta", "label_batch"),
    [(0.5, 0.0, "same"), (0.3, 0.7, "same"), (0.3, 0.7, "independent"), (0.0, 0.7, "same")],
)
def test_ders_terms_weigh_alpha_and_beta(label_batch, mixing, share, size, alpha, beta):
    settings = {"mixing": mixing, "share": round(float(share), 6), "label_batch": label_batch}
    method = after_a_task(DarkExperienceReplay, alpha=alpha, beta=beta, **settings)
    stored = float(np.asarray(BEFORE) @ OLD[0].numpy())
    expected = gradient(NOW, NEW) + alpha * gradient(NOW, OLD, wanted=stored) + beta * gradient(NOW, OLD)
    assert mean_gradient(method, size, share.denominator) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_camas_terms_weigh_alpha_and_beta(size):
    method = after_a_task(ConfidenceAwareMovingAverage, alpha=0.3, beta=0.7, share=0.666667, recent=1)
    method.after_step = lambda: None  # the stored outputs stay
    stored = float(np.asarray(BEFORE) @ OLD[0].numpy())
    expected = gradient(NOW, NEW) + 0.3 * gradient(NOW, OLD, wanted=stored) + 0.7 * gradient(NOW, OLD)
    assert mean_gradient(method, size, 3) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weights", ["tasks", "equal"])
@pytest.mark.parametrize("mixing", ["added", "replaced"])
@pytest.mark.parametrize("share", SHARES[:5])
@pytest.mark.parametrize("size", SIZES)
def test_generative_distillations_terms(weights, mixing, share, size):
    settings = {"mixing": mixing, "share": round(float(share), 6), "weights": weights, "strength": 0.75}
    method = after_a_task(GenerativeDistillation, **settings)
    method.end_task(experience(1), Alike(NEW))
    method.model.move(BEFORE)
    method.begin_task(experience(2))
    method.model.move(NOW)
    teacher = float(np.asarray(BEFORE) @ OLD[0].numpy())
    of_new, of_generated = (1 / 3, 2 / 3) if weights == "tasks" else (1, 1)  # two tasks lie behind
    expected = of_new * gradient(NOW, NEW) + of_generated * 0.75 * gradient(NOW, OLD, wanted=teacher)
    assert mean_gradient(method, size, share.denominator) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_processes_whose_shares_differ_average_to_the_mean_of_all(count):
    batch = Alike(NEW).batch(np.arange(7))
    losses = torch.arange(7.0) ** 2
    batch["loss"] = losses
    mean = 0.0
    for rank in range(count):
        own = Processes(rank, count).share(batch)
        mean += own["loss"].mean() * Processes(rank, count).weight(own, batch) / count
    assert mean == pytest.approx(losses.mean().item(), rel=1e-6)
    with pytest.raises(ConfigurationError, match="7 samples per step are too few for 8 processes"):
        Processes(0, 8).share(batch)
