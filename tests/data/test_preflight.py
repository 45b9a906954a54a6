"""The room that a stream needs, names of files made of instructions, and that a wrong frame among many is named."""

import json
import shutil
from pathlib import Path

import pytest
from odd_datasets import data_file, edit_info, make_dataset, set_column

from vla_cl import bench
from vla_cl.bench.preflight import write_dataset
from vla_cl.data import preflight
from vla_cl.data.frames import Frames
from vla_cl.data.joints import other_names, require_same_order
from vla_cl.data.preflight import inspect_dataset, require_distinct, require_room
from vla_cl.data.source import Source
from vla_cl.storage.names import NAME_BYTES, file_name, readable_id
from vla_cl.types import ConfigurationError

TEXTS = [
    *(
        "lift the cube",
        "Lift the cube",
        "lift the cube.",
        "lift  the cube",
        " lift the cube",
        "拿起立方体",
        "放下立方体",
    ),
    *("é", "e\u0301", "🧊", "⬆️", "...", "", "a" * 300, "a" * 301, "घन उठाओ", "घन उठाएं", "ß", "ss", "I", "ı", "İ"),
    *("../x", "a/b", "a\\b", "con", "\x00", "x" * 59 + "ä", "x" * 60 + "ä"),
]


def test_ids_are_readable_and_never_the_same():
    ids = [readable_id(text) for text in TEXTS]
    assert len({name.casefold() for name in ids}) == len(TEXTS)
    assert ids[0].startswith("lift-the-cube-")
    assert ids[5].startswith("拿起立方体-")
    for name in ids:
        assert len(name.encode()) <= NAME_BYTES
        assert file_name(name) == name
        assert not set(name) & set('/\\\0:*?"<>| ')


def test_a_name_that_may_be_a_files_stays_and_any_other_becomes_one():
    assert file_name("drawer-open") == "drawer-open"
    assert file_name("PushT-v0") == "PushT-v0"
    names = {file_name(text) for text in TEXTS}
    assert len(names) == len(TEXTS)
    assert all(len(name.encode()) <= NAME_BYTES and "/" not in name and not name.startswith(".") for name in names)


def test_what_is_decoded_already_needs_no_room(tmp_path, monkeypatch):
    root, cache = make_dataset(tmp_path / "d", [("lift", 3)]), tmp_path / "cache"
    fresh = inspect_dataset(root, cache=cache)
    assert fresh.cache_bytes >= 3 * 3 * 48 * 64
    Frames([Source(root)], cache, [0])
    again = inspect_dataset(root, cache=cache)
    assert again.cache_bytes == 0

    def nearly_full(_):
        return type("Usage", (), {"free": 100})()

    monkeypatch.setattr(preflight.shutil, "disk_usage", nearly_full)
    require_room([again], cache)
    with pytest.raises(ConfigurationError, match="GiB are free"):
        require_room([fresh], Path(cache) / "not" / "yet")


@pytest.mark.parametrize("fps", [24, 30, 50, 60, 120])
def test_times_in_milliseconds_and_lost_frames_are_of_the_declared_rate(fps, tmp_path):
    root = make_dataset(tmp_path / "d", [("lift", 40)], fps=fps)
    frames = [number + (number > 12) for number in range(40)]  # one was lost
    set_column(data_file(root), "timestamp", [round(number / fps, 3) for number in frames])
    assert inspect_dataset(root).fps == fps
    set_column(data_file(root), "timestamp", [number / fps / 1.02 for number in frames])
    with pytest.raises(ConfigurationError, match=rf"declares {fps} fps, the times of its rows tell {fps * 1.02:.4g}"):
        inspect_dataset(root)
    inspect_dataset(root, check_fps=False)


def test_a_dataset_at_two_places_is_refused_and_both_are_named(tmp_path):
    one = make_dataset(tmp_path / "one", [("lift", 3)])
    other = make_dataset(tmp_path / "other", [("lift", 3)], seed=1)
    again = shutil.copytree(one, tmp_path / "again")
    reports = [inspect_dataset(root) for root in (one, other, again)]
    require_distinct(reports[:2])
    with pytest.raises(ConfigurationError, match=r"/one and .*/again are the same dataset"):
        require_distinct(reports)


def named(folder, *robots):
    """A report for each robot: its type, and the names of its actions."""
    reports = []
    for number, (robot, names) in enumerate(robots):
        root = make_dataset(folder / str(number), [("lift", 2)], action=2, seed=number)
        edit_info(root, lambda info, kind=robot: info.update(robot_type=kind))
        edit_info(root, lambda info, told=names: info["features"]["action"].update(names=told))
        reports.append(inspect_dataset(root))
    return reports


def test_joints_in_another_order_are_refused_whichever_dataset_they_are_in(tmp_path):
    reports = named(
        tmp_path, (None, None), (None, ["x", "gripper"]), (None, ["a", "b"]), (None, {"motors": ["gripper", "x"]})
    )
    require_same_order(reports[:3])
    with pytest.raises(ConfigurationError, match=r"action .*at place 1, .*/1 has 'x' and .*/3 has 'gripper'"):
        require_same_order(reports)
    with pytest.raises(ConfigurationError, match=r"at place 1, .*/3 has 'gripper' and .*/1 has 'x'"):
        require_same_order(reports[::-1])


def test_other_names_and_other_robots_are_said_in_a_line_each(tmp_path):
    reports = named(tmp_path, ("so101", ["x", "y"]), (None, {"x": 0, "y": 1}), ("franka", ["x", "z"]), (None, ["x"]))
    require_same_order(reports)
    joints, robots = other_names(reports)
    assert "action" in joints
    assert "'y' and" in joints and "'z'" in joints
    assert "'so101'" in robots and "'franka'" in robots
    assert max(map(len, (joints, robots))) <= 300
    assert other_names(reports[:2]) == ()


def test_what_is_not_used_of_a_state_is_said(tmp_path):
    more = {"observation.effort": {"dtype": "float32", "shape": (2,), "names": None}}
    elsewhere = make_dataset(tmp_path / "elsewhere", [("lift", 2)], state_key="observation.joint_positions", extra=more)
    notes = " ".join(inspect_dataset(elsewhere).notes)
    assert "no observation.state, so it is learnt without a state" in notes
    assert "observation.joint_positions, observation.effort" in notes
    usual = make_dataset(tmp_path / "usual", [("lift", 2)], extra=more)
    assert "not used: observation.effort; the state is observation.state" in " ".join(inspect_dataset(usual).notes)


def test_a_wrong_frame_among_many_is_named(tmp_path):
    root = write_dataset(tmp_path / "d", 20_000, wrong_row=12_345)
    with pytest.raises(ConfigurationError, match="action of episode 24, frame 345 is nan"):
        inspect_dataset(root)


@pytest.mark.parametrize("what", ["startup", "preflight", "coverage"])
def test_a_measurement_is_stored_where_output_says(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(f"vla_cl.bench.{what}.{what}", lambda *_: {"holds": True})
    assert bench.main(what, [f"output={tmp_path / 'a b' / 'x.json'}"]) == (tmp_path / "a b" / "x.json", True)
    assert bench.main(what, []) == (Path("outputs") / "bench" / f"{what}.json", True)
    assert json.loads((tmp_path / "a b" / "x.json").read_text())["holds"]
    assert (tmp_path / "outputs" / "bench" / f"{what}.json").is_file()
    with pytest.raises(ConfigurationError, match=r"has no setting but output=FILE; leave 'rows=.a.' out"):
        bench.main(what, ["rows=[a]"])
