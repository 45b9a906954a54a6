"""Runs, checkpoints, journals and memories."""

import json
import zlib

from hostile_cases import (
    COMPARE,
    CONF,
    EVALUATE,
    EVALUATE_AS_IN_RUN,
    EXPORT,
    METRICS,
    REPORT,
    case,
    edit,
    flip,
    function,
    open_journal,
    open_memory,
    open_unit,
)  # fmt: skip


@case("run_sound_report", REPORT, None, of="run")
def _(run):
    pass


@case("run_weights_damaged_evaluate_directly", EVALUATE, "differs from its manifest", of="run")
def _(run):
    flip(run / "checkpoints" / "002" / "pretrained_model" / "model.safetensors")
    return run / "checkpoints" / "002"


@case("run_weights_damaged_evaluate_their_folder", EVALUATE, "differs from its manifest", of="run")
def _(run):
    flip(run / "checkpoints" / "002" / "pretrained_model" / "model.safetensors")
    return run / "checkpoints" / "002" / "pretrained_model"


@case("run_every_checkpoint_damaged", EVALUATE, "no checkpoint in", of="run")
def _(run):
    for number in ("001", "002"):
        flip(run / "checkpoints" / number / "pretrained_model" / "model.safetensors")


@case("run_checkpoint_without_manifest", EVALUATE, "is not complete", of="run")
def _(run):
    (run / "checkpoints" / "002" / "MANIFEST.json").unlink()
    return run / "checkpoints" / "002"


@case("run_checkpoint_with_more_files", EVALUATE, "its manifest does not list", of="run")
def _(run):
    (run / "checkpoints" / "002" / "pretrained_model" / "tokenizer.json").write_text("{}")
    return run / "checkpoints" / "002"


@case("run_manifest_that_climbs_out", EVALUATE, "leaves the folder", of="run")
def _(run):
    manifest = run / "checkpoints" / "002" / "MANIFEST.json"
    listed = json.loads(manifest.read_text())["files"] | {
        "../../../../../outside/precious.txt": {"bytes": 1, "sha256": ""}
    }
    manifest.write_text(json.dumps({"format": 1, "files": listed}))
    return run / "checkpoints" / "002"


@case("run_manifest_of_lists", EVALUATE, "does not list files", of="run")
def _(run):
    (run / "checkpoints" / "002" / "MANIFEST.json").write_text('{"files": {"a": []}}')
    return run / "checkpoints" / "002"


def _config(name, text, says, use=EVALUATE_AS_IN_RUN):
    @case(f"run_config_{name}", use, says, of="run")
    def _(run):
        before = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(text(before) if callable(text) else text)


LAUGHS = "a0: &a0 [lol]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
_config("laughs", LAUGHS, "an anchor or an alias")
_config("laughs_report", LAUGHS, "an anchor or an alias", REPORT)
_config("python_tag", "suite: !!python/object/apply:os.system ['touch hacked']\n", "has the tag")
_config("local_tag", "suite: !canary {}\n", "has the tag")
_config("nested", "a: " + "[" * 100_000, "nested too deeply")
_config("twice", "suite: {class: a}\nsuite: {class: b}\n", "a key is there twice")
_config("no_text", "\x00\x01", "not valid YAML")
_config("of_another_package", lambda text: text.replace("toy_world", "canary_plugin"), "its package is not listed")
_config(
    "of_another_package_memory", lambda text: text.replace("toy_world", "canary_plugin"), "remembers no samples", EXPORT
)
_config("command_in_a_number", lambda text: text.replace('"replan_every": 8', '"replan_every": "${oc.env:HOME}"'),
        "replan_every")  # fmt: skip


INTERPOLATED = "${oc.env:HOSTILE_MARK} \\${x} ${y:"


@case("run_settings_are_text", function(lambda run: _as_text(run)), None, of="run")
def _(run):
    edit(
        run / "config.yaml",
        lambda content: content["suite"].update(render_profile="${oc.env:HOSTILE_MARK} \\${x} ${y:"),
    )


def _as_text(run):
    from vla_cl.run.location import compose_evaluation

    overrides = ["plugins=[toy_world]"]
    profile = compose_evaluation(str(run), overrides, [CONF])["suite"]["render_profile"]
    if profile != INTERPOLATED:
        raise AssertionError(profile)


@case("run_info_damaged", REPORT, "not JSON", of="run")
def _(run):
    (run / "run.json").write_text((run / "run.json").read_text()[:-30])


@case("run_info_of_other_types", REPORT, "'seeds' as dict", of="run")
def _(run):
    edit(run / "run.json", lambda content: content.update(seeds=[1, 2]))


@case("run_info_without_seeds_compared", COMPARE, "seeds", of="run")
def _(run):
    edit(run / "run.json", lambda content: content.pop("seeds") and None)


@case("run_log_with_half_a_line", REPORT, None, of="run")
def _(run):
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], lines[3][:20], lines[4], "null", "[1]", lines[5][:-8]]))


@case("run_matrix_of_text", METRICS, "number or null", of="run")
def _(run):
    edit(run / "matrix.json", lambda content: content.update(success=[["a", None], [0, 1]]))


