from dataclasses import replace

import numpy as np
import pytest
from toy_suite import CAMERA, ToySuite, comparable, requests

from vla_cl.rollout.compatibility import check_interface
from vla_cl.rollout.engine import Engine
from vla_cl.rollout.random_policy import RandomPolicy
from vla_cl.types import ConfigurationError, Draw, Observation, SuiteSpec

SPEC = SuiteSpec(
    {CAMERA: (8, 9)}, 2, 3, "fast", "relative", "upright",
    fps=30, action_low=(-1.0, 0.0, 0.1), action_high=(1.0, 512.0, 0.1),
)  # fmt: skip


def observation(state=(0.0, 0.5), instruction="go", pixel=0):
    return Observation({CAMERA: np.full((8, 9, 3), pixel, np.uint8)}, np.asarray(state, np.float32), instruction)


def test_it_fits_its_suite():
    policy = RandomPolicy(SPEC, chunk_size=5)
    check_interface(policy.spec, SPEC, replan_every=5, chunk_size=policy.chunk_size)
    assert policy.spec.control_mode == "relative"
    assert policy.spec.image_orientation == "upright"


def test_actions_fill_the_range_and_never_leave_it():
    policy = RandomPolicy(SPEC, chunk_size=2000)
    chunk = policy.act([observation()])[0]
    assert chunk.shape == (2000, 3)
    assert chunk.dtype == np.float32
    low, high = np.float32(SPEC.action_low), np.float32(SPEC.action_high)
    assert (chunk >= low).all() and (chunk <= high).all()
    shares = (chunk[:, :2] - low[:2]) / (high - low)[:2]
    counts = np.stack([np.histogram(column, bins=10, range=(0, 1))[0] for column in shares.T])
    assert (abs(counts - 200) < 5 * np.sqrt(200)).all()
    assert abs(np.corrcoef(shares.T)[0, 1]) < 0.1


def test_a_chunk_is_a_function_of_state_and_instruction_alone():
    policy = RandomPolicy(SPEC)
    alone = policy.act([observation()])[0]
    batch = policy.act([observation((1, 1)), observation(pixel=9), observation(instruction="stop")])
    assert np.array_equal(batch[1], alone)
    assert not np.array_equal(batch[0], alone)
    assert not np.array_equal(batch[2], alone)
    assert not np.array_equal(RandomPolicy(SPEC, seed=1).act([observation()])[0], alone)


def test_a_longer_chunk_begins_like_a_shorter_one():
    short, long = RandomPolicy(SPEC, chunk_size=3), RandomPolicy(SPEC, chunk_size=50)
    assert np.array_equal(short.act([observation()])[0], long.act([observation()])[0, :3])


def test_without_a_state_it_looks_at_the_pictures():
    policy = RandomPolicy(replace(SPEC, state_size=0))
    first, second = policy.act([observation((), pixel=1), observation((), pixel=2)])
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    "spec",
    [replace(SPEC, action_low=(), action_high=()), replace(SPEC, action_high=(1.0, np.inf, 0.1))],
    ids=["none", "infinite"],
)
def test_a_suite_without_a_finite_range_is_refused(spec):
    with pytest.raises(ConfigurationError, match="needs a finite range for each of the 3 numbers"):
        RandomPolicy(spec)


@pytest.mark.parametrize("setting", [{"chunk_size": 0}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(setting):
    with pytest.raises(ConfigurationError, match=f"random.{next(iter(setting))}"):
        RandomPolicy(SPEC, **setting)


def test_it_cannot_learn():
    policy = RandomPolicy(SPEC)
    with pytest.raises(ConfigurationError, match="has no weights"):
        policy.loss({}, Draw(0))
    with pytest.raises(ConfigurationError, match="has no weights"):
        _ = policy.module


def test_results_do_not_depend_on_the_layout():
    suite = ToySuite()
    policy = RandomPolicy(suite.spec, chunk_size=4)
    layouts = [
        {"workers": 1, "slots_per_worker": 1, "call_size": 1},
        {"workers": 2, "slots_per_worker": 3, "batch_size": 2},
    ]
    found = []
    for layout in layouts:
        with Engine(suite, replan_every=4, **layout) as engine:
            found.append(comparable(engine.run(policy, requests(), progress=False)))
    assert found[0] == found[1]
