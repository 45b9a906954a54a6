"""Datasets of other writers: understood, or refused in one sentence."""

import importlib.util
import io
import json
import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from odd_datasets import (
    CAMERA,
    data_file,
    edit_info,
    edit_rows,
    edit_table,
    episodes_file,
    make_dataset,
    make_pointer,
    numbered,
    set_column,
    video_file,
    write_video,
)
from PIL import Image

from vla_cl.data.dataset_folder import DatasetFolder, spec_of
from vla_cl.data.frames import Frames
from vla_cl.data.source import Source
from vla_cl.types import ConfigurationError

EPISODES = (("lift", 6), ("drop", 5))
TOTAL = 11


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """One with pictures in its data files, one with videos."""
    folder = tmp_path_factory.mktemp("pristine")
    return {kind: make_dataset(folder / kind, EPISODES, video=kind == "video") for kind in ("image", "video")}


@pytest.fixture
def root(pristine, tmp_path):
    return shutil.copytree(pristine["image"], tmp_path / "d")


@pytest.fixture
def video(pristine, tmp_path):
    return shutil.copytree(pristine["video"], tmp_path / "v")


def read(root):
    """Everything that training reads."""
    return Frames([Source(root)], root.parent / "cache", [0, 1])


def refused(root, *words):
    """One sentence with these words; its length, without that of the dataset's path, is bounded."""
    with pytest.raises(ConfigurationError) as caught:
        read(root)
    message = str(caught.value)
    assert "\n" not in message and len(message) <= 300, message
    for word in words:
        assert word in message, message


def read_rightly(root, pristine):
    """The same samples as the dataset as it was written."""
    expected = Frames([Source(pristine)], root.parent / "expected", [0, 1]).batch(np.arange(TOTAL))
    found = read(root).batch(np.arange(TOTAL))
    for key, value in expected.items():
        assert np.array_equal(value, found[key]), key


def set_camera(root, **changes):
    def change(info):
        info["features"][CAMERA].update(changes)

    edit_info(root, change)


# Cameras: what the pictures are counts, whatever the metadata say.

DECLARED = {
    "channels first, with names": {"shape": [3, 48, 64], "names": ["channels", "height", "width"]},
    "channels first, other names": {"shape": [3, 48, 64], "names": ["channel", "height", "width"]},
    "channels first, short names": {"shape": [3, 48, 64], "names": ["c", "h", "w"]},
    "channels first, without names": {"shape": [3, 48, 64], "names": None},
    "channels last, without names": {"shape": [48, 64, 3], "names": None},
    "no names at all": {"shape": [48, 64, 3], "names": []},
    "names as a dictionary": {"shape": [48, 64, 3], "names": {"axes": ["height", "width", "channels"]}},
    "names as a text": {"shape": [48, 64, 3], "names": "hwc"},
    "names as numbers": {"shape": [48, 64, 3], "names": [0, 1, 2]},
    "width before height": {"shape": [64, 48, 3], "names": ["width", "height", "channels"]},
    "dtype in capitals": {"dtype": "Image "},
    "two sizes": {"shape": [48, 64]},
}
WRONGLY_DECLARED = {
    "channels first, wrong names": {"shape": [3, 48, 64], "names": ["height", "width", "channels"]},
    "another size": {"shape": [40, 40, 3]},
    "no channels": {"shape": [0, 64, 3]},
    "one number": {"shape": 3},
    "no shape": {"shape": None},
    "four sizes": {"shape": [1, 48, 64, 3]},
    "turned": {"shape": [64, 48, 3]},
}


@pytest.mark.parametrize("declared", DECLARED)
def test_sizes_are_understood_however_they_are_declared(root, pristine, declared):
    set_camera(root, **DECLARED[declared])
    folder = DatasetFolder(root)
    assert folder.spec.cameras == {CAMERA: (48, 64)} and not folder.left_out
    read_rightly(root, pristine["image"])


@pytest.mark.parametrize("declared", WRONGLY_DECLARED)
@pytest.mark.parametrize("kind", ["image", "video"])
def test_of_a_wrongly_declared_size_the_pictures_count_and_it_is_said(pristine, tmp_path, kind, declared):
    root = shutil.copytree(pristine[kind], tmp_path / "d")
    set_camera(root, **WRONGLY_DECLARED[declared])
    folder = DatasetFolder(root)
    assert folder.spec.cameras == {CAMERA: (48, 64)}
    assert "48x64; the pictures count" in folder.left_out[0]
    read_rightly(root, pristine[kind])


