"""Every policy type of LeRobot: its own fields, a yaml if it can be used, a reason if it cannot."""

import pickle
import shutil
from pathlib import Path
from urllib.error import URLError

import pytest
from lerobot.configs.policies import PreTrainedConfig

from vla_cl.cli.main import main
from vla_cl.config.compose import choices, compose
from vla_cl.models.policy_config import check_buildable, policy_config, predicted_actions, register_own_policies
from vla_cl.models.policy_types import REFUSED, USABLE
from vla_cl.models.vla import VlaModel
from vla_cl.run import root as run
from vla_cl.types import ConfigurationError, InterfaceSpec

CONF = Path(__file__).parents[1] / "conf"
SPEC = InterfaceSpec({"observation.image": (96, 96)}, 4, 4)
POINT = ["plugins=[toy_world]", "suite=point", "evaluation.episodes=1", "evaluation.replan_every=2",
         "evaluation.workers=1", "evaluation.videos=0", "device=cpu", "threads=1", "stream=points",
         "stream.tasks=[red]", "demonstrations.episodes=2", "demonstrations.workers=1", "training.steps=2",
         "training.batch_size=2"]  # fmt: skip
BACKBONE = ["policy.pretrained_backbone_weights=null"]
TINY = {
    "act": ["policy.dim_model=16", "policy.n_heads=2", "policy.dim_feedforward=16", "policy.n_encoder_layers=1",
            "policy.chunk_size=6", "policy.n_action_steps=6", *BACKBONE],
    "diffusion": ["policy.down_dims=[8,16]", "policy.horizon=8", "policy.n_action_steps=4",
                  "policy.num_train_timesteps=4", "policy.use_group_norm=true", *BACKBONE],
    "vqbet": ["policy.gpt_n_layer=1", "policy.gpt_n_head=2", "policy.gpt_hidden_dim=16", "policy.gpt_input_dim=16",
              "policy.gpt_output_dim=16", "policy.n_vqvae_training_steps=1", "policy.crop_shape=null",
              "policy.use_group_norm=true", *BACKBONE],
}  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def test_each_type_is_usable_or_refused_and_each_usable_one_has_a_yaml():
    register_own_policies()
    known = set(PreTrainedConfig.get_known_choices())
    assert set(USABLE) | set(REFUSED) == known
    assert not set(USABLE) & set(REFUSED)
    assert set(choices("policy")) == set(USABLE)


@pytest.mark.parametrize("kind", USABLE)
def test_every_yaml_makes_a_configuration(kind):
    fields = compose([f"policy={kind}"])["policy"]
    assert fields.pop("type") == kind
    if kind == "eo1":
        fields["vlm_config"] = {}  # else it asks the hub
    config = policy_config(kind, fields, SPEC, "cpu")
    assert config.type == kind
    assert predicted_actions(config) >= compose([])["evaluation"]["replan_every"]
    assert config.n_obs_steps == 1


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_used_is_refused_with_the_reason(kind):
    with pytest.raises(ConfigurationError, match="cannot be used here: ") as found:
        policy_config(kind, {}, SPEC, "cpu")
    assert len(str(found.value)) <= 300


@pytest.mark.parametrize("typed", ["policy=act", "policy.type=act"])
def test_another_type_has_only_its_own_fields(typed):
    policy = compose([typed, "policy.chunk_size=20", "policy.dim_feedforward=64"])["policy"]
    assert policy["chunk_size"] == 20
    assert policy["dim_feedforward"] == 64  # not in the yaml
    assert "vision_channels" not in policy
    assert "image_size" not in compose(["experiment=demo", typed])["policy"]
    assert compose(["experiment=demo"])["policy"]["image_size"] == 64
    assert compose(["experiment=demo", "policy=nano_vla"])["policy"]["image_size"] == 64


def test_a_type_without_a_yaml_has_the_fields_that_were_given():
    assert compose(["policy.type=foo", "policy.a=3"])["policy"] == {"type": "foo", "a": 3}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"chunk_sise": 3}, "no field 'chunk_sise'; did you mean 'chunk_size'"),
        ({"vision_channels": [1]}, "no field 'vision_channels'"),
        ({"chunk_size": "many"}, "does not accept these settings"),
        ({"chunk_size": 0}, "does not"),
        ({"chunk_size": -4}, "."),
        ({"chunk_size": None}, "must not be null"),
        ({"chunk_size": 10**12}, "must be at most"),
        ({"n_action_steps": 200}, "n_action_steps"),
        ({"dropout": -1.0}, "must not be negative"),
        ({"vision_backbone": "vgg"}, "vision_backbone"),
        ({"n_heads": 7}, "cannot be built with these fields"),
        ({"dim_model": 0}, "cannot be built with these fields"),
        ({"pretrained_backbone_weights": "ResNet19"}, "is no set of weights"),
        ({"device": "cuda"}, "set device="),
        ({"input_features": {}}, "follows from the data"),
        ({"pretrained_path": "x"}, "set warm_start="),
        ({"push_to_hub": True}, "nothing is uploaded"),
    ],
)
def test_wrong_fields_are_refused_before_a_network_is_made(fields, message):
    weights = {"pretrained_backbone_weights": None}
    with pytest.raises(ConfigurationError, match=message) as found:
        check_buildable(policy_config("act", weights | fields, SPEC, "cpu"))
    assert len(str(found.value)) <= 300


@pytest.mark.parametrize("kind", ["acd", "nanovla", "diffuson", "ACT", "zzzzzz"])
def test_an_unknown_type_names_those_there_are(kind):
    with pytest.raises(ConfigurationError, match=f"unknown policy type '{kind}'.*known: .*act.*xvla"):
        policy_config(kind, {}, SPEC, "cpu")