@case("run_matrix_too_large", METRICS, "cells|values", of=None)
def _(folder):
    row = ",".join(["0"] * 1500)
    tasks = ",".join(f'"{n}"' for n in range(1500))
    (folder / "matrix.json").write_text(f'{{"tasks": [{tasks}], "success": [{",".join([f"[{row}]"] * 1500)}]}}')


@case("run_matrix_with_escape_sequences", METRICS, None, of="run")
def _(run):
    edit(run / "matrix.json", lambda content: content.update(tasks=["a/\x1b[2J\x07", "a/\u202eb"], curves={}))


@case("run_cameras_with_escape_sequences", EVALUATE, "cameras", of="run")
def _(run):
    cameras = {"\x1b[31mx": "\x1b]0;title\x07\u202e"}
    edit(run / "config.yaml", lambda content: content.update(cameras=cameras))


@case("run_video_elsewhere", REPORT, "leaves the folder", of="run")
def _(run):
    import pandas as pd

    table = pd.read_parquet(run / "episodes.parquet")
    table["video"] = "../../../outside/precious.txt"
    table.to_parquet(run / "episodes.parquet")


@case("run_video_is_a_playlist", REPORT, None, of="run")
def _(run):
    for path in (run / "videos").rglob("*.mp4"):
        path.write_text("#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10.0,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n")


def _lines(name, lines, says):
    @case(f"journal_{name}", function(open_journal), says, of=None, writes=True)
    def _(folder):
        (folder / "evaluation.json").write_text('{"format": 1}')
        (folder / "episodes.jsonl").write_bytes(lines)
        return folder


_ROW = {
    "task": "point/red", "split": "report", "initial_state": 1, "outcome": "success", "env_steps": 3, "decisions": 1,
    "total_reward": 1.0, "seconds": 0.1, "error": None, "video": None, "session": 0, "elapsed": 1.0,
}  # fmt: skip


def _line(**changes):
    return json.dumps(_ROW | changes).encode() + b"\n"


_lines("sound", _line() + _line(initial_state=2)[:-20], None)
_lines("no_json", b"\xff\xfe\n" + _line(), "is damaged")
_lines("nested", b"[" * 100_000 + b"\n", "is damaged")
_lines("outcome_unknown", _line(outcome="won"), "is damaged")
_lines("numbers_as_text", _line(env_steps="3; rm"), "is damaged")
_lines("video_elsewhere", _line(video="/etc/passwd"), "leaves the folder")
_lines("lacks_entries", b"{}\n", "is damaged")


@case("memory_sound", function(open_memory), None, of="memory")
def _(folder):
    pass


@case("memory_unit_flipped", function(open_memory), "is damaged", of="memory")
def _(folder):
    flip(next(path for path in sorted(folder.iterdir()) if "raw" in path.name))


@case("memory_journal_that_climbs_out", function(open_memory), "is damaged", of="memory")
def _(folder):
    line = {"file": "../../outside/precious.txt", "bytes": 9, "sha256": ""}
    (folder / "journal.jsonl").write_text(json.dumps(line) + "\n")


@case("memory_journal_of_itself", function(open_memory), "is damaged", of="memory")
def _(folder):
    (folder / "journal.jsonl").write_text('{"file": "journal.jsonl", "bytes": 9, "sha256": ""}\n')


def _unit(name, content, says):
    @case(f"memory_unit_{name}", function(open_unit), says, of=None)
    def _(folder):
        (folder / "unit").write_bytes(content() if callable(content) else content)
        return folder / "unit"


def _packed(about, content=b""):
    return _behind_length(zlib.compress(json.dumps(about).encode() + b"\n" + content))


def _behind_length(small):
    return len(small).to_bytes(8, "little") + small


def _pictures(shape, sizes, **more):
    pictures = {"i": {"shape": shape, "sizes": sizes, "number": None}}
    return _packed(_ABOUT | {"pictures": pictures} | more, b"\0" * 16)


_ABOUT = {"codec": "raw", "texts": {}, "pictures": {}, "arrays": {"index": ["<i8", [2]]}}
_unit("sound", _packed(_ABOUT, b"\0" * 16), None)
_unit("bomb", lambda: _behind_length(zlib.compress(bytes(2**28 + 2**20), 1)), "is damaged")
_unit("length_without_end", b"\xff" * 8 + b"x", "is damaged")
_unit("objects", _packed(_ABOUT | {"arrays": {"index": ["|O", [2]]}}, b"\0" * 16), "is damaged")
_unit("shape_without_end", _packed(_ABOUT | {"arrays": {"index": ["<i8", [10**15]]}}), "is damaged")
_unit("negative_shape", _packed(_ABOUT | {"arrays": {"index": ["<i8", [-1]]}}), "is damaged")
_unit("texts_without_end", _packed(_ABOUT | {"texts": {"task": [["a"], 10**12]}}, b"\0" * 16), "is damaged")
_unit("unknown_codec", _pictures([2, 3, 1, 1], [0, 0], codec="pickle"), "unknown encoding")
_unit("pictures_outside", _pictures([2, 3, 9, 9], [10**9, 1]), "is damaged")
_unit("picture_too_large", _pictures([2, 3, 10**6, 10**6], [0, 0]), "is damaged")
_unit("pictures_that_are_none", _pictures([2, 3, 9, 9], [0, 0], codec="jpeg"), "no whole picture")