def png(picture, mode=None, kind="PNG"):
    image = Image.fromarray(picture)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, kind)
    return buffer.getvalue()


def store(root, contents, paths=None):
    """Replace the stored pictures."""
    cells = [
        {"bytes": content, "path": path}
        for content, path in zip(contents, paths or [None] * len(contents), strict=True)
    ]
    set_column(data_file(root), CAMERA, pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())])))


PICTURES = [numbered(episode, step) for episode, (_, length) in enumerate(EPISODES) for step in range(length)]


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "LA", "1"])
def test_pictures_of_other_modes_become_rgb(root, mode):
    store(root, [png(picture, mode) for picture in PICTURES])
    batch = read(root).batch(np.arange(TOTAL))
    for row, picture in enumerate(PICTURES):
        expected = np.asarray(Image.open(io.BytesIO(png(picture, mode))).convert("RGB")).transpose(2, 0, 1)
        assert np.array_equal(batch[CAMERA][row], expected)


DEPTH = {
    "uint16": lambda picture: picture[..., 0].astype(np.uint16) * 40,
    "int32": lambda picture: picture[..., 0].astype(np.int32) * 40,
    "float32": lambda picture: picture[..., 0].astype(np.float32),
}


@pytest.mark.parametrize("kind", DEPTH)
def test_undeclared_depth_is_left_out_by_its_pictures(root, kind):
    store(root, [png(DEPTH[kind](picture), kind="TIFF") for picture in PICTURES])
    folder = DatasetFolder(root)
    assert folder.spec.cameras == {}
    assert "is left out: its pictures are of Pillow's mode" in folder.left_out[0]
    assert CAMERA not in read(root).batch(np.arange(2))


@pytest.mark.parametrize("where", ["info", "video_info", None])
@pytest.mark.parametrize("name", ["is_depth_map", "video.is_depth_map"])
def test_declared_depth_is_left_out(root, where, name):
    set_camera(root, **({name: True} if where is None else {where: {name: True}}))
    folder = DatasetFolder(root)
    assert folder.spec.cameras == {} and "map of distances" in folder.left_out[0]


def test_depth_as_lerobot_writes_it_beside_a_camera(tmp_path):
    """Sixteen bits, as pictures and as videos."""
    depth = {
        "observation.images.depth": {"dtype": "image", "shape": (48, 64, 1), "names": ["height", "width", "channels"],
                                     "info": {"is_depth_map": True, "depth_unit": "mm"}},
    }  # fmt: skip

    def picture(episode, step, key):
        seen = numbered(episode, step)
        return seen if key == CAMERA else seen[..., :1].astype(np.uint16) * 100

    root = make_dataset(tmp_path / "d", EPISODES, picture=picture, camera_features=depth)
    folder = DatasetFolder(root)
    assert folder.spec.cameras == {CAMERA: (48, 64)}
    assert len(folder.left_out) == 1 and "observation.images.depth" in folder.left_out[0]
    assert set(read(root).batch(np.arange(2))) == {
        CAMERA,
        "action",
        "action_is_pad",
        "index",
        "observation.state",
        "task",
    }


DEEP = {"gray10le": "libx265", "gray12le": "libx265", "gray16le": "ffv1"}


@pytest.mark.parametrize("pixels", DEEP)
def test_undeclared_depth_in_a_video_is_left_out(video, pixels):
    options = {"x265-params": "log-level=none"} if DEEP[pixels] == "libx265" else {}
    path = video_file(video)
    written = path.with_suffix(".mkv" if DEEP[pixels] == "ffv1" else ".mp4")
    write_video(written, PICTURES, [row / 10 for row in range(TOTAL)], DEEP[pixels], pixels, options)
    written.rename(path)
    folder = DatasetFolder(video)
    assert folder.spec.cameras == {} and f"its video holds {pixels}" in folder.left_out[0]


