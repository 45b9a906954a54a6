"""Policy folders and weights."""

import json
import shutil
import struct

from hostile_cases import EVALUATE, LOAD, case, edit, function, load_weights, refit, safetensors


@case("policy_sound", LOAD, None)
def _(folder):
    pass


STEP = {"class": "canary_module.Step", "config": {}}


@case("policy_step_with_a_class", EVALUATE, "code from data is never run")
def _(folder):
    edit(folder / "policy_preprocessor.json", lambda content: content["steps"].insert(0, STEP))


@case("policy_postprocessor_with_a_class", LOAD, "code from data is never run")
def _(folder):
    edit(folder / "policy_postprocessor.json", lambda content: content["steps"].append(STEP))


@case("policy_step_with_a_class_and_a_name", LOAD, "code from data is never run")
def _(folder):
    edit(folder / "policy_preprocessor.json", lambda content: content["steps"][0].update(STEP))


@case("policy_in_a_run_with_a_class", EVALUATE, "code from data is never run", of="run")
def _(run):
    folder = run / "checkpoints" / "002" / "pretrained_model"
    edit(folder / "policy_preprocessor.json", lambda content: content["steps"].insert(0, STEP))
    refit(run)


@case("policy_unknown_step", LOAD, "neither LeRobot 0.6.1 nor vla_cl registers")
def _(folder):
    edit(folder / "policy_preprocessor.json", lambda content: content["steps"].insert(0, {"registry_name": "steal"}))


@case("policy_step_of_a_reward_model", LOAD, "neither LeRobot 0.6.1 nor vla_cl registers")
def _(folder):
    step = {"registry_name": "reward_classifier_processor", "config": {"pretrained_path": None}}
    edit(folder / "policy_preprocessor.json", lambda content: content["steps"].insert(0, step))


@case("policy_tokenizer_of_a_stranger", LOAD, "own policies build on")
def _(folder):
    step = {"registry_name": "tokenizer_processor", "config": {"tokenizer_name": "stranger/tokenizer"}}
    edit(folder / "policy_preprocessor.json", lambda content: content["steps"].insert(0, step))


@case("policy_tokenizer_in_a_folder", LOAD, "own policies build on")
def _(folder):
    step = {"registry_name": "tokenizer_processor", "config": {"tokenizer_name": "tokenizer"}}
    edit(folder / "policy_preprocessor.json", lambda content: content["steps"].insert(0, step))


@case("policy_tokenizer_with_remote_code", EVALUATE, "runs code from the hub")
def _(folder):
    config = {"action_tokenizer_name": "lerobot/other", "trust_remote_code": True}
    step = {"registry_name": "action_tokenizer_processor", "config": config}
    edit(folder / "policy_preprocessor.json", lambda content: content["steps"].insert(0, step))


@case("policy_config_with_auto_map", LOAD, "code from data is never run")
def _(folder):
    edit(folder / "config.json", lambda content: content.update(auto_map={"AutoModel": "canary_module.Step"}))


@case("policy_config_with_remote_code", LOAD, "asks for code from the hub")
def _(folder):
    edit(folder / "config.json", lambda content: content.update(trust_remote_code=True))


@case("policy_config_that_discovers_packages", LOAD, "asks to import")
def _(folder):
    edit(folder / "config.json", lambda content: content.update(discover_packages_path="canary_module"))


@case("policy_state_file_that_climbs_out", LOAD, "leaves the folder")
def _(folder):
    def climb(content):
        content["steps"][0]["state_file"] = "../../../../../outside/precious.txt"

    edit(folder / "policy_preprocessor.json", climb)


@case("policy_state_file_that_is_absolute", LOAD, "leaves the folder")
def _(folder):
    edit(folder / "policy_preprocessor.json", lambda content: content["steps"][0].update(state_file="/etc/passwd"))


@case("policy_weights_linked_elsewhere", LOAD, "a link that leads out of the folder")
def _(folder):
    (folder.parent / "elsewhere").mkdir()
    shutil.move(folder / "model.safetensors", folder.parent / "elsewhere" / "model.safetensors")
    (folder / "model.safetensors").symlink_to(folder.parent / "elsewhere" / "model.safetensors")


@case("policy_links_in_a_circle", LOAD, "config.json")
def _(folder):
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(folder / "config.json")


