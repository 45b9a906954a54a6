"""Every frame of odd videos against stock LeRobot: PyAV and torchcodec, which is LeRobot's default."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from lerobot.datasets import LeRobotDataset
from odd_datasets import (
    CAMERA,
    data_file,
    edit_info,
    edit_rows,
    edit_table,
    episodes_file,
    make_dataset,
    numbered,
    set_column,
    video_file,
    write_video,
)
from sentences import length

from vla_cl.data.dataset_folder import DatasetFolder
from vla_cl.data.frames import Frames
from vla_cl.data.source import Source
from vla_cl.data.video_frames import pictures_at
from vla_cl.types import ConfigurationError

LENGTHS = (7, 5, 6)
TOTAL = sum(LENGTHS)
PICTURES = [numbered(episode, step) for episode, length in enumerate(LENGTHS) for step in range(length)]
REGULAR = [number / 10 for number in range(TOTAL)]
AV1 = {"codec": "libsvtav1", "pixels": "yuv420p", "options": {"crf": "20", "preset": "10", "svtav1-params": "lp=1"}}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SVT_LOG", "1")
    return make_dataset(
        tmp_path / "odd", [(f"task {number}", length) for number, length in enumerate(LENGTHS)], video=True
    )


def stock_pictures(root, backend):
    """Global frame index to picture; None where LeRobot raises."""
    dataset = LeRobotDataset("local/odd", root=root, video_backend=backend, return_uint8=True)
    found = {}
    for place in range(len(dataset)):
        row = int(dataset.hf_dataset[place]["index"])
        try:
            found[row] = dataset[place][CAMERA]
        except (ValueError, RuntimeError, IndexError):
            found[row] = None
    return found


def require_parity(root, cache, raising=()):
    """Every picture equals that of both decoders, bit for bit; those in ``raising`` may find none, but no other."""
    ours = Frames([Source(root)], cache, [0]).batch(np.arange(TOTAL))[CAMERA]
    folder = DatasetFolder(root)
    for row in range(TOTAL):
        assert np.array_equal(folder.image(CAMERA, row).transpose(2, 0, 1), ours[row]), f"row {row} alone"
    found = {backend: stock_pictures(root, backend) for backend in ("pyav", "torchcodec")}
    for backend, pictures in found.items():
        for row, expected in pictures.items():
            assert expected is None or torch.equal(ours[row], expected), f"row {row} against {backend}"
    failed = {backend for backend, pictures in found.items() if any(picture is None for picture in pictures.values())}
    assert failed <= set(raising)
    assert all(any(pictures[row] is not None for pictures in found.values()) for row in range(TOTAL))


def set_times(root, seconds):
    """Times of the rows within their episodes, and where each episode begins in its file."""
    starts = np.cumsum([0, *LENGTHS[:-1]])
    within = np.concatenate([np.array(seconds[start : start + length]) - seconds[start]
                             for start, length in zip(starts, LENGTHS, strict=True)])  # fmt: skip
    set_column(data_file(root), "timestamp", within.astype(np.float32))
    edit_table(
        episodes_file(root),
        lambda table: table.assign(**{f"videos/{CAMERA}/from_timestamp": np.array(seconds)[starts]}),
    )


CODECS = {
    "H.264, 4:4:4": {},
    "H.264, 4:2:0": {"pixels": "yuv420p"},
    "H.264, B-frames": {"options": {"bf": "3", "qp": "0", "g": "8"}},
    "H.264, lossy, long groups": {"pixels": "yuv420p", "options": {"bf": "2", "crf": "30", "g": "100"}},
    "AV1": AV1,
    "H.265": {"codec": "libx265", "pixels": "yuv420p", "options": {"x265-params": "log-level=none"}},
    "VP9": {"codec": "libvpx-vp9", "pixels": "yuv420p", "options": {"deadline": "realtime"}},
    "MPEG-4": {"codec": "mpeg4", "pixels": "yuv420p", "options": {"bf": "2"}},
}


@pytest.mark.parametrize("codec", CODECS)
def test_every_frame_equals_stock(root, tmp_path, codec):
    write_video(video_file(root), PICTURES, REGULAR, **CODECS[codec])
    # LeRobot's search by decoding time misses the B-frames before MPEG-4's second key frame
    require_parity(root, tmp_path, raising=["pyav"] if codec == "MPEG-4" else [])


SIZES = ((48, 64), (48, 54), (47, 63))
"""torchcodec converts a width that is no multiple of 32 by another way."""

COLOURS = {
    "nothing noted": {},
    "BT.601": {"colorspace": "smpte170m"},
    "BT.601, as in Europe": {"colorspace": "bt470bg"},
    "BT.709": {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709"},
    "full range": {"color_range": "pc"},
    "full range, BT.709": {"color_range": "pc", "colorspace": "bt709"},
    "BT.2020": {"colorspace": "bt2020nc"},
    "SMPTE 240M": {"colorspace": "smpte240m"},
}

FORMATS = {
    "4:2:0": ("libx264", "yuv420p"),
    "4:2:0, full": ("libx264", "yuvj420p"),
    "4:2:2": ("libx264", "yuv422p"),
    "4:4:4": ("libx264", "yuv444p"),
    "4:2:0, 10 bits": ("libx264", "yuv420p10le"),
    "4:2:2, 10 bits": ("libx264", "yuv422p10le"),
    "4:4:4, 10 bits": ("libx264", "yuv444p10le"),
    "grey": ("libx264", "gray"),
    "H.265, 12 bits": ("libx265", "yuv420p12le"),
    "VP9, 4:2:0": ("libvpx-vp9", "yuv420p"),
    "VP9, RGB": ("libvpx-vp9", "gbrp"),
}

SETTINGS = {"libx264": {"qp": "2", "preset": "ultrafast"}, "libx265": {"x265-params": "log-level=none"},
            "libvpx-vp9": {"deadline": "realtime"}}  # fmt: skip


def encodable(pixels, size):
    """Whether the encoder takes this size; some want even ones."""
    codec, name = FORMATS[pixels]
    return size[0] % 2 == 0 or codec == "libvpx-vp9" or name.startswith("yuv444")


@pytest.mark.parametrize(
    ("pixels", "size"), [(pixels, size) for pixels in FORMATS for size in SIZES if encodable(pixels, size)], ids=str
)
def test_colours_equal_those_of_the_default_decoder(tmp_path, pixels, size):
    from torchcodec.decoders import VideoDecoder

    codec, name = FORMATS[pixels]
    pictures = [coloured(number, size) for number in range(3)]
    for noted, options in COLOURS.items():
        path = tmp_path / f"{noted}.mp4"
        write_video(path, pictures, REGULAR[:3], codec, name, {**SETTINGS[codec], **options})
        expected = VideoDecoder(str(path), dimension_order="NHWC")
        for place, picture in pictures_at(path, np.array(REGULAR[:3]), "the video"):
            assert np.array_equal(picture, expected[place].numpy()), f"{noted}, frame {place}"


def coloured(number, size):
    """Hard borders between strong colours, and slopes."""
    random = np.random.default_rng(number)
    height, width = size
    blocks = random.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)).repeat(8, 0).repeat(8, 1)[:height, :width]
    blocks[height // 2 :] = numbered(0, number, size)[height // 2 :]
    return blocks.astype(np.uint8)


def test_frames_of_a_variable_rate(root, tmp_path):
    steps = np.random.default_rng(0).uniform(0.07, 0.14, TOTAL)
    seconds = np.round(np.cumsum(steps) - steps[0], 3).tolist()
    write_video(video_file(root), PICTURES, seconds)
    set_times(root, seconds)
    require_parity(root, tmp_path, raising=["torchcodec"])


@pytest.mark.parametrize("start", [0.05, 0.1, 3.7])
def test_a_file_that_begins_late(root, tmp_path, start):
    seconds = [start + number / 10 for number in range(TOTAL)]
    write_video(video_file(root), PICTURES, seconds, options={"bf": "2", "qp": "0"})
    set_times(root, seconds)
    require_parity(root, tmp_path, raising=["torchcodec"])


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0), (0, 2, 1)])
def test_episodes_in_any_order_in_their_file(root, tmp_path, order):
    first = np.cumsum([0, *LENGTHS])
    shown = [number for episode in order for number in range(first[episode], first[episode + 1])]
    write_video(video_file(root), [PICTURES[number] for number in shown], REGULAR)
    starts = {episode: sum(LENGTHS[other] for other in order[:place]) / 10 for place, episode in enumerate(order)}
    column = f"videos/{CAMERA}/from_timestamp"
    edit_table(episodes_file(root), lambda table: table.assign(**{column: [starts[number] for number in range(3)]}))
    require_parity(root, tmp_path)
    shown = DatasetFolder(root).image(CAMERA, 8).astype(int)
    assert np.abs(shown - PICTURES[8]).max() <= 4  # what RGB loses in 4:4:4


def test_episodes_that_share_frames(root, tmp_path):
    write_video(video_file(root), PICTURES, REGULAR)
    column = f"videos/{CAMERA}/from_timestamp"
    edit_table(episodes_file(root), lambda table: table.assign(**{column: [0.0, 0.2, 0.0]}))
    require_parity(root, tmp_path)


def test_more_frames_than_rows(root, tmp_path):
    twice = [picture for picture in PICTURES for _ in range(2)]
    write_video(video_file(root), twice, [number / 20 for number in range(2 * TOTAL)], rate=20)
    require_parity(root, tmp_path)


def test_rows_that_share_a_time(root, tmp_path):
    seconds = list(REGULAR)
    seconds[3] = seconds[2]
    write_video(video_file(root), PICTURES, REGULAR)
    set_times(root, seconds)
    require_parity(root, tmp_path)


def test_rows_in_any_order_in_their_file(root, tmp_path):
    order = np.random.default_rng(1).permutation(TOTAL)
    edit_rows(data_file(root), lambda table: table.take(order))
    require_parity(root, tmp_path)


def test_one_file_per_episode_with_any_numbers(root, tmp_path):
    """Chunks and files whose numbers do not follow the episodes, for videos and rows."""
    first = np.cumsum([0, *LENGTHS])
    places = [(1, 4), (0, 7), (0, 2)]
    table = None
    for episode, (chunk, file) in enumerate(places):
        part = slice(first[episode], first[episode + 1])
        path = root / "videos" / CAMERA / f"chunk-{chunk:03d}" / f"file-{file:03d}.mp4"
        write_video(path, PICTURES[part], REGULAR[: LENGTHS[episode]])
        target = root / "data" / f"chunk-{chunk:03d}" / f"file-{file:03d}.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        table = pd.read_parquet(data_file_of(root)) if table is None else table
        write_rows(table, part, target)
    data_file_of(root).unlink()
    (root / "videos" / CAMERA / "chunk-000" / "file-000.mp4").unlink()
    chunks, files = zip(*places, strict=True)
    named = {"chunk_index": chunks, "file_index": files}
    edit_table(
        episodes_file(root),
        lambda table: table.assign(
            **{f"{kind}/{name}": values for kind in ("data", f"videos/{CAMERA}") for name, values in named.items()},
            **{f"videos/{CAMERA}/from_timestamp": [0.0] * 3},
        ),
    )
    require_parity(root, tmp_path)
    assert DatasetFolder(root).look_at_ends(CAMERA) == 3


def data_file_of(root):
    return root / "data" / "chunk-000" / "file-000.parquet"


def write_rows(table, part, target):
    import datasets
    from lerobot.datasets.feature_utils import get_hf_features_from_features

    features = {
        key: {**value, "shape": tuple(value["shape"])}
        for key, value in DatasetFolder(target.parents[2]).features.items()
    }
    rows = table.iloc[part].to_dict(orient="list")
    datasets.Dataset.from_dict(rows, features=get_hf_features_from_features(features)).to_parquet(target)


GAPS = {
    "a frame in the middle": [number for number in range(TOTAL) if number != 5],
    "the first frame": list(range(1, TOTAL)),
    "the last frame": list(range(TOTAL - 1)),
    "a whole episode": list(range(12)),
    "every second frame": list(range(0, TOTAL, 2)),
    "all but one": [0],
}


@pytest.mark.parametrize("gap", GAPS)
def test_a_missing_frame_is_named(root, tmp_path, gap):
    there = GAPS[gap]
    write_video(video_file(root), [PICTURES[number] for number in there], [REGULAR[number] for number in there])
    lost = min(set(range(TOTAL)) - set(there))
    with pytest.raises(ConfigurationError, match="nearest frame at") as caught:
        Frames([Source(root)], tmp_path / "cache", [0])
    message = str(caught.value)
    rows = DatasetFolder(root).rows
    assert rows.place(lost) in message and f"{REGULAR[lost]:.4f} s" in message and CAMERA in message
    assert len(message) <= 300
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    with pytest.raises(ConfigurationError, match=r"frames for|nearest frame"):
        DatasetFolder(root).look_at_ends(CAMERA)


def shifted(root, seconds):
    """A first frame at 0 that nobody wants, then every frame so many seconds after the time of its row."""
    shown = [0.0, *(number + 0.1 + seconds for number in REGULAR)]
    write_video(video_file(root), [PICTURES[-1], *PICTURES], shown, time_base=Fraction(1, 100_000))
    set_times(root, [number + 0.1 for number in REGULAR])


@pytest.mark.parametrize("seconds", [0.0002, 0.03, -0.0002])
def test_times_beside_the_frames_are_refused_as_by_stock(root, tmp_path, seconds):
    shifted(root, seconds)
    assert all(picture is None for picture in stock_pictures(root, "pyav").values())
    with pytest.raises(ConfigurationError, match="nearest frame"):
        Frames([Source(root)], tmp_path, [0])


@pytest.mark.parametrize("seconds", [0.00006, -0.00006])
def test_times_within_the_tolerance(root, tmp_path, seconds):
    shifted(root, seconds)
    require_parity(root, tmp_path, raising=["torchcodec"])


def test_a_long_file_is_compared_in_single_precision_as_by_stock(tmp_path):
    """Above 2,048 s a float32 timestamp is further from its frame than the tolerance."""
    path = tmp_path / "long.mp4"
    seconds = [5000 + number / 30 for number in range(8)]
    write_video(path, PICTURES[:8], seconds, rate=30, time_base=Fraction(1, 15360))
    stored = np.array(seconds, np.float32).astype(np.float64)
    assert np.abs(stored - seconds).max() > 1e-4
    found = dict(pictures_at(path, stored, "the video"))
    assert all(np.abs(found[number].astype(int) - PICTURES[number]).max() <= 4 for number in range(8))


DAMAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "text": lambda content: b"not a video" * 50,
    "pointer": lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "zeros in the middle": lambda content: (
        content[:600] + bytes(len(content) // 2) + content[600 + len(content) // 2 :]
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_video_is_one_sentence(root, tmp_path, damage):
    path = video_file(root)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(ConfigurationError) as caught:
        Frames([Source(root)], tmp_path, [0])
    assert "\n" not in str(caught.value) and length(str(caught.value)) <= 300


def test_a_missing_video_and_paths_that_leave_the_folder(root, tmp_path):
    other = tmp_path / "elsewhere.mp4"
    video_file(root).rename(other)
    with pytest.raises(ConfigurationError, match="is missing"):
        Frames([Source(root)], tmp_path, [0])
    for template in (
        "../elsewhere.mp4",
        str(other),
        "videos/{video_key.__class__}/x.mp4",
        "{chunk_index:0999d}.mp4",
        7,
    ):
        edit_info(root, lambda info, template=template: info.update(video_path=template))
        with pytest.raises(ConfigurationError, match="video_path of the dataset"):
            Frames([Source(root)], tmp_path, [0])


def test_a_turned_video_is_refused(root, tmp_path):
    import av

    path = video_file(root)
    with av.open(str(path)) as source, av.open(str(tmp_path / "turned.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    content = bytearray((tmp_path / "turned.mp4").read_bytes())
    place = content.index(b"tkhd") + 44  # 4 of the name, 40 to the matrix of version 0
    one, minus = (65536).to_bytes(4, "big"), (-65536).to_bytes(4, "big", signed=True)
    content[place : place + 20] = bytes(4) + one + bytes(4) + minus + bytes(4)
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="to be turned by"):
        Frames([Source(root)], tmp_path, [0])
