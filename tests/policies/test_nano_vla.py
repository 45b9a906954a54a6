import logging
import subprocess
import sys
from pathlib import Path

import draccus
import numpy as np
import pytest
import torch
import yaml

from vla_cl.types import ConfigurationError

logging.disable(logging.WARNING)
lerobot_factory = pytest.importorskip("lerobot.policies.factory")

from lerobot.configs import parser  # noqa: E402
from lerobot.configs.policies import PreTrainedConfig  # noqa: E402
from lerobot.configs.types import FeatureType, PolicyFeature  # noqa: E402

from vla_cl.policies.nano_vla import augmentation  # noqa: E402
from vla_cl.policies.nano_vla.configuration_nano_vla import NanoVLAConfig  # noqa: E402
from vla_cl.policies.nano_vla.modeling_nano_vla import NanoVLAPolicy, resize  # noqa: E402
from vla_cl.policies.nano_vla.tokenizer import PAD, distinct, tokenize  # noqa: E402

CHUNK, ACTION, STATE = 4, 2, 3
SMALL = {"image_size": 32, "vision_channels": [8, 8, 16], "num_keypoints": 4, "hidden_size": 32, "chunk_size": CHUNK}
UNCHANGED = {
    "shift_pixels": 0,
    "brightness": 0.0,
    "contrast": 0.0,
    "color": 0.0,
    "state_noise": 0.0,
    "mixed_precision": False,
}


def config(cameras=("observation.image",), state=STATE, **settings):
    inputs = {camera: PolicyFeature(FeatureType.VISUAL, (3, 32, 32)) for camera in cameras}
    if state:
        inputs["observation.state"] = PolicyFeature(FeatureType.STATE, (state,))
    outputs = {"action": PolicyFeature(FeatureType.ACTION, (ACTION,))}
    defaults = {**SMALL, "n_action_steps": 2, "device": "cpu", "push_to_hub": False}
    return NanoVLAConfig(input_features=inputs, output_features=outputs, **{**defaults, **settings})


def policy(**settings):
    torch.manual_seed(0)
    return NanoVLAPolicy(config(**settings))


