"""Cameras of other writers: what the pictures are counts, whatever the metadata say."""

import io
import shutil

import numpy as np
import pyarrow as pa
import pytest
from dataset_checks import EPISODES, PICTURES, TOTAL, png, read, read_rightly, refused, store
from odd_datasets import (
    CAMERA,
    data_file,
    edit_info,
    make_dataset,
    numbered,
    set_column,
    video_file,
    write_video,
)
from PIL import Image

from vla_cl.data.dataset_folder import DatasetFolder


def set_camera(root, **changes):
    def change(info):
        info["features"][CAMERA].update(changes)

    edit_info(root, change)


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
