"""What of a checkpoint follows the data: sizes where the policy pads, and cameras that may be missing."""

import pytest
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig

from vla_cl.models.policy_config import policy_config
from vla_cl.models.warm_start import fit_to_data
from vla_cl.types import ConfigurationError, InterfaceSpec

CAMERAS = [f"observation.images.camera{number}" for number in (1, 2, 3)]


def published():
    """As ``lerobot/smolvla_base`` declares itself: three cameras, states and actions of six numbers."""
    config = policy_config("smolvla", {}, InterfaceSpec(dict.fromkeys(CAMERAS, (256, 256)), 6, 6), "cpu")
    assert isinstance(config, SmolVLAConfig)
    return config


def fitted(spec, **fields):
    config = published()
    fit_to_data(config, fields, spec, "user/policy")
    return config


def test_sizes_and_the_pictures_follow_the_data():
    config = fitted(InterfaceSpec(dict.fromkeys(reversed(CAMERAS), (96, 128)), 4, 7))
    assert config.input_features["observation.state"].shape == (4,)
    assert config.action_feature.shape == (7,)
    assert list(config.image_features) == CAMERAS  # in the checkpoint's order
    assert {feature.shape for feature in config.image_features.values()} == {(3, 96, 128)}


def test_cameras_that_are_allowed_to_be_missing_are_left_empty():
    config = fitted(InterfaceSpec({CAMERAS[0]: (96, 96)}, 4, 4), empty_cameras=2)
    kept = [key for key in config.image_features if "empty_camera" not in key]
    assert kept == CAMERAS[:1]
    assert len(config.image_features) == 3


@pytest.mark.parametrize(
    ("spec", "fields", "message"),
    [
        (InterfaceSpec({CAMERAS[0]: (96, 96)}, 4, 4), {}, "policy.empty_cameras=2"),
        (InterfaceSpec({CAMERAS[0]: (96, 96)}, 4, 4), {"empty_cameras": 1}, "policy.empty_cameras=2"),
        (
            InterfaceSpec({"observation.image": (96, 96)}, 4, 4),
            {},
            "cameras={observation.images.camera1: observation.image",
        ),
        (InterfaceSpec(dict.fromkeys(CAMERAS, (96, 96)), 40, 4), {}, "pads states to 32 numbers"),
        (InterfaceSpec(dict.fromkeys(CAMERAS, (96, 96)), 4, 33), {}, "pads actions to 32 numbers"),
        (InterfaceSpec(dict.fromkeys(CAMERAS, (96, 96)), 4, 4), {"max_state_dim": 40}, "contradicts the warm start"),
        (InterfaceSpec(dict.fromkeys(CAMERAS, (96, 96)), 4, 4), {"num_stepps": 4}, "did you mean 'num_steps'"),
    ],
)
def test_what_does_not_fit_is_said_with_what_would(spec, fields, message):
    with pytest.raises(ConfigurationError, match=message) as found:
        fitted(spec, **fields)
    assert len(str(found.value)) <= 300


def test_fields_that_do_not_touch_the_weights_may_differ():
    config = fitted(InterfaceSpec(dict.fromkeys(CAMERAS, (96, 96)), 4, 4), num_steps=4, train_expert_only=False)
    assert config.num_steps == 4
    assert config.train_expert_only is False


def test_a_policy_that_does_not_pad_wants_its_own_sizes():
    config = policy_config("act", {}, InterfaceSpec({"observation.image": (96, 96)}, 4, 4), "cpu")
    with pytest.raises(ConfigurationError, match="does not pad"):
        fit_to_data(config, {}, InterfaceSpec({"observation.image": (96, 96)}, 5, 4), "user/policy")
