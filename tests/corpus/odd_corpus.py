"""A corpus of odd LeRobotDatasets: what happened to each, and what must come of it.

Every case is a copy of one of two small datasets that LeRobot wrote, changed in one way. It is either learnt right
(`Learnt`: frames, chunks and instructions are as written) or refused in one sentence (`Refused`: words that
the sentence must hold).
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from odd_datasets import (
    data_file,
    edit_info,
    edit_rows,
    edit_table,
    episodes_file,
    make_pointer,
    set_column,
    video_file,
)

FRONT, WRIST = "observation.images.front", "observation.images.wrist"
LENGTH, EPISODES = 5, 4
TASKS = ("lift the cube", "open the drawer")
EPISODE_TASKS = (TASKS[0], TASKS[1], TASKS[0], TASKS[1])


@dataclass(frozen=True)
class Refused:
    """One sentence with these words."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class Learnt:
    """Frames as written; ``tasks`` are the instructions in order, ``notes`` words of what is said beforehand."""

    tasks: tuple[str, ...] = TASKS
    notes: tuple[str, ...] = ()
    pictures: bool = True


@dataclass(frozen=True)
class Case:
    """A dataset.

    Attributes:
        name: What is odd about it.
        expected: What must come of it.
        change: Called with a copy's folder.
        base: Which dataset is copied: ``stored`` (pictures in parquet) or ``filmed`` (video).
        settings: Further settings.
    """

    name: str
    expected: Refused | Learnt
    change: Callable[[Path], object]
    base: str = "stored"
    settings: dict = field(default_factory=dict)


def info(**changes):
    """Set keys of ``meta/info.json``; None removes one."""

    def change(content):
        for key, value in changes.items():
            content.pop(key) if value is None else content.update({key: value})

    return lambda root: edit_info(root, change)


def feature(key, **changes):
    """Set keys of a feature's description."""
    return lambda root: edit_info(root, lambda content: content["features"][key].update(changes))


def column(name, change):
    """Replace a column of the data file by what ``change`` makes of its values."""

    def replace(root):
        file = data_file(root)
        set_column(file, name, change(pq.read_table(file)[name].to_pylist()))

    return replace


def at(row, value):
    """Values with one replaced."""
    return lambda values: [*values[:row], value, *values[row + 1 :]]


def number(row, place, value):
    """Vectors with one number replaced."""

    def change(values):
        values[row] = [value if index == place else item for index, item in enumerate(values[row])]
        return pa.array(values, pa.list_(pa.float64() if abs(value) > 1e38 else pa.float32()))

    return change


def cut(path_of, share=0.5):
    """Keep the first part of a file."""

    def change(root):
        path = path_of(root)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return change


def write(name, content):
    """Replace a file by this text."""
    return lambda root: (root / name).write_text(content)


def remove(name):
    """Remove a file or folder."""
    return lambda root: shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()


def pointer(path_of):
    """Put a Git LFS pointer in a file's place."""
    return lambda root: make_pointer(path_of(root))


def rename_task(old, new):
    """Give a task another text, in the table and in the episodes."""

    def change(root):
        table = pd.read_parquet(root / "meta" / "tasks.parquet")
        table.rename(index={old: new}).to_parquet(root / "meta" / "tasks.parquet")

    return change


def add_task(text, task_index):
    """A row more in the task table."""

    def change(root):
        path = root / "meta" / "tasks.parquet"
        table = pd.read_parquet(path)
        more = pd.DataFrame({"task_index": [task_index]}, index=pd.Index([text], name=table.index.name))
        pd.concat([table, more]).to_parquet(path)

    return change


def rows(change):
    """Change the whole table of the data file."""
    return lambda root: edit_rows(data_file(root), change)


def episode_table(change):
    """Change the table of episodes by pandas."""
    return lambda root: edit_table(episodes_file(root), change)


def in_two_files(root):
    """The rows in two data files, the later one first by name of its chunk."""
    file = data_file(root)
    table = pq.read_table(file)
    pq.write_table(table.slice(0, 7), file)
    pq.write_table(table.slice(7), file.with_name("file-001.parquet"))


def both(*changes):
    """Several changes."""
    return lambda root: [change(root) for change in changes]


def break_picture(row):
    """Half of a stored picture."""

    def change(values):
        values[row] = {"bytes": values[row]["bytes"][:40], "path": values[row]["path"]}
        return values

    return column(FRONT, change)


