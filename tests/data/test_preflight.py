"""The room that a stream needs, names of files made of instructions, and that a wrong frame among many is named."""

from pathlib import Path

import pytest
from odd_datasets import make_dataset

from vla_cl.bench.preflight import write_dataset
from vla_cl.data import preflight
from vla_cl.data.frames import Frames
from vla_cl.data.preflight import inspect_dataset, require_room
from vla_cl.data.source import Source
from vla_cl.names import NAME_BYTES, file_name, readable_id
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


def test_a_wrong_frame_among_many_is_named(tmp_path):
    root = write_dataset(tmp_path / "d", 20_000, wrong_row=12_345)
    with pytest.raises(ConfigurationError, match="action of episode 24, frame 345 is nan"):
        inspect_dataset(root)
