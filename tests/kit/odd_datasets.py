"""Small real LeRobotDatasets, written by LeRobot, and changes that make them odd: other videos, rows, metadata."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import av.logging
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

CAMERA = "observation.image"
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"
LOSSLESS = {"vcodec": "h264", "pix_fmt": "yuv444p", "crf": 0, "g": 2}


def make_dataset(
    root: Path,
    episodes: Sequence[tuple[str, int]] = (("lift the cube", 6), ("lift the cube", 6)),
    cameras: Mapping[str, tuple[int, int]] | Sequence[str] = (CAMERA,),
    state: int = 4,
    action: int = 4,
    fps: int = 10,
    video: bool = False,
    seed: int = 0,
    picture: Callable[[int, int, str], np.ndarray] | None = None,
    state_of: Callable[[int, int], Sequence[float]] | None = None,
    action_of: Callable[[int, int], Sequence[float]] | None = None,
    task_of: Callable[[int, int], str] | None = None,
    camera_features: Mapping[str, dict] | None = None,
    extra: Mapping[str, dict] | None = None,
    state_key: str = "observation.state",
    **create: object,
) -> Path:
    """Write a dataset with LeRobot; an older one at ``root`` is replaced.

    Args:
        root: Its folder.
        episodes: Instruction and number of frames (at least 2) of each episode.
        cameras: Feature key to (height, width); keys alone get 48 x 64.
        state: Length of the state; 0 leaves it out.
        action: Length of an action.
        fps: Frames per second.
        video: Store pictures as H.264 videos without loss; otherwise as PNG in the data files.
        seed: Of pictures and states.
        picture: (episode, frame, camera) to the picture, as LeRobot takes it; `numbered` if None.
        state_of: (episode, frame) to the state.
        action_of: (episode, frame) to the action.
        task_of: (episode, frame) to the instruction, for instructions that change within an episode.
        camera_features: Whole feature descriptions of further cameras (depth, gray); ``picture`` gives their pictures.
        extra: Whole descriptions of further columns; they hold zeros.
        state_key: Feature key of the state.
        create: Further arguments of `LeRobotDataset.create`.
    """
    from lerobot.configs.video import RGBEncoderConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    shutil.rmtree(root, ignore_errors=True)
    sizes = cameras if isinstance(cameras, Mapping) else dict.fromkeys(cameras, (48, 64))
    names = ["height", "width", "channels"]
    features = {
        key: {"dtype": "video" if video else "image", "shape": (*size, 3), "names": names}
        for key, size in sizes.items()
    } | dict(camera_features or {})
    if state:
        features[state_key] = _vector(state, "s")
    features["action"] = _vector(action, "a")
    features |= dict(extra or {})
    av.logging.set_libav_level(av.logging.ERROR)
    has_video = any(feature["dtype"] == "video" for feature in features.values())
    dataset = LeRobotDataset.create(
        "local/odd", fps, features, root, use_videos=has_video, rgb_encoder=RGBEncoderConfig(**LOSSLESS), **create
    )
    random = np.random.default_rng(seed)
    for episode, (task, length) in enumerate(episodes):
        for step in range(length):
            frame = {
                key: picture(episode, step, key) if picture else numbered(episode, step, size, seed)
                for key, size in sizes.items()
            }
            frame |= {key: picture(episode, step, key) for key in camera_features or {}}
            if state:
                values = state_of(episode, step) if state_of else random.normal(size=state)
                frame[state_key] = np.asarray(values, np.float32)
            smooth = np.sin(np.arange(action) + step / 3 + episode)
            frame["action"] = np.asarray(action_of(episode, step) if action_of else smooth, np.float32)
            frame |= {key: np.zeros(feature["shape"], feature["dtype"]) for key, feature in (extra or {}).items()}
            frame["task"] = task_of(episode, step) if task_of else task
            dataset.add_frame(frame)
        dataset.save_episode()
    dataset.finalize()
    return root


def numbered(episode: int, step: int, size: tuple[int, int] = (48, 64), seed: int = 0) -> np.ndarray:
    """A picture that says which frame it is, uint8 (H, W, 3): its mean colour differs from that of every neighbour."""
    height, width = size
    number = episode * 31 + step * 7 + seed
    rows, columns = np.mgrid[:height, :width]
    channels = [(rows * 3 + columns * (channel + 1) + number * (5 + 2 * channel)) % 256 for channel in range(3)]
    return np.stack(channels, axis=2).astype(np.uint8)


def write_video(
    path: Path,
    pictures: Sequence[np.ndarray],
    times: Sequence[float],
    codec: str = "libx264",
    pixels: str = "yuv444p",
    options: Mapping[str, str] | None = None,
    rate: int = 10,
    time_base: Fraction = Fraction(1, 12800),
) -> Path:
    """Write a video whose frames have these presentation times (seconds, ascending), with PyAV.

    Args:
        path: The file; its folder is made.
        pictures: uint8 (H, W, 3).
        times: One per picture.
        codec: ``libx264``, ``libsvtav1``, ``libx265``, ``mpeg4``, ``libvpx-vp9``, ...
        pixels: FFmpeg's pixel format.
        options: The codec's; ``{"bf": "2"}`` gives B-frames.
        rate: Declared frames per second.
        time_base: Unit of the times.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = pictures[0].shape[:2]
    if options is None and codec == "libx264":
        options = {"qp": "0", "preset": "ultrafast"}
    av.logging.set_libav_level(av.logging.ERROR)
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=rate, options=dict(options or {}))
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.time_base = stream.codec_context.time_base = time_base
        for picture, seconds in zip(pictures, times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)
            frame.time_base, frame.pts = time_base, round(Fraction(seconds).limit_denominator(10**6) / time_base)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def data_file(root: Path, number: int = 0) -> Path:
    """A data file, in the order of their names."""
    return sorted((root / "data").rglob("*.parquet"))[number]


def video_file(root: Path, camera: str = CAMERA, number: int = 0) -> Path:
    """A video file of a camera, in the order of their names."""
    return sorted((root / "videos" / camera).rglob("*.mp4"))[number]


def episodes_file(root: Path) -> Path:
    """The first file of the table of episodes."""
    return sorted((root / "meta" / "episodes").rglob("*.parquet"))[0]


def edit_info(root: Path, change: Callable[[dict], object]) -> None:
    """Change ``meta/info.json`` in place."""
    path = root / "meta" / "info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def edit_rows(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Replace a parquet file by what ``change`` makes of its table."""
    pq.write_table(change(pq.read_table(path)), path)


def edit_table(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame | None]) -> None:
    """Change a parquet table by pandas, in place or by what ``change`` gives back."""
    table = pd.read_parquet(path)
    changed = change(table)
    (table if changed is None else changed).to_parquet(path)


def set_column(path: Path, name: str, values: object) -> None:
    """Replace a column of a parquet file by these values (anything that pyarrow takes)."""

    def replaced(table: pa.Table) -> pa.Table:
        array = values if isinstance(values, pa.Array) else pa.array(values)
        return table.set_column(table.schema.get_field_index(name), name, array).replace_schema_metadata(None)

    edit_rows(path, replaced)


def make_pointer(path: Path) -> None:
    """Put a Git LFS pointer in a file's place, as a clone without ``git lfs pull`` does."""
    path.write_text(LFS_POINTER)


def _vector(size: int, letter: str) -> dict:
    return {"dtype": "float32", "shape": (size,), "names": [f"{letter}{number}" for number in range(size)]}