def test_a_grey_video_becomes_rgb(video):
    write_video(video_file(video), PICTURES, [row / 10 for row in range(TOTAL)], pixels="gray")
    batch = read(video).batch(np.arange(TOTAL))
    assert np.array_equal(batch[CAMERA][:, 0], batch[CAMERA][:, 2]) and batch[CAMERA].float().std() > 10


def test_one_picture_that_is_unlike_the_others(root):
    contents = [png(picture) for picture in PICTURES]
    contents[8] = png(PICTURES[8][:40, :40])
    store(root, contents)
    refused(root, "episode 1, frame 2", CAMERA, "40x40", "48x64")
    contents[8] = png(DEPTH["uint16"](PICTURES[8]))
    store(root, contents)
    refused(root, "episode 1, frame 2", CAMERA, "I;16")


BROKEN = {
    "cut": lambda content: content[: len(content) // 2],
    "no picture": lambda content: b"nothing" * 30,
    "nothing": lambda content: None,
    "empty": lambda content: b"",
    "a program": lambda content: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\nshowpage\n",
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_picture_is_named(root, broken):
    contents = [png(picture) for picture in PICTURES]
    contents[3] = BROKEN[broken](contents[3])
    store(root, contents)
    refused(root, "episode 0, frame 3", CAMERA)


def test_pictures_in_files_of_their_own(root, pristine):
    (root / "images").mkdir(exist_ok=True)
    for row, picture in enumerate(PICTURES):
        (root / "images" / f"{row}.png").write_bytes(png(picture))
    store(root, [None] * TOTAL, [f"images/{row}.png" for row in range(TOTAL)])
    read_rightly(root, pristine["image"])
    (root / "images" / "4.png").unlink()
    shutil.rmtree(root.parent / "cache")
    refused(root, "episode 0, frame 4", "is missing")
    for path in ("../elsewhere.png", "/etc/passwd", "images/../../x.png"):
        store(root, [None] * TOTAL, [path] * TOTAL)
        refused(root, "leaves the folder")


def test_pictures_as_plain_bytes_and_as_photographs(root, pristine):
    set_column(data_file(root), CAMERA, pa.array([png(picture) for picture in PICTURES]))
    read_rightly(root, pristine["image"])
    photographs = [png(picture, kind="JPEG") for picture in PICTURES]
    store(root, photographs)
    batch = read(root).batch(np.arange(TOTAL))
    assert np.array_equal(
        batch[CAMERA][5].numpy().transpose(1, 2, 0), np.asarray(Image.open(io.BytesIO(photographs[5])))
    )


@pytest.mark.parametrize("values", [[1] * TOTAL, ["x.png"] * TOTAL, [[1, 2]] * TOTAL])
def test_a_picture_column_of_something_else(root, values):
    set_column(data_file(root), CAMERA, values)
    refused(root, "episode 0, frame 0", CAMERA)


def test_features_that_are_not_ours_are_ignored(root, pristine):
    def change(info):
        info["features"] |= {
            "next.reward": {"dtype": "float32", "shape": [1], "names": None},
            "observation.environment_state": {"dtype": "float32", "shape": [900], "names": None},
            "language_persistent": {"dtype": "language", "shape": [1]},
            "annotation.human": "free text",
            "robot.notes": {"text": "no dtype"},
        }

    edit_info(root, change)
    read_rightly(root, pristine["image"])


# The table of tasks.

TABLES = {
    "LeRobot 0.6": lambda: pd.DataFrame({"task_index": [0, 1]}, index=pd.Index(["lift", "drop"], name="task")),
    "index without a name": lambda: pd.DataFrame({"task_index": [0, 1]}, index=["lift", "drop"]),
    "a column": lambda: pd.DataFrame({"task_index": [0, 1], "task": ["lift", "drop"]}),
    "in another order": lambda: pd.DataFrame({"task": ["drop", "lift"], "task_index": [1, 0]}),
    "categories": lambda: pd.DataFrame({"task_index": [0, 1], "task": pd.Categorical(["lift", "drop"])}),
    "numbers as floats": lambda: pd.DataFrame({"task_index": [0.0, 1.0], "task": ["lift", "drop"]}),
    "the same task twice": lambda: pd.DataFrame({"task_index": [0, 1, 0], "task": ["lift", "drop", "lift"]}),
}


@pytest.mark.parametrize("table", TABLES)
def test_task_tables_of_every_layout(root, pristine, table):
    TABLES[table]().to_parquet(root / "meta" / "tasks.parquet")
    assert DatasetFolder(root).instructions == {0: "lift", 1: "drop"}
    read_rightly(root, pristine["image"])


def test_tasks_without_frames_are_left_out_and_said(root):
    table = pd.DataFrame({"task_index": [0, 1, 2, 7], "task": ["lift", "drop", "fly", ""]})
    table.to_parquet(root / "meta" / "tasks.parquet")
    folder = DatasetFolder(root)
    assert folder.instructions == {0: "lift", 1: "drop"}
    assert folder.instructions_without_frames == {2: "fly", 7: ""}
    assert [note for note in folder.left_out if "'fly'" in note and "left out" in note]
    assert len(read(root)) == TOTAL


def test_two_numbers_of_one_instruction_are_one_task(root):
    pd.DataFrame({"task_index": [0, 1], "task": ["lift", "lift"]}).to_parquet(root / "meta" / "tasks.parquet")
    assert len(Frames([Source(root, "lift")], root.parent / "cache", [0])) == TOTAL


WRONG_TABLES = {
    "no text": (pd.DataFrame({"task_index": [0, 1]}), "task"),
    "no numbers": (pd.DataFrame({"task": ["lift", "drop"]}), "task_index"),
    "an empty text": (pd.DataFrame({"task_index": [0, 1], "task": ["lift", "  "]}), "no text"),
    "a missing text": (pd.DataFrame({"task_index": [0, 1], "task": ["lift", None]}), "no text"),
    "a huge text": (pd.DataFrame({"task_index": [0, 1], "task": ["lift", "x" * 100_000]}), "100000 characters"),
    "contradictory": (pd.DataFrame({"task_index": [0, 1, 1], "task": ["lift", "drop", "fly"]}), "two different"),
    "too few": (pd.DataFrame({"task_index": [0], "task": ["lift"]}), "task 1"),
    "numbers as text": (pd.DataFrame({"task_index": ["0", "1"], "task": ["lift", "drop"]}), "task_index"),
    "half a number": (pd.DataFrame({"task_index": [0.5, 1], "task": ["lift", "drop"]}), "whole"),
}


@pytest.mark.parametrize("table", WRONG_TABLES)
def test_task_tables_that_cannot_be_right(root, table):
    content, word = WRONG_TABLES[table]
    content.to_parquet(root / "meta" / "tasks.parquet")
    refused(root, word)


@pytest.mark.parametrize("script", ["把方块拿起来", "поднять куб", "ارفع المكعب", "持ち上げる🙂", "lift " * 200])
def test_instructions_in_any_script(tmp_path, script):
    root = make_dataset(tmp_path / "d", [(script, 3), ("drop", 3)])
    frames = Frames([Source(root, script)], tmp_path / "cache", [0])
    assert frames.batch(np.arange(3))["task"] == [script] * 3


# Versions, and files that are not what their names say.


@pytest.mark.parametrize("version", ["v3.0", "3.0", "v3.1", "v3"])
def test_versions_that_are_read(root, pristine, version):
    edit_info(root, lambda info: info.update(codebase_version=version))
    read_rightly(root, pristine["image"])


OLD = {
    "v2.1": "lerobot.scripts.convert_dataset_v21_to_v30 --repo-id=",
    "v2.0": "older LeRobot",
    "v1.6": "older LeRobot",
    "v4.0": "another LeRobot",
    "33": "another LeRobot",
    None: "None",
    "three": "three",
}


@pytest.mark.parametrize("version", OLD)
def test_versions_that_are_not(root, version):
    edit_info(root, lambda info: info.update(codebase_version=version))
    refused(root, OLD[version], "not v3.0")


def test_the_command_that_a_message_gives_exists(root):
    edit_info(root, lambda info: info.update(codebase_version="v2.1"))
    with pytest.raises(ConfigurationError) as caught:
        DatasetFolder(root)
    module, options = re.search(r"python -m (\S+) (.*)`", str(caught.value)).groups()
    known = re.findall(r'"(--[a-z-]+)"', Path(importlib.util.find_spec(module).origin).read_text())
    assert {option.split("=")[0] for option in options.split()} <= set(known)


FILES = ["meta/info.json", "meta/tasks.parquet", "episodes", "data", "video"]


def file_of(root, name):
    return {"episodes": episodes_file, "data": data_file, "video": video_file}.get(name, lambda root: root / name)(root)


@pytest.mark.parametrize("name", FILES)
def test_git_lfs_pointers_are_recognised(video, name):
    make_pointer(file_of(video, name))
    refused(video, "Git LFS pointer", "git lfs pull")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("fault", ["missing", "empty", "cut", "text", "folder"])
def test_files_that_are_missing_or_damaged(video, name, fault):
    path = file_of(video, name)
    content = path.read_bytes()
    path.unlink()
    if fault == "folder":
        path.mkdir()
    elif fault != "missing":
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "text": b"hello\n" * 9}[fault])
    refused(video)