def test_weights_that_cannot_be_fetched_are_a_sentence_with_the_setting_that_avoids_it(monkeypatch):
    import torchvision

    def unreachable(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", unreachable)
    with pytest.raises(ConfigurationError, match=r"set policy\.pretrained_backbone_weights=null"):
        check_buildable(policy_config("act", {}, SPEC, "cpu"))


@pytest.mark.parametrize("content", [b"", b"hello" * 100, b"PK\x03\x04", pickle.dumps({"a": 1})])
def test_torchvisions_weights_are_looked_at_before_anything_loads_them(content, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"is empty|name says another content") as found:
        check_buildable(policy_config("act", {}, SPEC, "cpu"))
    assert "pretrained_backbone_weights=null" in str(found.value)


@pytest.mark.parametrize("kind", ["pi0", "multi_task_dit", "xvla"])
def test_what_is_not_in_the_hubs_cache_is_a_sentence(kind, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigurationError, match="which is not in the hub's cache"):
        check_buildable(policy_config(kind, {"n_obs_steps": 1}, SPEC, "cpu"))


@pytest.mark.parametrize("kind", TINY)
def test_it_is_learnt_rolled_out_and_loaded_again(kind, cache, tmp_path, capsys):
    settings = [*POINT, f"policy.type={kind}", *TINY[kind], f"cache_dir={cache}", f"output_dir={tmp_path / 'run'}"]
    assert main(["train", *settings, "--conf", str(CONF)]) == 0
    said = capsys.readouterr().out
    assert "success at the end (final_average)" in said
    assert f"report: {tmp_path / 'run' / 'report.html'}" in said
    model = VlaModel.load(tmp_path / "run" / "checkpoints" / "001" / "pretrained_model", "cpu")
    assert model.policy.config.type == kind
    assert model.policy.config.pretrained_backbone_weights is None


@pytest.mark.parametrize(
    "overrides",
    [
        ["policy.type=acd"], ["policy.type=act", "policy.chunk_sise=3"], ["policy.type=pi0_fast"],
        ["warm_start=/no/such/folder"], ["warm_start=no/such"], ["warm_start=/etc"], ["normalisation=checkpoint"],
        ["policy.type=diffusion", "policy.n_obs_steps=2", *BACKBONE], ["evaluation.replan_every=200"],
        ["policy.type=act", "policy.n_heads=7", *BACKBONE],
    ],
)  # fmt: skip
def test_a_policy_that_cannot_be_is_refused_before_demonstrations(overrides, monkeypatch, tmp_path):
    def record(*_):
        raise AssertionError("it recorded")

    monkeypatch.setattr(run, "demonstrations", record)
    settings = [*POINT, f"cache_dir={tmp_path / 'cache'}", f"output_dir={tmp_path / 'run'}", *overrides]
    with pytest.raises(ConfigurationError) as found:
        run.train(compose(settings, folders=[CONF]))
    assert len(str(found.value)) <= 400
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def checkpoint(cache, tmp_path_factory):
    """A checkpoint of ACT, and the run that it lies in."""
    folder = tmp_path_factory.mktemp("runs") / "act"
    settings = [*POINT, "policy.type=act", *TINY["act"], f"cache_dir={cache}", f"output_dir={folder}"]
    run.train(compose(settings, folders=[CONF]))
    return folder / "checkpoints" / "001" / "pretrained_model"


def start(cache, folder, *overrides):
    settings = [*POINT, f"cache_dir={cache}", f"output_dir={folder}", *overrides]
    return run.train(compose(settings, folders=[CONF]))


@pytest.mark.parametrize("level", [0, 1, 3])
def test_the_type_follows_the_checkpoint_wherever_it_is_named(checkpoint, cache, tmp_path, level):
    where = [checkpoint, *checkpoint.parents][level]
    folder = start(cache, tmp_path / "run", f"warm_start={where}", "policy.n_action_steps=3", "policy.dropout=0.0")
    model = VlaModel.load(folder / "checkpoints" / "001" / "pretrained_model", "cpu")
    assert model.policy.config.type == "act"
    assert model.policy.config.n_action_steps == 3
    assert "type: act" in (folder / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["policy.type=diffusion"], "is a policy of type 'act', but 'diffusion' was asked for"),
        (["policy=nano_vla"], "is a policy of type 'act', but 'nano_vla' was asked for"),
        (["policy.chunk_size=7"], "policy.chunk_size=7 contradicts the warm start"),
        (["policy.dim_model=32"], "policy.dim_model=32 contradicts the warm start"),
        (["policy.chunk_sise=7"], "did you mean 'chunk_size'"),
    ],
)
def test_what_contradicts_a_checkpoint_is_refused(checkpoint, cache, tmp_path, overrides, message):
    with pytest.raises(ConfigurationError, match=message):
        start(cache, tmp_path / "run", f"warm_start={checkpoint}", *overrides)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("missing", ["policy_preprocessor.json", "policy_postprocessor.json", "model.safetensors"])
def test_a_checkpoint_that_lacks_a_file(checkpoint, cache, tmp_path, missing):
    folder = tmp_path / "old"
    shutil.copytree(checkpoint, folder)
    (folder / missing).unlink()
    with pytest.raises(ConfigurationError, match=missing) as found:
        start(cache, tmp_path / "run", f"warm_start={folder}")
    if missing != "model.safetensors":
        assert "python -m lerobot.processor.migrate_policy_normalization --pretrained-path" in str(found.value)
