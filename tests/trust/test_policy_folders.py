"""Policy folders: what LeRobot writes passes, what would make it import, follow or swell is refused before it looks."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import draccus
import lerobot
import pytest
import torch
from huggingface_hub import constants
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, PolicyFeature
from safetensors.torch import save_file

import vla_cl
from vla_cl.trust.hub import fetch_policy
from vla_cl.trust.policies import check_policy_folder
from vla_cl.trust.policy_fields import RUNS_HUB_CODE, check_models, check_numbers, check_plain
from vla_cl.types import ConfigurationError

FEATURES = {"observation.state": {"type": "STATE", "shape": [2]}}
CONFIG = {"type": "act", "input_features": FEATURES, "output_features": {"action": {"type": "ACTION", "shape": [2]}}}
STEPS = {"name": "p", "steps": [{"registry_name": "rename_observations_processor", "config": {"rename_map": {}}}]}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / ("a_folder_of_somebody_" * 5) / "policy"
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(CONFIG))
    for name in ("policy_preprocessor", "policy_postprocessor"):
        (path / f"{name}.json").write_text(json.dumps(STEPS))
    save_file({"a": torch.zeros(2)}, path / "model.safetensors")
    return path


def change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def refused(folder, says):
    with pytest.raises(ConfigurationError, match=says) as caught:
        check_policy_folder(folder)
    assert len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)


def test_a_plain_folder_passes(folder):
    found = check_policy_folder(folder)
    assert found.kind == "act"
    assert found.steps == ("rename_observations_processor",) * 2
    assert found.tensors["a"].shape == (2,)


def test_every_default_of_lerobots_policies_passes():
    from vla_cl.models import vla

    vla.register_own_policies()
    kinds = PreTrainedConfig.get_known_choices()
    assert len(kinds) >= 15
    for name, kind in kinds.items():
        try:
            config = kind(device="cpu")
        except (ImportError, OSError, ValueError):  # needs a package or a model that is not here
            continue
        config.input_features = {"observation.image": PolicyFeature(FeatureType.VISUAL, (3, 480, 640))}
        content = draccus.encode(config, PreTrainedConfig)
        for check in (check_plain, check_numbers, check_models):
            check(content, name)


def test_whatever_lets_lerobot_run_code_from_the_hub_is_known():
    """LeRobot's source is read for calls that trust code of the hub: each is a type or step that is refused."""
    root, found = Path(lerobot.__file__).parent, set()
    for path in [*root.glob("policies/**/*.py"), *root.glob("processor/**/*.py")]:
        if any(_trusts(node) for node in ast.walk(ast.parse(path.read_text()))):
            found.add("/".join(path.relative_to(root).parts[:2]))
    assert found == {f"policies/{kind}" for kind in RUNS_HUB_CODE} | {"processor/tokenizer_processor.py"}


def _trusts(node):
    match node:
        case (
            ast.keyword(arg="trust_remote_code", value=value)
            | ast.AnnAssign(target=ast.Name(id="trust_remote_code"), value=value)
        ):
            return isinstance(value, ast.Constant) and bool(value.value)
        case ast.Dict():
            pairs = zip(node.keys, node.values, strict=True)
            return any(_is(key, "trust_remote_code") and _is(value, True) for key, value in pairs)
    return False


def _is(node, value):
    return isinstance(node, ast.Constant) and node.value == value


@pytest.mark.parametrize("kind", sorted(RUNS_HUB_CODE))
def test_types_that_run_code_from_the_hub_are_refused(folder, kind):
    change(folder / "config.json", type=kind)
    refused(folder, "code from the hub")


@pytest.mark.parametrize("name", ["action_tokenizer_processor", "groot_n1_7_vlm_encode_v1", "wall_x_task_processor"])
@pytest.mark.parametrize("tokenizer", ["lerobot/fast-action-tokenizer", "physical-intelligence/fast"])
def test_steps_that_run_code_from_the_hub_are_refused(folder, name, tokenizer):
    """Also where nothing says so: LeRobot's action tokenizer trusts code unless it is told not to."""
    step = {"registry_name": name, "config": {"action_tokenizer_name": tokenizer}}
    change(folder / "policy_preprocessor.json", steps=[step])
    refused(folder, "code from the hub")