@pytest.mark.parametrize("folder", ["data", "meta", "videos", "meta/episodes", "data/chunk-000"])
@pytest.mark.parametrize("fault", ["missing", "empty", "a file"])
def test_folders_that_are_missing(video, folder, fault):
    shutil.rmtree(video / folder)
    if fault == "empty":
        (video / folder).mkdir()
    elif fault == "a file":
        (video / folder).write_text("x")
    refused(video)


INFO = {
    "fps": [0, -5, None, "10", True, 1e9, [10]],
    "total_frames": [12, 10, 0, -1, 10**12, None, "11", 11.5, True],
    "features": [None, [], {}, "x", {"action": 3}],
    "data_path": [7, "{chunk_index.__class__}", "{0}", "{chunk_index:0999999d}"],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in INFO.items() for value in values])
def test_descriptions_that_cannot_be_right(root, key, value):
    edit_info(root, lambda info: info.update({key: value}))
    refused(root)


@pytest.mark.parametrize("content", ["", "[]", "null", "{", '{"a": NaN}', "[" * 10_000, '{"codebase_version": "v3.0"}'])
def test_descriptions_that_are_no_description(root, content):
    (root / "meta" / "info.json").write_text(content)
    refused(root)


@pytest.mark.parametrize("name", ["episodes", "data", "video"])
def test_links_that_lead_out_of_the_folder(video, tmp_path, name):
    path = file_of(video, name)
    path.rename(tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    refused(video, "leads out of the folder")


def test_a_snapshot_of_the_hub_is_made_of_links(video, tmp_path, pristine):
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "abc", tmp_path / "hub" / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in video.rglob("*") if path.is_file())):
        link = snapshot / path.relative_to(video)
        link.parent.mkdir(parents=True, exist_ok=True)
        path.rename(blobs / str(number))
        link.symlink_to(blobs / str(number))
    read_rightly(snapshot, pristine["video"])
    assert DatasetFolder(snapshot).identity == DatasetFolder(pristine["video"]).identity