def batch(size=6, cameras=("observation.image",), state=STATE, pixels=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    result = {c: torch.randint(0, 256, (size, 3, pixels, pixels), generator=generator).byte() for c in cameras}
    if state:
        result["observation.state"] = torch.randn(size, state, generator=generator)
    result["action"] = torch.rand(size, CHUNK, ACTION, generator=generator) * 2 - 1
    result["action_is_pad"] = torch.zeros(size, CHUNK, dtype=torch.bool)
    result["task"] = ["open the drawer" if row % 2 else "reach the goal" for row in range(size)]
    return result


def statistics():
    return {
        "observation.state": {
            "mean": torch.tensor([1.0, 2, 3]),
            "std": torch.tensor([2.0, 1, 0]),
            "min": -torch.ones(STATE),
            "max": torch.ones(STATE),
        },
        "action": {
            "mean": torch.zeros(ACTION),
            "std": torch.ones(ACTION),
            "min": torch.tensor([-2.0, 0]),
            "max": torch.tensor([2.0, 1]),
        },
    }


# --- LeRobot's contract


def test_is_discovered_as_a_plug_in_by_an_unprepared_process():
    # A process that imports nothing of ours but what lerobot imports for --policy.discover_packages_path.
    code = (
        "from lerobot.configs.parser import load_plugin; from lerobot.configs.policies import PreTrainedConfig\n"
        "load_plugin('vla_cl.policies'); print(PreTrainedConfig.get_choice_class('nano_vla').__name__)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True)
    assert result.stdout.split()[-1] == "NanoVLAConfig"


def test_factory_resolves_policy_and_processors():
    parser.load_plugin("vla_cl.policies")
    assert lerobot_factory.get_policy_class("nano_vla") is NanoVLAPolicy
    made = lerobot_factory.make_policy_config("nano_vla", device="cpu", chunk_size=9, n_action_steps=3)
    assert made.type == "nano_vla"
    assert made.action_delta_indices == list(range(9))
    lerobot_factory.make_pre_post_processors(config(), dataset_stats=statistics())


@pytest.mark.parametrize("objective", ["regression", "flow_matching"])
def test_saved_and_loaded_policies_agree_exactly(tmp_path, objective):
    first = policy(objective=objective)
    first.save_pretrained(tmp_path)
    loaded_config = PreTrainedConfig.from_pretrained(tmp_path)
    assert (loaded_config.objective, loaded_config.vision_channels) == (objective, SMALL["vision_channels"])
    second = NanoVLAPolicy.from_pretrained(tmp_path, config=loaded_config, strict=True)
    assert not second.training
    assert torch.equal(first.predict_action_chunk(batch()), second.predict_action_chunk(batch()))


def test_processors_normalise_keep_the_instruction_and_survive_saving(tmp_path):
    before, after = lerobot_factory.make_pre_post_processors(config(), dataset_stats=statistics())
    raw = batch()
    ready = before(raw)
    assert ready["task"] == raw["task"]
    assert torch.equal(ready["action_is_pad"], raw["action_is_pad"])
    assert torch.equal(ready["observation.image"], raw["observation.image"])
    # The third joint never moved in the statistics: its deviation is held at a hundredth.
    expected = (raw["observation.state"] - torch.tensor([1.0, 2, 3])) / torch.tensor([2.0, 1, 0.01])
    torch.testing.assert_close(ready["observation.state"], expected)
    torch.testing.assert_close(after(ready["action"]), raw["action"])
    before.save_pretrained(tmp_path)
    after.save_pretrained(tmp_path)
    again, after_again = lerobot_factory.make_pre_post_processors(config(), pretrained_path=str(tmp_path))
    assert torch.equal(again(raw)["observation.state"], ready["observation.state"])
    assert torch.equal(after_again(ready["action"]), after(ready["action"]))


def test_one_observation_without_a_batch_dimension_becomes_a_batch():
    before, _ = lerobot_factory.make_pre_post_processors(config(), dataset_stats=statistics())
    single = {"observation.image": torch.rand(3, 32, 32), "observation.state": torch.zeros(3), "task": "go"}
    assert policy().predict_action_chunk(before(single)).shape == (1, CHUNK, ACTION)


def test_presets_build_an_optimizer_and_a_schedule():
    made = policy()
    optimizer = made.config.get_optimizer_preset().build(made.get_optim_params())
    schedule = made.config.get_scheduler_preset().build(optimizer, num_training_steps=50)
    assert sum(p.numel() for g in optimizer.param_groups for p in g["params"]) == sum(
        p.numel() for p in made.parameters()
    )
    optimizer.step()
    schedule.step()


def test_select_action_walks_through_the_chunk_and_predicts_anew():
    made = policy(n_action_steps=2)
    first, second = batch(seed=1), batch(seed=2)
    chunk = made.predict_action_chunk(first)
    assert torch.equal(made.select_action(first), chunk[:, 0])
    assert torch.equal(made.select_action(second), chunk[:, 1])  # still the first observation's plan
    assert torch.equal(made.select_action(second), made.predict_action_chunk(second)[:, 0])
    made.reset()
    assert torch.equal(made.select_action(first), chunk[:, 0])


def test_the_yaml_holds_the_defaults():
    settings = yaml.safe_load((Path(__file__).parents[2] / "conf" / "policy" / "nano_vla.yaml").read_text())
    assert settings.pop("type") == "nano_vla"
    decoded = draccus.decode(NanoVLAConfig, {**settings, "device": "cpu"})
    assert decoded == NanoVLAConfig(device="cpu")


def test_default_size_is_that_of_a_small_policy():
    made = NanoVLAPolicy(config(**full_size()))
    assert 1e6 < sum(p.numel() for p in made.parameters()) < 5e6


def full_size():
    default = NanoVLAConfig(device="cpu")
    return {key: getattr(default, key) for key in SMALL}


# --- Loss


@pytest.mark.parametrize("objective", ["regression", "flow_matching"])
def test_losses_of_samples_average_to_the_loss(objective):
    made = policy(objective=objective)
    values = batch()
    values["action_is_pad"][0, 1:] = True
    torch.manual_seed(3)
    losses, _ = made.forward(values, reduction="none")
    torch.manual_seed(3)
    mean, logged = made.forward(values)
    assert losses.shape == (6,)
    assert losses.mean() == mean
    assert logged["loss"] == pytest.approx(mean.item())


def test_padding_has_no_influence():
    made = policy(**UNCHANGED)
    values = batch()
    values["action_is_pad"][:, 2:] = True
    losses, _ = made.forward(values, reduction="none")
    values["action"][:, 2:] = 1e6
    changed, _ = made.forward(values, reduction="none")
    assert torch.equal(losses, changed)
    expected = (made.forward_pass(values)["outputs"] - values["action"])[:, :2].abs().mean((1, 2))
    torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize("objective", ["regression", "flow_matching"])
def test_loss_is_a_function_of_the_seed(objective):
    made = policy(objective=objective, shift_pixels=4, shade=0.5)
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(made.forward(batch())[0].item())
    assert losses[0] == losses[1] != losses[2]


def test_flow_matching_outputs_are_the_velocities_of_the_loss():
    made = policy(objective="flow_matching", **UNCHANGED)
    values = batch()
    torch.manual_seed(5)
    loss, _ = made.forward(values)
    torch.manual_seed(5)
    velocity = made.forward_pass(values)["outputs"]
    torch.manual_seed(5)
    noise = torch.randn_like(values["action"])
    torch.testing.assert_close((velocity - (values["action"] - noise)).square().mean(), loss)


def test_noise_that_is_chosen_per_sample_does_not_depend_on_the_batch():
    made = policy(objective="flow_matching", **UNCHANGED)
    values = batch()
    chosen = made.draw([torch.Generator().manual_seed(seed) for seed in range(6)])
    together = made.forward_pass(values, **chosen)
    row = {key: value[4:5] for key, value in values.items()}
    alone = made.forward_pass(row, **made.draw([torch.Generator().manual_seed(4)]))
    torch.testing.assert_close(together["outputs"][4:5], alone["outputs"])
    torch.testing.assert_close(together["losses"][4:5], alone["losses"])


def test_outputs_are_fixed_without_noise_and_augmentation():
    plain = {**UNCHANGED, "state_noise": 0.0}
    assert policy(**plain).fixed_outputs
    assert not policy(**{**plain, "shift_pixels": 1}).fixed_outputs
    assert not policy(objective="flow_matching", **plain).fixed_outputs


def test_instructions_encoded_once_or_for_each_sample_give_the_same():
    made = policy(**UNCHANGED).eval()
    shared = made.features(batch())
    made.share_instructions = False
    torch.testing.assert_close(made.features(batch()), shared)


@pytest.mark.parametrize("objective", ["regression", "flow_matching"])
def test_learns_what_only_the_instruction_tells_apart(objective):
    made = policy(objective=objective, **UNCHANGED)
    made.train()
    values = batch(size=4)
    values["observation.image"][:] = values["observation.image"][:1]
    values["observation.state"][:] = 0
    values["action"][:] = torch.tensor([0.8, -0.4])
    values["action"][1::2] *= -1
    optimizer = torch.optim.AdamW(made.get_optim_params(), lr=3e-3)
    torch.manual_seed(0)
    many = {key: value * 8 if key == "task" else torch.cat([value] * 8) for key, value in values.items()}
    for _ in range(120):
        optimizer.zero_grad()
        made.forward(many)[0].backward()
        optimizer.step()
    error = (made.predict_action_chunk(values) - values["action"]).abs().mean()
    assert error < 0.1


# --- Inputs


def test_two_cameras_without_state():
    cameras = ("observation.images.top", "observation.images.wrist")
    made = policy(cameras=cameras, state=0)
    values = batch(cameras=cameras, state=0)
    made.forward(values)[0].backward()
    made.eval()
    original = made.predict_action_chunk(values)
    for camera in cameras:
        changed = {**values, camera: 255 - values[camera]}
        assert not torch.allclose(made.predict_action_chunk(changed), original)


def test_bytes_and_floats_are_the_same_picture():
    made = policy()
    values = batch()
    floats = {**values, "observation.image": values["observation.image"].float() / 255}
    torch.testing.assert_close(made.predict_action_chunk(floats), made.predict_action_chunk(values))


def test_pictures_of_another_size_are_averaged_down():
    values = batch()
    enlarged = values["observation.image"].repeat_interleave(5, -1).repeat_interleave(5, -2)
    torch.testing.assert_close(resize(enlarged, 32), values["observation.image"].float() / 255)
    made = policy()
    chunk = made.predict_action_chunk({**values, "observation.image": enlarged})
    torch.testing.assert_close(chunk, made.predict_action_chunk(values), atol=1e-5, rtol=1e-5)
    assert resize(values["observation.image"][..., :20], 32).shape[-2:] == (32, 32)


@pytest.mark.parametrize("objective", ["regression", "flow_matching"])
def test_a_sample_is_alone_in_its_batch(objective):
    made = policy(objective=objective)
    values = batch()
    together = made.predict_action_chunk(values)
    for row in range(6):
        alone = {key: value[row : row + 1] for key, value in values.items()}
        torch.testing.assert_close(made.predict_action_chunk(alone)[0], together[row], atol=1e-5, rtol=1e-5)


def test_prediction_needs_no_random_numbers():
    made = policy(objective="flow_matching")
    before = torch.get_rng_state()
    first = made.predict_action_chunk(batch())
    assert torch.equal(torch.get_rng_state(), before)
    noise = torch.ones(6, CHUNK, ACTION)
    assert not torch.allclose(made.predict_action_chunk(batch(), noise=noise), first)


def test_features_are_one_vector_per_sample():
    made = policy()
    made.eval()
    assert made.features(batch()).shape == (6, SMALL["hidden_size"])


def test_a_batch_without_instructions_is_refused():
    values = batch()
    del values["task"]
    with pytest.raises(ConfigurationError, match="task"):
        policy().forward(values)


# --- Instructions


def test_what_else_is_in_the_batch_does_not_change_a_bit():
    model = policy(condition_size=64).eval()
    values = batch(size=4)
    for first in ("open the drawer", "go", "lift the red cube and put it down"):
        alike, other = {**values, "task": [first] * 4}, {**values, "task": [first, "a", "b c", "push it to the left"]}
        assert torch.equal(model.predict_action_chunk(alike)[0], model.predict_action_chunk(other)[0])


def test_any_text_becomes_its_bytes():
    tokens = tokenize(["öffne 🚪", "", "abcdefghijklmno"], max_bytes=12)
    assert tokens.shape == (3, 12)
    assert bytes(tokens[0][tokens[0] != PAD].tolist()).decode() == "öffne 🚪"
    assert (tokens[1] == PAD).all()
    assert bytes(tokens[2].tolist()) == b"abcdefghijkl"


def test_any_text_can_be_an_instruction():
    values = batch(size=3)
    values["task"] = ["", "öffne die Schublade 🚪", "x" * 1000]
    assert policy().predict_action_chunk(values).isfinite().all()


def test_each_different_instruction_is_encoded_once():
    assert distinct(["b", "a", "b"]) == (["b", "a"], [0, 1, 0])
    made = policy()
    seen = []
    made.instruction_encoder.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    made.predict_action_chunk(batch())
    assert seen == [1, 1]  # each alone; see the test of what else is in the batch
    seen.clear()
    made.train().forward(batch() | {"action": torch.zeros(6, made.config.chunk_size, ACTION)})
    assert seen == [2]


def test_what_stands_behind_the_end_of_an_instruction_does_not_matter():
    short, long = policy(max_instruction_bytes=20), policy(max_instruction_bytes=60)
    torch.testing.assert_close(short.predict_action_chunk(batch()), long.predict_action_chunk(batch()))


# --- Augmentation


def test_shifted_pictures_are_pieces_of_the_padded_picture():
    images = torch.arange(2 * 3 * 6 * 6).reshape(2, 3, 6, 6).byte()
    torch.manual_seed(0)
    moved = augmentation.shift(images, 2)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (6, 6), axis=(2, 3))
    for row in range(2):
        found = (windows[row] == moved[row].numpy()[:, None, None]).all((0, -1, -2))
        assert found.any()


def test_augmentation_is_of_training_only_and_stays_in_bounds():
    made = policy(shift_pixels=4, shade=0.5)
    images = batch()
    made.train()
    assert not torch.equal(made._image(images, "observation.image"), made._image(images, "observation.image"))
    made.eval()
    assert torch.equal(made._image(images, "observation.image"), made._image(images, "observation.image"))
    ones = torch.ones(64, 3, 8, 8)
    shaded = augmentation.shade(ones, 0.5)
    assert 0.5 <= shaded.min() < shaded.max() <= 1
    relit = augmentation.relight(ones * 0.5, brightness=0.1, contrast=0.2, color=0.0)
    assert 0.4 <= relit.min() < relit.max() <= 0.6


# --- Users' mistakes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "flow_maching"}, "did you mean 'flow_matching'"),
        ({"n_action_steps": 5}, "chunk_size=4"),
        ({"n_obs_steps": 2}, "n_obs_steps=2"),
        ({"vision_channels": [8, 12, 16]}, "multiples of 8"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        config(**settings)


def test_unfit_features_are_refused():
    with pytest.raises(ConfigurationError, match="at least one camera"):
        NanoVLAPolicy(config(cameras=()))
    gray = config()
    gray.input_features["observation.image"] = PolicyFeature(FeatureType.VISUAL, (1, 32, 32))
    with pytest.raises(ConfigurationError, match="RGB"):
        NanoVLAPolicy(gray)
    idle = config()
    idle.output_features = {}
    with pytest.raises(ConfigurationError, match="action"):
        NanoVLAPolicy(idle)


@pytest.mark.parametrize("objective", ["regression", "flow_matching"])
@pytest.mark.parametrize("state", [STATE, 0])
@pytest.mark.parametrize("cameras", [("observation.image",), ("observation.images.a", "observation.images.b")])
def test_the_modalities_that_are_declared_are_those_that_a_pass_gives(objective, state, cameras):
    model = policy(objective=objective, state=state, cameras=cameras)
    given = model.forward_pass(batch(state=state, cameras=cameras))
    assert ("losses", "outputs", *model.modalities) == tuple(given)