@pytest.mark.parametrize(
    "step",
    [
        {"class": "os.system", "config": {}},
        {"class": "subprocess.Popen", "registry_name": "rename_observations_processor"},
        {"class": None, "registry_name": "rename_observations_processor"},
        {"class": ["a"]},
    ],
)
@pytest.mark.parametrize("which", ["policy_preprocessor.json", "policy_postprocessor.json"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_class_is_never_imported(folder, step, which, place):
    content = json.loads((folder / which).read_text())
    content["steps"].insert(place, step)
    change(folder / which, **content)
    refused(folder, "code from data is never run")


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ({}, "'registry_name' as str"),
        ("device_processor", "expected an object"),
        ({"registry_name": "a", "hook": "x"}, "allowed are registry_name"),
        ({"registry_name": "os.system; x"}, "allowed are registry_name"),
        ({"registry_name": "a", "config": [1]}, "'config' as dict"),
        ({"registry_name": "a", "state_file": "../x.safetensors"}, "leaves the folder"),
        ({"registry_name": "a", "state_file": "missing.safetensors"}, "is missing"),
        ({"registry_name": "a", "state_file": "config.json"}, "safetensors"),
        ({"registry_name": "a", "state_file": 3}, "'state_file' as str"),
        ({"registry_name": "a", "config": {"max_length": 10**9}}, "max_length"),
        ({"registry_name": "a", "config": {"features": {"x": {"type": "STATE", "shape": [10**9]}}}}, "shape"),
        ({"registry_name": "a", "config": {"tokenizer_name": "/tmp/tokenizer"}}, "policies build on"),
        ({"registry_name": "a", "config": {"tokenizer_name": "./tokenizer"}}, "policies build on"),
        ({"registry_name": "a", "config": {"tokenizer_name": "stranger/x"}}, "policies build on"),
        ({"registry_name": "a", "config": {"paligemma_tokenizer_name": "gpt2"}}, "policies build on"),
        ({"registry_name": "a", "config": {"deep": {"model_id": "stranger/x"}}}, "policies build on"),
        ({"registry_name": "a", "config": {"processor_name": "evil"}}, "policies build on"),
        ({"registry_name": "a", "config": {"deep": {"processor_name": "evil"}}}, "policies build on"),
        ({"registry_name": "a", "config": {"deep": {"anything": "stranger/x"}}}, "policies build on"),
        ({"registry_name": "a", "config": {"deep": {"anything": "./x"}}}, "policies build on"),
        ({"registry_name": "a", "config": {"trust_remote_code": True}}, "code from the hub"),
        ({"registry_name": "a", "config": {"deep": [{"trust_remote_code": 1}]}}, "code from the hub"),
        ({"registry_name": "a", "config": {"deep": {"auto_map": {}}}}, "code from data"),
        ({"registry_name": "a", "config": {"_target_": "os.system"}}, "code from data"),
    ],
)
def test_a_step_that_leads_elsewhere_is_refused(folder, step, says):
    change(folder / "policy_preprocessor.json", steps=[step])
    refused(folder, says)


@pytest.mark.parametrize(
    "config",
    [
        {"tokenizer_name": "google/paligemma-3b-pt-224", "max_length": 48},
        {"tokenizer_name": "HuggingFaceTB/SmolVLM2-500M-Video-Instruct", "trust_remote_code": False},
        {"tokenizer_name": None, "device": "cpu", "eps": 1e-8, "names": ["arm/joint_1"]},
        {"rename_map": {"observation.images.top": "observation.images.camera1"}},
    ],
)
def test_steps_that_lerobot_writes_pass(folder, config):
    change(folder / "policy_preprocessor.json", steps=[{"registry_name": "a", "config": config}])
    check_policy_folder(folder)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"type": None}, "'type' as str"),
        ({"type": "../act"}, "is no name"),
        ({"chunk_size": 1_000_000}, "chunk_size"),
        ({"chunk_size": 1e6}, "chunk_size"),
        ({"n_action_steps": 10**8}, "n_action_steps"),
        ({"horizon": 10**6}, "horizon"),
        ({"dim_model": 10**8}, "dim_model"),
        ({"dim_feedforward": -(10**9)}, "dim_feedforward"),
        ({"n_encoder_layers": 10**6}, "n_encoder_layers"),
        ({"down_dims": [512, 10**9]}, "down_dims"),
        ({"crop_shape": [10**6, 10**6]}, "crop_shape"),
        ({"resize_imgs_with_padding": [10**9, 1]}, "resize_imgs_with_padding"),
        ({"optimizer_lr": 1e300}, "optimizer_lr"),
        ({"seed": 10**400}, "not JSON|seed"),
        ({"input_features": {"a": {"type": "VISUAL", "shape": [3, 10**9, 1]}}}, "shape"),
        ({"input_features": {"a": {"type": "VISUAL", "shape": [3, 16_384, 16_384]}}}, "shape"),
        ({"input_features": {"a": {"type": "STATE", "shape": [-1]}}}, "shape"),
        ({"input_features": {"a": {"type": "STATE", "shape": [True]}}}, "shape"),
        ({"input_features": {"a": [1]}}, "expected an object"),
        ({"input_features": [1]}, "should be an object"),
        ({"auto_map": {}}, "code from data"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "code from data"),
        ({"trust_remote_code": True}, "code from the hub"),
        ({"discover_packages_path": "canary"}, "asks to import"),
        ({"vlm_model_name": "stranger/model"}, "policies build on"),
        ({"vlm_model_name": "/data/model"}, "policies build on"),
        ({"vlm_model_name": "model"}, "policies build on"),
        ({"new_field_of_somebody": "../model"}, "policies build on"),
        ({"use_peft": True}, "an adapter"),
        ({"description": "x" * 200_000}, "characters"),
    ],
)
def test_a_configuration_that_asks_too_much_is_refused(folder, fields, says):
    change(folder / "config.json", **fields)
    refused(folder, says)