# Rows against metadata.


def drop_rows(root, places):
    edit_rows(data_file(root), lambda table: table.filter(pa.array([row not in places for row in range(len(table))])))


def columns(root):
    return pq.read_table(data_file(root)).to_pandas()


def rows(name, values):
    """A change: other values in a column of the data file."""
    return lambda root: set_column(data_file(root), name, values)


def without(name):
    return lambda root: edit_rows(data_file(root), lambda table: table.drop_columns(name))


def episodes(**values):
    return lambda root: edit_table(episodes_file(root), lambda table: table.assign(**values))


def declared(key, **values):
    return lambda root: edit_info(root, lambda info: info["features"][key].update(values))


def twice(root):
    edit_rows(data_file(root), lambda table: pa.concat_tables([table, table]))


NAN, INFINITE = float("nan"), float("inf")
PLAIN = [0.0] * 4
ROWS = {
    "fewer rows": (lambda root: drop_rows(root, [10]), ["11 frames", "10"]),
    "a lost episode": (lambda root: drop_rows(root, range(6, 11)), ["no frame of episode 1"]),
    "no row at all": (lambda root: drop_rows(root, range(11)), ["hold 0"]),
    "rows twice": (twice, ["hold 22"]),
    "another file": (lambda root: shutil.copy(data_file(root), data_file(root).with_name("file-001.parquet")), ["22"]),
    "index descending": (rows("index", list(range(10, -1, -1))), ["timestamp goes"]),
    "index repeated": (rows("index", [0] * 11), ["two rows have the index 0"]),
    "index repeated once": (rows("index", [*range(10), 9]), ["index 9"]),
    "index mixed": (rows("index", [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5]), ["episode"]),
    "index missing": (without("index"), ["index"]),
    "no time": (without("timestamp"), ["timestamp"]),
    "time descending": (rows("timestamp", [1.0 - n / 10 for n in range(11)]), ["timestamp goes"]),
    "time that is none": (rows("timestamp", [NAN] * 11), ["timestamp nan"]),
    "time in milliseconds": (rows("timestamp", [100.0 * n for n in range(11)]), ["10 fps"]),
    "half the rate": (lambda root: edit_info(root, lambda info: info.update(fps=20)), ["20 fps", "0.1 s apart"]),
    "frame_index repeated": (rows("frame_index", [0] * 11), ["frame_index goes"]),
    "an unknown episode": (rows("episode_index", [0] * 6 + [5] * 5), ["episode 5"]),
    "one episode only": (rows("episode_index", [0] * 11), ["timestamp goes"]),
    "lengths swapped": (episodes(length=[5, 6], dataset_to_index=[5, 12]), ["episode 0 has 6 frames"]),
    "another length": (episodes(length=[6, 9]), ["episode 1"]),
    "an episode twice": (episodes(episode_index=[0, 0]), ["twice"]),
    "no length": (lambda root: edit_table(episodes_file(root), lambda table: table.drop(columns="length")), ["length"]),
    "an unknown task": (rows("task_index", [0] * 10 + [9]), ["task 9", "episode 1, frame 4"]),
    "a negative task": (rows("task_index", [-1] * 11), ["task -1"]),
    "action too short": (rows("action", [[0.0, 1.0]] * 11), ["action has 2 numbers", "4 by"]),
    "action a number": (rows("action", [0.0] * 11), ["action has 1 numbers"]),
    "action of two lengths": (rows("action", [PLAIN] * 7 + [[0.0] * 3] * 4), ["different lengths"]),
    "action with holes": (rows("action", [[0.0, None, 1.0, 2.0]] * 11), ["empty places"]),
    "action without a row": (rows("action", [PLAIN] * 10 + [None]), ["empty"]),
    "action as text": (rows("action", [["a"] * 4] * 11), ["string"]),
    "action missing": (without("action"), ["action"]),
    "action not a number": (rows("action", [PLAIN] * 7 + [[0, 0, NAN, 0]] * 4), ["episode 1, frame 1 is nan", "4 fr"]),
    "action without end": (rows("action", [PLAIN] * 10 + [[INFINITE] * 4]), ["episode 1, frame 4 is inf"]),
    "action beyond float32": (rows("action", [[1e300] * 4] * 11), ["1e+300"]),
    "state not a number": (rows("observation.state", [[NAN] * 4] * 11), ["observation.state of episode 0, frame 0"]),
    "state missing": (without("observation.state"), ["observation.state"]),
    "no action declared": (lambda root: edit_info(root, lambda info: info["features"].pop("action")), ["no feature"]),
    "an absurd action": (declared("action", shape=[10**9]), ["1000000000"]),
    "a shape of text": (declared("action", shape="four"), ["shape"]),
}