def other_picture(row, size):
    """A stored picture of another size."""
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(buffer, "PNG")

    def change(values):
        values[row] = {"bytes": buffer.getvalue(), "path": None}
        return values

    return column(FRONT, change)


def outside_picture(root):
    """A stored picture that names a file elsewhere."""
    return column(FRONT, at(0, {"bytes": None, "path": "../../../etc/hostname"}))(root)


def faster(root):
    """Times of 12 frames a second."""
    return column("timestamp", lambda v: [(row % LENGTH) / 12 for row in range(len(v))])(root)


def nothing(root):
    """The dataset as it is."""


DEEP = "[" * 5000 + "]" * 5000
LONG = "lift the cube and then " * 20
LAST = LENGTH * EPISODES - 1
INFO, TABLE = "meta/info.json", "meta/tasks.parquet"


def table_file(root):
    return root / TABLE


def info_file(root):
    return root / INFO


CASES = [
    Case("as written", Learnt(), nothing),
    Case("as written, filmed", Learnt(), nothing, "filmed"),
    # --- meta/info.json
    Case("fps of zero", Refused(("fps", "0")), info(fps=0)),
    Case("negative fps", Refused(("fps", "-10")), info(fps=-10)),
    Case("fps in words", Refused(("fps", "ten")), info(fps="ten")),
    Case("no fps", Refused(("fps",)), info(fps=None)),
    Case("fps of another rate", Refused(("30 fps", "10 fps")), info(fps=30)),
    Case("more frames promised", Refused(("21", "20")), info(total_frames=21)),
    Case("fewer frames promised", Refused(("19", "20")), info(total_frames=19)),
    Case("no number of frames", Refused(("total_frames",)), info(total_frames=None)),
    Case("frames as text", Refused(("total_frames",)), info(total_frames="20")),
    Case("more episodes promised", Refused(("99 episodes", "has 4")), info(total_episodes=99)),
    Case("fewer episodes promised", Refused(("3 episodes", "has 4")), info(total_episodes=3)),
    Case("episodes in words", Refused(("total_episodes", "four")), info(total_episodes="four")),
    Case("no number of episodes", Learnt(), info(total_episodes=None)),
    Case("no features", Refused(("features",)), info(features=None)),
    Case("features as a list", Refused(("features",)), info(features=[])),
    Case("format v2.1", Refused(("v2.1", "convert")), info(codebase_version="v2.1")),
    Case("format of the future", Refused(("v9.0",)), info(codebase_version="v9.0")),
    Case("no format", Refused(("format",)), info(codebase_version=None)),
    Case("info is no JSON", Refused(("JSON",)), write(INFO, "{")),
    Case("info is a list", Refused(("object",)), write(INFO, "[]")),
    Case("info is empty", Refused(("empty",)), write(INFO, "")),
    Case("info is nested deeply", Refused(("description",)), write(INFO, DEEP)),
    Case("info is a Git LFS pointer", Refused(("Git LFS pointer", "git lfs pull")), pointer(info_file)),
    Case("action declared longer", Refused(("action", "4", "5")), feature("action", shape=[5])),
    Case("state declared shorter", Refused(("observation.state", "3")), feature("observation.state", shape=[3])),
    Case("absurd shape", Refused(("action",)), feature("action", shape=[10**12])),
    Case("negative shape", Refused(("action",)), feature("action", shape=[-4])),
    Case("shape as text", Refused(("action",)), feature("action", shape="four")),
    Case("no action", Refused(("action",)), lambda root: edit_info(root, lambda i: i["features"].pop("action"))),
    Case("no state declared", Learnt(notes=("learnt without a state",)),
         lambda root: edit_info(root, lambda i: i["features"].pop("observation.state"))),
    Case("camera declares another size", Learnt(notes=("declares 10x10",)), feature(FRONT, shape=[10, 10, 3])),
    Case("camera without names", Learnt(), feature(FRONT, names=None)),
    Case("names as a dictionary", Learnt(), feature("action", names={"motors": ["a", "b", "c", "d"]})),
    Case("channels first", Learnt(), feature(FRONT, shape=[3, 24, 32], names=["channels", "height", "width"])),
    Case("channels first without names", Learnt(), feature(FRONT, shape=[3, 24, 32], names=None)),
    Case("video path leaves the folder", Refused(("leaves",)),
         info(video_path="../../{video_key}/{chunk_index}-{file_index}.mp4"), "filmed"),
    Case("video path of absurd width", Refused(("video_path",)),
         info(video_path="{chunk_index:0999999999d}{video_key}{file_index}"), "filmed"),
    Case("video path reads attributes", Refused(("video_path",)),
         info(video_path="{video_key.__class__}/{chunk_index}/{file_index}.mp4"), "filmed"),
    # --- tasks
    Case("no task table", Refused(("task table", "missing")), remove(TABLE)),
    Case("task table is a Git LFS pointer", Refused(("Git LFS pointer",)), pointer(table_file)),
    Case("half a task table", Refused(("task table",)), cut(table_file)),
    Case("task without frames", Learnt(notes=("wave", "no frames")), add_task("wave", 2)),
    Case("one text under two numbers", Learnt(), both(
        add_task(TASKS[0], 2), column("task_index", lambda v: v[:10] + [2 if x == 0 else x for x in v[10:]]))),
    Case("frames of an unknown task", Refused(("episode 0, frame 0", "7")), column("task_index", at(0, 7))),
    Case("task of spaces", Refused(("no text",)), rename_task(TASKS[0], "   ")),
    Case("task of 9,000 characters", Refused(("9000",)), rename_task(TASKS[0], "a" * 9000)),
    Case("task in Chinese", Learnt(("拿起立方体", TASKS[1])), rename_task(TASKS[0], "拿起立方体")),
    Case("task in Arabic", Learnt(("ارفع المكعب", TASKS[1])), rename_task(TASKS[0], "ارفع المكعب")),
    Case("task in Hindi", Learnt(("घन उठाओ", TASKS[1])), rename_task(TASKS[0], "घन उठाओ")),
    Case("task of emoji", Learnt(("🧊⬆️", TASKS[1])), rename_task(TASKS[0], "🧊⬆️")),
    Case("task of 460 characters", Learnt((LONG, TASKS[1])), rename_task(TASKS[0], LONG)),
    Case("task with slashes and dots", Learnt(("../../etc/x", TASKS[1])), rename_task(TASKS[0], "../../etc/x")),
    Case("task with escape sequences", Learnt(("\x1b[31mred\x07", TASKS[1])), rename_task(TASKS[0], "\x1b[31mred\x07")),
    Case("tasks that differ in a full stop", Learnt((TASKS[0], TASKS[0] + ".")), rename_task(TASKS[1], TASKS[0] + ".")),
    # --- episodes
    Case("no table of episodes", Refused(("episodes",)), remove("meta/episodes")),
    Case("table of episodes is a Git LFS pointer", Refused(("Git LFS pointer",)), pointer(episodes_file)),
    Case("an episode's length is wrong", Refused(("episode 1", "5", "6")),
         episode_table(lambda t: t.assign(length=[5, 6, 5, 5]))),
    Case("an episode is missing", Refused(("episode 3",)), episode_table(lambda t: t.iloc[:3])),
    Case("an episode without rows, in the number of frames too", Refused(("episode 3",)),
         both(rows(lambda t: t.slice(0, 15)), info(total_frames=15))),
    # --- rows
    Case("no data folder", Refused(("data/",)), remove("data")),
    Case("data file is a Git LFS pointer", Refused(("Git LFS pointer",)), pointer(data_file)),
    Case("half a data file", Refused(("data file",)), cut(data_file)),
    Case("rows missing at the end", Refused(("20", "18")), rows(lambda t: t.slice(0, 18))),
    Case("rows missing in the middle", Refused(("20", "18")),
         rows(lambda t: pa.concat_tables([t.slice(0, 7), t.slice(9)]))),
    Case("NaN in an action", Refused(("action", "episode 1, frame 2", "nan")), column("action", number(7, 1, np.nan))),
    Case("infinite action", Refused(("action", "episode 3, frame 4", "inf")),
         column("action", number(LAST, 0, np.inf))),
    Case("NaN in a state", Refused(("observation.state", "episode 0, frame 0", "nan")),
         column("observation.state", number(0, 3, np.nan))),
    Case("number too large for float32", Refused(("action", "episode 0, frame 1")),
         column("action", number(1, 0, 1e300))),
    Case("null instead of an action", Refused(("action",)), column("action", at(3, None))),
    Case("actions of different lengths", Refused(("action",)), column("action", at(3, [1.0, 2.0]))),
    Case("actions as text", Refused(("action",)), column("action", lambda v: ["up"] * len(v))),
    Case("actions of float64", Learnt(), column("action", lambda v: pa.array(v, pa.list_(pa.float64())))),
    Case("descending index", Refused(("index",)), column("index", lambda v: v[::-1])),
    Case("repeated index", Refused(("index 4",)), column("index", at(5, 4))),
    Case("index from -1 on", Learnt(), column("index", lambda v: [x - 1 for x in v])),
    Case("index of floats", Learnt(), column("index", lambda v: [float(x) for x in v])),
    Case("frames of an episode swapped", Refused(("episode 0", "frame")),
         column("frame_index", lambda v: [v[1], v[0], *v[2:]])),
    Case("episodes mixed", Refused(("episode",)), column("episode_index", at(2, 3))),
    Case("NaN as a time", Refused(("timestamp",)), column("timestamp", at(2, float("nan")))),
    Case("times running backwards", Refused(("timestamp",)), column("timestamp", at(3, 0.0))),
    Case("times of another rate", Refused(("fps",)), column("timestamp", lambda v: [2 * x for x in v])),
    Case("times of a rate that is near", Refused(("10 fps", "12 fps", "data.check_fps=false")), faster),
    Case("times of a rate that is near, accepted", Learnt(), faster,
         settings={"data": {"datasets": [], "same_instruction": "merge", "check_fps": False}}),
    Case("times of 9.95 frames a second", Learnt(),
         column("timestamp", lambda v: [(row % LENGTH) / 9.95 for row in range(len(v))])),
    Case("no times", Refused(("timestamp",)), rows(lambda t: t.drop_columns(["timestamp"]))),
    Case("no actions", Refused(("action",)), rows(lambda t: t.drop_columns(["action"]))),
    Case("a column more", Learnt(), rows(lambda t: t.append_column("note", pa.array(["x"] * len(t))))),
    Case("rows in two files", Learnt(), in_two_files),
    # --- pictures
    Case("a broken first picture", Refused(("episode 0, frame 0",)), break_picture(0)),
    Case("a broken last picture", Refused(("episode 3, frame 4",)), break_picture(LAST)),
    Case("a last picture of another size", Refused(("10x12", "24x32")), other_picture(LAST, (10, 12))),
    Case("a picture elsewhere", Refused(("leaves",)), outside_picture),
    Case("no video folder", Refused(("missing", ".mp4")), remove("videos"), "filmed"),
    Case("a video is a Git LFS pointer", Refused(("Git LFS pointer",)),
         pointer(lambda r: video_file(r, FRONT)), "filmed"),
    Case("half a video", Refused(("video",)), cut(lambda r: video_file(r, FRONT)), "filmed"),
    Case("an empty video", Refused(("empty",)), lambda r: video_file(r, WRIST).write_bytes(b""), "filmed"),
    Case("a video that is none", Refused(("video",)), lambda r: video_file(r, WRIST).write_bytes(b"x" * 999), "filmed"),
    Case("a camera not declared", Learnt(), lambda r: edit_info(r, lambda i: i["features"].pop(WRIST)), "filmed"),
    # --- cameras={new: old}
    Case("cameras renamed", Learnt(), nothing, settings={"cameras": {"top": FRONT, "hand": "wrist"}}),
    Case("one camera chosen", Learnt(), nothing, settings={"cameras": ["wrist"]}),
    Case("cameras swapped", Learnt(), nothing, settings={"cameras": {"front": "wrist", "wrist": "front"}}),
    Case("camera by alternatives", Learnt(), nothing, settings={"cameras": {"top": ["camera1", "front"]}}),
    Case("unknown camera", Refused(("no camera nose", FRONT)), nothing, settings={"cameras": {"top": "nose"}}),
    Case("ambiguous camera", Refused(("ambiguous",)), nothing, settings={"cameras": {"top": ["front", "wrist"]}}),
    Case("one name for two cameras", Refused(("two cameras",)), nothing,
         settings={"cameras": {"top": "front", "observation.images.top": "wrist"}}),
    Case("cameras as a number", Refused(("cameras must be",)), nothing, settings={"cameras": 3}),
    Case("cameras of null", Refused(("cameras must be",)), nothing, settings={"cameras": {"top": None}}),
    Case("no cameras", Refused(("cameras is empty",)), nothing, settings={"cameras": {}}),
]  # fmt: skip
