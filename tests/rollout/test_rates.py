"""A policy that learnt from another number of actions per second is not rolled out in silence."""

import json
from pathlib import Path

import numpy as np
import pytest

from vla_cl.cli.main import main
from vla_cl.models.stored_policy import NOTE, noted_conventions
from vla_cl.models.vla import VlaModel, policy_config
from vla_cl.rollout.compatibility import require_rate
from vla_cl.types import ConfigurationError, InterfaceSpec, SuiteSpec

SPEC = InterfaceSpec({"observation.image": (16, 16)}, state_size=2, action_size=2)
CONF = Path(__file__).parents[1] / "conf"
SETTINGS = ["plugins=[toy_world]", "suite=point", "evaluation.episodes=1", "evaluation.replan_every=2",
            "evaluation.workers=1", "evaluation.videos=0", "tasks=[red]", "device=cpu"]  # fmt: skip


def spec(fps, kind=InterfaceSpec):
    return kind({"observation.image": (16, 16)}, 2, 2, fps=fps)


@pytest.mark.parametrize(("policy", "suite"), [(10, 20), (20, 10), (30, 29.5), (1, 80), (50.0, 49)])
def test_another_rate_is_refused_with_both_named(policy, suite):
    with pytest.raises(ConfigurationError, match=rf"{policy:g} actions a second, the suite takes {suite:g}.*check_fps"):
        require_rate(spec(policy), spec(suite, SuiteSpec))


@pytest.mark.parametrize(("policy", "suite"), [(10, 10), (29.97, 30), (None, 20), (20, 0), (None, 0)])
def test_the_same_rate_or_one_that_is_not_known_passes(policy, suite):
    require_rate(spec(policy), spec(suite, SuiteSpec))


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A policy that notes ten actions per second, the toy suite's own."""
    size = {name: np.full(2, value, np.float32) for name, value in (("mean", 0), ("std", 1), ("min", -1), ("max", 1))}
    pixels = {name: np.full((3, 1, 1), value, np.float32) for name, value in (("mean", 0.5), ("std", 0.5))}
    statistics = {"action": size, "observation.state": size, "observation.image": pixels}
    fields = {"image_size": 16, "chunk_size": 4, "n_action_steps": 2}
    model = VlaModel.new(policy_config("nano_vla", fields, SPEC, "cpu"), statistics, init_seed=0, fps=10)
    model.save(folder := tmp_path_factory.mktemp("policy"))
    return folder


def evaluate(policy, folder, *overrides):
    return main(["evaluate", "--conf", str(CONF), str(policy), *SETTINGS, f"output_dir={folder}", *overrides])


def test_a_checkpoint_says_at_which_rate_it_learnt(policy):
    assert noted_conventions(policy)["fps"] == 10
    assert VlaModel.load(policy, "cpu").spec.fps == 10


def test_evaluation_compares_rates_before_anything_starts(policy, tmp_path, capsys):
    assert evaluate(policy, tmp_path / "same") == 0
    (policy / NOTE).write_text(json.dumps({"fps": 30}))
    assert evaluate(policy, tmp_path / "other") == 2
    assert "30 actions a second, the suite takes 10" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    assert evaluate(policy, tmp_path / "other", "check_fps=false") == 0


@pytest.mark.parametrize("fps", ["10", True, 0, -1, 1e9, [10], {}])
def test_a_rate_that_is_none_is_one_sentence(policy, fps):
    (policy / NOTE).write_text(json.dumps({"fps": fps}))
    with pytest.raises(ConfigurationError, match=r"gives fps as .*, expected a number above 0") as caught:
        noted_conventions(policy)
    assert len(str(caught.value)) <= 300
