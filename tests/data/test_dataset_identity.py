"""What else a dataset tells: pieces of columns, ends of files, chosen cameras, and what it is."""

import json
import shutil

import numpy as np
import pytest
from dataset_checks import EPISODES, PICTURES, TOTAL
from odd_datasets import (
    CAMERA,
    data_file,
    edit_info,
    edit_table,
    make_dataset,
    set_column,
    video_file,
)
from sentences import length

from vla_cl.data.dataset_folder import DatasetFolder, spec_of
from vla_cl.data.frames import Frames
from vla_cl.data.source import Source
from vla_cl.types import ConfigurationError


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
    "sizes": ({"cameras": {CAMERA: (40, 40)}}, "picture size"),
    "cameras": ({"cameras": ("observation.images.top",)}, "cameras"),
    "states": ({"state": 5}, "state size"),
    "actions": ({"action": 3}, "action size"),
}


@pytest.mark.parametrize("unlike", UNLIKE)
def test_sources_of_one_experience_must_agree(root, tmp_path, unlike):
    options, word = UNLIKE[unlike]
    other = make_dataset(tmp_path / "other", EPISODES, **options)
    with pytest.raises(ConfigurationError, match=f"need the same {word}") as caught:
        Frames([Source(root), Source(other)], tmp_path / "cache", [0])
    assert length(str(caught.value)) <= 300


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


def test_identity_of_a_large_video_reads_samples(pristine, tmp_path, monkeypatch):
    monkeypatch.setattr("vla_cl.data.identity.WHOLE", 100)
    monkeypatch.setattr("vla_cl.data.identity.SAMPLE", 16)
    path = video_file(root := shutil.copytree(pristine["video"], tmp_path / "d"))
    middle = path.stat().st_size // 2
    places = {0: True, 8: True, middle: True, path.stat().st_size - 1: True, middle // 2: False}
    assert identities_with_a_changed_byte(root, path, places) == places


def test_identity_reads_rows_whole_whatever_their_size(root, monkeypatch):
    """One action that was corrected changes neither the size of the file nor its ends."""
    monkeypatch.setattr("vla_cl.data.identity.WHOLE", 100)
    monkeypatch.setattr("vla_cl.data.identity.SAMPLE", 16)
    path = data_file(root)
    places = dict.fromkeys(range(0, path.stat().st_size, 97), True)
    assert identities_with_a_changed_byte(root, path, places) == places


def identities_with_a_changed_byte(root, path, places):
    """Whether the identity is another one, by the place of the byte."""
    before, content, seen = DatasetFolder(root).identity, path.read_bytes(), {}
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        seen[place] = DatasetFolder(root).identity != before
    path.write_bytes(content)
    return seen