@case("policy_weights_as_a_pickle", EVALUATE, "a pickle, which can run code")
def _(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")


@case("policy_that_is_an_adapter", LOAD, "an adapter")
def _(folder):
    (folder / "model.safetensors").unlink()
    about = {"auto_mapping": {"parent_library": "canary_module"}, "base_model_name_or_path": "/etc"}
    (folder / "adapter_config.json").write_text(json.dumps(about))


@case("policy_weights_in_shards_elsewhere", LOAD, "leaves the folder")
def _(folder):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "../../outside/model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@case("policy_without_processors", EVALUATE, "lerobot.processor.migrate_policy_normalization")
def _(folder):
    (folder / "policy_preprocessor.json").unlink()
    (folder / "policy_postprocessor.json").unlink()


@case("policy_pretrained_path_elsewhere", LOAD, None)
def _(folder):
    edit(folder / "config.json", lambda content: content.update(pretrained_path="/etc", pretrained_revision="main"))


def _number(name, value, says):
    @case(f"policy_{name}_{value:g}", LOAD, says)
    def _(folder):
        edit(folder / "config.json", lambda content: content.update({name: value}))


_number("chunk_size", 1_000_000, "chunk_size")
_number("chunk_size", 10**9, "chunk_size")
_number("image_size", 10**9, "image_size")
_number("hidden_size", 200_000, "shape")
_number("condition_size", 10**9, "condition_size")
_number("num_keypoints", -(10**9), "num_keypoints")
_number("max_instruction_bytes", 10**30, "max_instruction_bytes")


@case("policy_camera_of_a_billion_pixels", LOAD, "shape")
def _(folder):
    def enlarge(content):
        content["input_features"]["observation.image"]["shape"] = [3, 10**9, 10**9]

    edit(folder / "config.json", enlarge)


@case("policy_channels_without_end", LOAD, "vision_channels")
def _(folder):
    edit(folder / "config.json", lambda content: content.update(vision_channels=[8, 8, 8 * 10**8]))


@case("policy_type_unknown", LOAD, "neither LeRobot 0.6.1 nor vla_cl knows")
def _(folder):
    edit(folder / "config.json", lambda content: content.update(type="nano_vlas"))


@case("policy_type_is_a_list", LOAD, "'type' as str")
def _(folder):
    edit(folder / "config.json", lambda content: content.update(type=["nano_vla"]))


@case("policy_field_unknown", LOAD, "cannot be loaded")
def _(folder):
    edit(folder / "config.json", lambda content: content.update(colour="red"))


@case("policy_config_nested_deeply", LOAD, "not JSON")
def _(folder):
    (folder / "config.json").write_text('{"type": ' + "[" * 200_000)


@case("policy_config_with_nan", LOAD, "not JSON")
def _(folder):
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"chunk_size": 4', '"chunk_size": NaN'))


@case("policy_config_is_a_pointer", LOAD, "git lfs pull")
def _(folder):
    (folder / "config.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n")


@case("policy_weights_are_a_pointer", LOAD, "git lfs pull")
def _(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n")


@case("policy_config_of_escape_sequences", EVALUATE, "\\x1b[31m")
def _(folder):
    edit(folder / "config.json", lambda content: content.update(type="\x1b[31mnano"))


def _rewrite(folder, change):
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@case("policy_weights_with_nan", LOAD, "NaN or Infinity")
def _(folder):
    def spoil(tensors):
        name = next(name for name in sorted(tensors) if tensors[name].is_floating_point() and tensors[name].ndim > 1)
        tensors[name].view(-1)[0] = float("nan")

    _rewrite(folder, spoil)


@case("policy_weights_of_another_shape", LOAD, "of shape")
def _(folder):
    def widen(tensors):
        import torch

        name = max(tensors, key=lambda key: tensors[key].ndim)
        tensors[name] = torch.zeros((2, *tensors[name].shape))

    _rewrite(folder, widen)


@case("policy_weights_cut", LOAD, "damaged")
def _(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@case("policy_statistics_with_nan", LOAD, "NaN or Infinity")
def _(folder):
    from safetensors.torch import load_file, save_file

    path = next(folder.glob("policy_preprocessor*.safetensors"))
    tensors = load_file(path)
    tensors[next(iter(tensors))][0] = float("nan")
    save_file(tensors, path)


@case("policy_statistics_with_nan_under_another_name", LOAD, "NaN or Infinity")
def _(folder):
    from safetensors.torch import load_file, save_file

    path = next(folder.glob("policy_postprocessor*.safetensors"))
    tensors = load_file(path)
    tensors[next(iter(tensors))][0] = float("nan")
    save_file(tensors, folder / "numbers.safetensors")
    path.unlink()
    edit(
        folder / "policy_postprocessor.json",
        lambda content: content["steps"][0].update(state_file="numbers.safetensors"),
    )


def _without_statistics(pipeline):
    @case(f"{pipeline}_without_statistics", EVALUATE, "have no statistics")
    def _(folder):
        def forget(content):
            for step in content["steps"]:
                step.pop("state_file", None)

        edit(folder / f"{pipeline}.json", forget)


_without_statistics("policy_preprocessor")
_without_statistics("policy_postprocessor")


@case("policy_that_does_not_turn_actions_back", EVALUATE, "no step that turns them back")
def _(folder):
    edit(folder / "policy_postprocessor.json", lambda content: content["steps"].__delitem__(0))


def _safetensors(name, content, says):
    @case(f"tensors_{name}", function(load_weights), says, of=None)
    def _(folder):
        (folder / "x.safetensors").write_bytes(content)
        return folder / "x.safetensors"


_ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
_safetensors("sound", safetensors({"a": _ONE}, b"\0" * 8), None)
_safetensors("header_larger_than_file", struct.pack("<Q", 2**60) + b"{}", "header does not fit")
_safetensors("header_no_json", safetensors(b"\x80\x04cos\nsystem"), "not JSON")
_safetensors("overlap", safetensors({"a": _ONE, "b": _ONE}, b"\0" * 8), "overlaps")
_safetensors("gap", safetensors({"a": _ONE, "b": _ONE | {"data_offsets": [12, 20]}}, b"\0" * 20), "leaves a gap")
_safetensors("outside", safetensors({"a": _ONE}, b"\0" * 4), "damaged")
_safetensors("more_than_listed", safetensors({"a": _ONE}, b"\0" * 80), "damaged")
_safetensors("size_against_shape", safetensors({"a": _ONE | {"shape": [10**12]}}, b"\0" * 8), "contradicts itself")
_safetensors("negative", safetensors({"a": _ONE | {"shape": [-2], "data_offsets": [8, 0]}}), "contradicts itself")
_safetensors("unknown_type", safetensors({"a": _ONE | {"dtype": "PICKLE"}}, b"\0" * 8), "unknown type")
_safetensors("entry_no_object", safetensors({"a": 7}), "contradicts itself")