@pytest.mark.parametrize("fault", ROWS)
def test_rows_that_contradict_the_metadata(root, fault):
    change, words = ROWS[fault]
    change(root)
    refused(root, *words)


def as_lists(values):
    return {
        "list of float64": pa.array(values, pa.list_(pa.float64())),
        "large list": pa.array(values, pa.large_list(pa.float32())),
        "fixed-size list": pa.array(values, pa.list_(pa.float32(), 4)),
        "list of integers": pa.array([[int(number) for number in row] for row in values], pa.list_(pa.int64())),
        "list of lists": pa.array([[row[:2], row[2:]] for row in values], pa.list_(pa.list_(pa.float32()))),
    }


@pytest.mark.parametrize("kind", list(as_lists([[0.0] * 4])))
def test_actions_in_columns_of_any_type(root, kind):
    values = [[float(row), -1.0, 2.0, 3.0] for row in range(TOTAL)]
    set_column(data_file(root), "action", as_lists(values)[kind])
    assert read(root).actions.tolist() == values


@pytest.mark.parametrize(
    "kind", [pa.float64(), pa.int32(), pa.bool_(), pa.list_(pa.float32()), pa.list_(pa.float32(), 1)]
)
def test_a_state_and_an_action_of_one_number(tmp_path, kind):
    root = make_dataset(tmp_path / "d", EPISODES, state=1, action=1)
    plain = [row % 2 for row in range(TOTAL)]
    values = [[float(value)] for value in plain] if pa.types.is_nested(kind) else pa.array(plain).cast(kind).to_pylist()
    for name in ("observation.state", "action"):
        set_column(data_file(root), name, pa.array(values, kind))
    frames = read(root)
    assert frames.actions.tolist() == frames.states.tolist() == [[float(value)] for value in plain]


