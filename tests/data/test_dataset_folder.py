"""Datasets of other writers: tables of tasks, versions, and files that are not what their names say."""

import importlib.util
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dataset_checks import TOTAL, read, read_rightly, refused
from odd_datasets import (
    data_file,
    edit_info,
    episodes_file,
    make_dataset,
    make_pointer,
    video_file,
)

from vla_cl.data.dataset_folder import DatasetFolder
from vla_cl.data.frames import Frames
from vla_cl.data.source import Source
from vla_cl.types import ConfigurationError

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
