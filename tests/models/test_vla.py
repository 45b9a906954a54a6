"""LeRobot policies through the VLA family: our own and two of LeRobot's, tiny and offline."""

import numpy as np
import pytest
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from toy_world import PointSuite

from vla_cl.data.frames import Frames
from vla_cl.data.normalisation import frozen_statistics
from vla_cl.data.source import Source
from vla_cl.interfaces import (
    GivesFeatures,
    GivesKeyedDraws,
    GivesModalities,
    GivesOutputs,
    Method,
    SharesComputation,
)
from vla_cl.models.planned import declared_abilities
from vla_cl.models.vla import VlaModel, horizon, policy_config
from vla_cl.training.learning import Learning, TrainingSettings
from vla_cl.types import Ability, ConfigurationError, Draw, Experience, InterfaceSpec, Observation

SPEC = InterfaceSpec({"observation.image": (16, 16)}, state_size=2, action_size=2)
POLICIES = {
    "nano_vla": {"image_size": 16, "chunk_size": 4, "n_action_steps": 2},
    "act": {
        "chunk_size": 4, "n_action_steps": 2, "dim_model": 16, "n_heads": 2, "dim_feedforward": 16, "latent_dim": 4,
        "n_encoder_layers": 1, "n_vae_encoder_layers": 1, "pretrained_backbone_weights": None,
    },
    "diffusion": {
        "n_obs_steps": 1, "horizon": 8, "n_action_steps": 4, "down_dims": [8, 16], "num_train_timesteps": 4,
        "pretrained_backbone_weights": None, "crop_shape": None, "diffusion_step_embed_dim": 8,
        "use_group_norm": True, "spatial_softmax_num_keypoints": 4,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=POLICIES)
def learnt(request, point_datasets, tmp_path_factory):
    """A policy after a few steps, and its data."""
    config = policy_config(request.param, POLICIES[request.param], SPEC, "cpu")
    window = horizon(config)
    cache = tmp_path_factory.mktemp("frames")
    data = Frames([Source(root) for root in point_datasets], cache, window.actions, window.observations)
    model = VlaModel.new(config, frozen_statistics(data), init_seed=0, render_profile="plain")
    method = Method()
    method.attach(model, 0)
    experience = Experience(0, "red", (PointSuite().tasks()[0],))
    settings = TrainingSettings(steps=3, batch_size=4, learning_rate=1e-3)
    reports = list(Learning(model, method, experience, data, settings, train_seed=0))
    assert len(reports) == 3
    return model, data


def observations(count):
    environment = PointSuite().make_environment(PointSuite().tasks()[0])
    seen = []
    for state in range(count):
        environment.reset(state)
        seen.append(environment.observe())
    return seen


def test_a_loss_is_a_function_of_its_draw(learnt):
    model, data = learnt
    batch = data.batch(np.arange(4))
    model.module.train()
    state = torch.get_rng_state()
    first, again, other = (model.loss(batch, Draw(seed)) for seed in (1, 1, 2))
    assert first.shape == (4,)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_losses_per_sample_average_to_the_policys_own(learnt):
    model, data = learnt
    batch = data.batch(np.arange(4))
    torch.manual_seed(7)
    mean, _ = model.policy.forward(model._inputs(batch))
    losses = model.loss(batch, Draw(7))
    assert torch.allclose(losses.mean(), mean, atol=1e-6)
    assert (Ability.PER_SAMPLE_LOSSES in model.abilities) == (len(set(losses.tolist())) > 1)


def test_a_chunk_does_not_depend_on_the_rest_of_the_batch(learnt):
    model, _ = learnt
    seen = observations(3)
    together = model.act(seen)
    assert together.shape == (3, model.chunk_size, 2)
    assert together.dtype == np.float32
    for row, observation in enumerate(seen):
        assert np.allclose(model.act([observation])[0], together[row], atol=1e-5)


def test_saved_and_loaded_it_acts_the_same(learnt, tmp_path):
    model, _ = learnt
    model.save(tmp_path / "policy")
    loaded = VlaModel.load(tmp_path / "policy", "cpu")
    assert np.array_equal(loaded.act(observations(2)), model.act(observations(2)))
    assert loaded.spec == model.spec
    assert loaded.render_profile == "plain"


def test_weights_that_do_not_fit_are_refused(learnt, tmp_path):
    from safetensors.torch import load_file, save_file

    model, _ = learnt
    model.save(tmp_path / "policy")
    path = tmp_path / "policy" / "model.safetensors"
    tensors = load_file(path)
    removed = sorted(tensors)[0]
    save_file({name: tensor for name, tensor in tensors.items() if name != removed}, path)
    with pytest.raises(ConfigurationError, match="lacks"):
        VlaModel.load(tmp_path / "policy", "cpu")


def test_outputs_and_features_are_declared_by_the_policy(learnt):
    model, data = learnt
    batch = data.batch(np.arange(3))
    if model.policy.config.type == "nano_vla":
        assert model.outputs(batch, Draw(0)).shape == (3, model.chunk_size, 2)
        assert model.features(batch).shape[0] == 3
        given = model.forward_pass(batch, Draw(0))
        assert model.modalities == tuple(given.modalities) == ("text", "vision", "state")
        assert torch.equal(given.losses, model.loss(batch, Draw(0)))
        assert torch.allclose(model.distance(given.outputs, given.outputs + 2, batch), torch.tensor(4.0))
        assert {Ability.OUTPUTS, Ability.FEATURES, Ability.MODALITIES, Ability.KEYED_DRAWS} <= model.abilities
    else:
        assert Ability.OUTPUTS not in model.abilities
        assert model.modalities == ()
        with pytest.raises(
            ConfigurationError,
            match=r"does not declare the method 'forward_pass'.*subclass vla_cl\.interfaces\.GivesOutputs",
        ):
            model.outputs(batch, Draw(0))


class Undeclared(PreTrainedPolicy):
    """Has methods of the right names, but declares none."""

    config_class, name = PreTrainedConfig, "undeclared"
    modalities, fixed_outputs = ("text",), True

    def forward(self, batch): ...
    def forward_pass(self, batch, noise=None, time=None): ...
    def draw(self, generators): ...
    def features(self, batch): ...


class Declared(Undeclared, GivesModalities, GivesKeyedDraws, GivesFeatures):
    pass


def test_a_policy_can_what_its_class_declares_whatever_its_methods_are_called():
    assert declared_abilities(Undeclared) == frozenset()
    assert declared_abilities(Declared) == {
        Ability.OUTPUTS,
        Ability.FIXED_OUTPUTS,
        Ability.MODALITIES,
        Ability.KEYED_DRAWS,
        Ability.FEATURES,
    }


def test_a_declaration_without_its_method_cannot_be_built():
    class Empty(PreTrainedPolicy, GivesOutputs):
        config_class, name = PreTrainedConfig, "empty"

    with pytest.raises(TypeError, match=r"abstract method.*forward_pass"):
        Empty(PreTrainedConfig)


def test_inside_independent_samples_nothing_is_computed_once_for_several(learnt):
    model, data = learnt
    if not isinstance(model.policy, SharesComputation):
        pytest.skip("it shares nothing")
    batch, seen = data.batch(np.arange(3)), []
    model.policy.instruction_encoder.register_forward_hook(lambda module, given, result: seen.append(len(result)))
    model.loss(batch, Draw(0))
    with model.independent_samples():
        model.loss(batch, Draw(0))
    model.loss(batch, Draw(0))
    assert seen == [1, 3, 1]


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [("nanovla", {}, "unknown policy type 'nanovla'"), ("act", {"chunk_sise": 3}, "chunk_sise")],
)
def test_unknown_policies_and_fields_are_named(kind, settings, message):
    with pytest.raises(ConfigurationError, match=message):
        policy_config(kind, settings, SPEC, "cpu")


def test_a_folder_without_a_policy_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="not a LeRobot policy"):
        VlaModel.load(tmp_path, "cpu")


def test_an_observation_needs_the_cameras_of_the_policy(learnt):
    model, _ = learnt
    with pytest.raises(KeyError):
        model.act([Observation({"observation.images.other": np.zeros((16, 16, 3), np.uint8)}, np.zeros(2), "x")])