@pytest.mark.parametrize("kind", [pa.int32(), pa.float64(), pa.uint64(), pa.list_(pa.int64(), 1)])
def test_numbers_of_rows_in_columns_of_any_type(root, pristine, kind):
    for name in ("index", "episode_index", "task_index", "frame_index"):
        plain = columns(root)[name].tolist()
        values = [[value] for value in plain] if pa.types.is_nested(kind) else plain
        set_column(data_file(root), name, pa.array(values, kind))
    read_rightly(root, pristine["image"])


def test_rows_in_any_order_and_numbers_with_gaps(root, pristine):
    """Episodes were removed: their numbers, and those of the frames, have gaps; rows lie in any order."""
    set_column(data_file(root), "episode_index", [3] * 6 + [8] * 5)
    set_column(data_file(root), "index", [40 + row for row in range(6)] + [90 + row for row in range(5)])
    edit_table(episodes_file(root), lambda table: table.assign(episode_index=[3, 8]))
    order = np.random.default_rng(0).permutation(TOTAL)
    edit_rows(data_file(root), lambda table: table.take(order))
    read_rightly(root, pristine["image"])


def test_without_frame_numbers_they_are_counted(root, pristine):
    edit_rows(data_file(root), lambda table: table.drop_columns("frame_index"))
    read_rightly(root, pristine["image"])


def test_an_episode_of_one_row(root):
    keep = [0, 1, 2, 3, 4, 5, 6]
    edit_rows(data_file(root), lambda table: table.take(keep))
    edit_info(root, lambda info: info.update(total_frames=7))
    edit_table(episodes_file(root), lambda table: table.assign(length=[6, 1], dataset_to_index=[6, 7]))
    frames = read(root)
    assert frames.batch(np.array([6]))["action_is_pad"].tolist() == [[False, True]]


def test_a_missing_data_file_is_told_by_its_episodes(tmp_path):
    root = make_dataset(tmp_path / "d", EPISODES)
    table = pq.read_table(data_file(root))
    for number, part in enumerate((slice(0, 6), slice(6, 11))):
        rows = datasets.Dataset(table.slice(part.start, part.stop - part.start))
        rows.to_parquet(root / "data" / "chunk-000" / f"file-{number:03d}.parquet")
    assert len(read(root)) == TOTAL
    (root / "data" / "chunk-000" / "file-001.parquet").unlink()
    refused(root, "promises 11 frames", "hold 6", "no frame of episode 1")


# What else a dataset tells.


def test_pieces_of_columns_are_bounded(root):
    folder = DatasetFolder(root)
    pieces = list(folder.batches(["action", "episode_index"], size=4))
    assert [len(piece["action"]) for _, piece in pieces] == [4, 4, 3]
    assert {path for path, _ in pieces} == {data_file(root)} == set(folder.data_files)
    assert np.array_equal(np.concatenate([piece["action"] for _, piece in pieces]), folder.column("action"))


@pytest.mark.parametrize("kind", ["image", "video"])
def test_the_ends_of_files_can_be_looked_at(pristine, tmp_path, kind):
    root = shutil.copytree(pristine[kind], tmp_path / "d")
    assert DatasetFolder(root).look_at_ends(CAMERA) == 1
    for row in range(TOTAL):
        assert np.abs(DatasetFolder(root).image(CAMERA, row).astype(int) - PICTURES[row]).max() <= 4