@pytest.mark.parametrize(
    "fields",
    [
        {"pretrained_path": "lerobot/smolvla_base"},
        {"pretrained_path": "/elsewhere/outputs/last/pretrained_model"},
        {"repo_id": "somebody/policy", "license": "apache-2.0", "tags": ["a/b"]},
        {"scheduler_decay_steps": 30_000_000, "chunk_size": 100, "dim_model": 8192},
        {"vision_backbone": "resnet18", "pretrained_backbone_weights": "ResNet18_Weights.IMAGENET1K_V1"},
        {"discover_packages_path": "vla_cl.policies"},
        {"trust_remote_code": False},
    ],
)
def test_a_configuration_that_lerobot_writes_passes(folder, fields):
    change(folder / "config.json", **fields)
    check_policy_folder(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "policy.pkl", "last.ckpt", "model.pth"])
def test_a_pickle_is_never_loaded(folder, name):
    (folder / "model.safetensors").unlink()
    refused(folder, "has no weights")
    (folder / name).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    refused(folder, "a pickle, which can run code")


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ({"weight_map": {"a": "../x.safetensors"}}, "leaves the folder"),
        ({"weight_map": {"a": "x.bin"}}, "no safetensors"),
        ({"weight_map": {}}, "no safetensors"),
        ({"weight_map": []}, "'weight_map' as dict"),
        ({"weight_map": {"a": "missing.safetensors"}}, "is missing"),
    ],
)
def test_shards_stay_inside(folder, index, says):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, says)


def test_shards_are_read_together(folder):
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    save_file({"b": torch.zeros(3)}, folder / "two.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert {name: entry.shape for name, entry in check_policy_folder(folder).tensors.items()} == {"a": (2,), "b": (3,)}


@pytest.mark.parametrize("lost", ["policy_preprocessor.json", "policy_postprocessor.json"])
def test_a_policy_of_an_older_lerobot_gets_a_command_that_exists(folder, lost):
    folder = folder.rename(folder.parents[1] / "policy")  # a path that fits into the sentence
    (folder / lost).unlink()
    with pytest.raises(ConfigurationError) as caught:
        check_policy_folder(folder)
    assert len(str(caught.value)) <= 300
    words = str(caught.value).partition("python -m ")[2].split()
    assert words[1:] == ["--pretrained-path", str(folder)]
    helped = subprocess.run([sys.executable, "-m", words[0], "--help"], capture_output=True, text=True, check=True)
    assert "--pretrained-path" in helped.stdout


def test_the_gate_itself_imports_no_lerobot():
    code = "import sys, vla_cl.trust.policies; print('lerobot' in sys.modules, 'torch' in sys.modules)"
    root = str(Path(vla_cl.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": root}
    )
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("hostile", [False, True])
def test_a_download_is_looked_at_before_it_is_used(folder, tmp_path, monkeypatch, hostile):
    """As the hub's cache keeps it: links into a folder of blobs."""
    if hostile:
        change(folder / "policy_preprocessor.json", steps=[{"class": "canary.Step"}])
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    revision = "0123456789" * 4
    snapshot = cache / "models--user--policy" / "snapshots" / revision
    for name in ("blobs", "refs"):
        (snapshot.parents[1] / name).mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs" / "main").write_text(revision)
    for path in folder.iterdir():
        (snapshot.parents[1] / "blobs" / path.stem).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/{path.stem}")
    found = fetch_policy("user/policy")
    if hostile:
        refused(found, "code from data is never run")
    else:
        assert check_policy_folder(found).kind == "act"
    with pytest.raises(ConfigurationError, match="cannot be had from the hub"):
        fetch_policy("user/other")


@pytest.mark.parametrize(
    "name", ["", "policy", "a/b/c", "../x", "/tmp/x", "a/..", "user/\x1b[31m", "http://a/b", "a/b?c", "a" * 500]
)
def test_what_is_no_hub_name_is_never_asked_for(name):
    with pytest.raises(ConfigurationError, match="neither a folder here nor a hub name") as caught:
        fetch_policy(name)
    assert "\x1b" not in str(caught.value)
