"""A policy that does not resize is never shown pictures of another size than those that it learnt from."""

from dataclasses import replace

import numpy as np
import pytest
from evaluation_commands import POLICIES, SPEC

from vla_cl.models.policy_config import resizes
from vla_cl.models.policy_types import RESIZES, USABLE
from vla_cl.models.vla import VlaModel, policy_config
from vla_cl.models.warm_start import fit_to_data
from vla_cl.rollout.compatibility import check_interface, require_fit
from vla_cl.types import ConfigurationError, InterfaceSpec, SuiteSpec

KEY = "observation.image"


def model(kind):
    spread = {name: np.full(2, value, np.float32) for name, value in (("mean", 0), ("std", 1), ("min", -1), ("max", 1))}
    pixels = {name: np.full((3, 1, 1), value, np.float32) for name, value in (("mean", 0.5), ("std", 0.5))}
    pixels |= {"min": np.zeros((3, 1, 1), np.float32), "max": np.ones((3, 1, 1), np.float32)}
    kind, fields = POLICIES[kind]
    statistics = {"action": spread, "observation.state": spread, KEY: pixels}
    return VlaModel.new(policy_config(kind, fields, SPEC, "cpu"), statistics, init_seed=0)


def of_size(height, width, kind=InterfaceSpec):
    return kind({KEY: (height, width)}, 2, 2)


@pytest.mark.parametrize("size", [(16, 20), (32, 32), (8, 16)])
def test_act_is_refused_where_pictures_have_another_size(size):
    spec = model("act").spec
    for ask in (
        lambda: check_interface(spec, of_size(*size, SuiteSpec), 1, 4),
        lambda: require_fit(spec, of_size(*size), "the policy"),
    ):
        with pytest.raises(ConfigurationError, match=f"16x16 .*does not resize, .* {size[0]}x{size[1]}") as found:
            ask()
        assert len(str(found.value)) <= 300
    check_interface(spec, of_size(16, 16, SuiteSpec), 1, 4)
    require_fit(spec, of_size(16, 16), "the policy")


def test_a_policy_that_resizes_takes_any_size():
    spec = model("nano_vla").spec
    check_interface(spec, of_size(480, 640, SuiteSpec), 1, 4)
    require_fit(spec, of_size(480, 640), "the policy")


@pytest.mark.parametrize("kind", USABLE)
def test_it_is_known_beforehand(kind):
    fields = {"eo1": {"vlm_config": {}}, "vqbet": {"crop_shape": None}}.get(kind, {})  # else eo1 asks the hub
    assert resizes(policy_config(kind, fields | {"n_obs_steps": 1}, SPEC, "cpu")) is (kind in RESIZES)


def test_one_that_is_told_to_what_it_resizes_takes_any_size():
    fields = {"n_obs_steps": 1, "pretrained_backbone_weights": None, "resize_shape": [32, 32]}
    assert resizes(policy_config("diffusion", fields, SPEC, "cpu"))


def test_a_warm_start_follows_the_data_or_is_refused():
    resizing, fixed = model("nano_vla").policy.config, model("act").policy.config
    fit_to_data(resizing, {}, replace(SPEC, cameras={KEY: (24, 40)}), "there")
    assert resizing.input_features[KEY].shape == (3, 24, 40)
    with pytest.raises(ConfigurationError, match=r"learnt from pictures of 16x16 .* the data have 24x40"):
        fit_to_data(fixed, {}, replace(SPEC, cameras={KEY: (24, 40)}), "there")


@pytest.mark.parametrize("kind", sorted(RESIZES & {"nano_vla"}))
def test_what_is_said_to_resize_does(kind):
    """One picture at two sizes gives the same actions."""
    from vla_cl.types import Observation

    policy = model(kind)
    small = np.full((16, 16, 3), 90, np.uint8)
    large = np.full((48, 48, 3), 90, np.uint8)
    chunks = [policy.act([Observation({KEY: picture}, np.zeros(2, np.float32), "go")]) for picture in (small, large)]
    assert np.allclose(chunks[0], chunks[1], atol=1e-5)