def test_spec_of_a_source_that_renames_and_chooses(tmp_path):
    keys = ("observation.images.top", "observation.images.wrist", "observation.images.side")
    root = make_dataset(
        tmp_path / "d", EPISODES, cameras=dict(zip(keys, [(48, 64), (32, 40), (16, 16)], strict=True)), fps=20
    )
    source = Source(root, cameras=(("observation.images.camera1", keys[1]), ("observation.images.camera2", keys[0])))
    spec = spec_of(source)
    assert spec.cameras == {"observation.images.camera1": (32, 40), "observation.images.camera2": (48, 64)}
    assert (spec.state_size, spec.action_size, spec.fps) == (4, 4, 20.0)
    frames = Frames([source], tmp_path / "cache", [0])
    assert frames.spec == spec and len(list((tmp_path / "cache").glob("*.frames"))) == 2
    batch, folder = frames.batch(np.arange(TOTAL)), DatasetFolder(root)
    assert {key for key in batch if key.startswith("observation.images")} == set(spec.cameras)
    for new, old in source.cameras:
        assert all(
            np.array_equal(batch[new][row].numpy().transpose(1, 2, 0), folder.image(old, row)) for row in range(TOTAL)
        )
    for pairs in ((("a", "observation.images.hand"),), (("a", keys[0]), ("a", keys[1]))):
        with pytest.raises(ConfigurationError, match=r"no camera|same new name"):
            spec_of(Source(root, cameras=pairs))


def test_renamed_cameras_share_their_decoded_pictures(root, tmp_path):
    for cameras in (None, (("observation.images.camera1", CAMERA),)):
        Frames([Source(root, cameras=cameras)], tmp_path / "cache", [0])
    assert len(list((tmp_path / "cache").glob("*.frames"))) == 1


UNLIKE = {
    "sizes": ({"cameras": {CAMERA: (40, 40)}}, "cameras"),
    "cameras": ({"cameras": ("observation.images.top",)}, "cameras"),
    "states": ({"state": 5}, "state_size"),
    "actions": ({"action": 3}, "action_size"),
    "rates": ({"fps": 20}, "fps"),
}


@pytest.mark.parametrize("unlike", UNLIKE)
def test_sources_of_one_experience_must_agree(root, tmp_path, unlike):
    options, word = UNLIKE[unlike]
    other = make_dataset(tmp_path / "other", EPISODES, **options)
    with pytest.raises(ConfigurationError, match=f"must agree in {word}") as caught:
        Frames([Source(root), Source(other)], tmp_path / "cache", [0])
    assert len(str(caught.value)) <= 300


# Identity.


def test_identity_does_not_depend_on_place_or_date(root, tmp_path):
    before = DatasetFolder(root).identity
    copy = shutil.copytree(root, tmp_path / "a copy", copy_function=shutil.copyfile)
    (copy / ".DS_Store").write_text("x")
    (copy / "data" / "chunk-000" / ".hidden").write_text("x")
    (copy / "README.md").write_text("x")
    assert DatasetFolder(copy).identity == before


CHANGES = {
    "a row": lambda root: set_column(data_file(root), "action", [[9.0] * 4] * 11),
    "a text": lambda root: edit_table(
        root / "meta" / "tasks.parquet", lambda table: table.rename(index={"lift": "fly"})
    ),
    "the rate": lambda root: edit_info(root, lambda info: info.update(fps=11)),
    "a byte": lambda root: flip_middle(data_file(root)),
    "a name": lambda root: data_file(root).rename(data_file(root).with_name("file-007.parquet")),
    "a file more": lambda root: shutil.copy(data_file(root), data_file(root).with_name("file-001.parquet")),
    "statistics": lambda root: (root / "meta" / "stats.json").write_text(json.dumps({})),
}


def flip_middle(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("change", CHANGES)
def test_identity_depends_on_the_content(root, change):
    before = DatasetFolder(root).identity
    CHANGES[change](root)
    assert DatasetFolder(root).identity != before


def test_identity_of_large_files_reads_samples(root, monkeypatch):
    from vla_cl.data import identity

    monkeypatch.setattr(identity, "WHOLE", 100)
    monkeypatch.setattr(identity, "SAMPLE", 16)
    before = DatasetFolder(root).identity
    path = data_file(root)
    content = path.read_bytes()
    for place, seen in ((0, True), (8, True), (len(content) // 2, True), (len(content) - 1, True), (200, False)):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        assert (DatasetFolder(root).identity != before) is seen, place
