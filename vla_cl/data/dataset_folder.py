"""Read a LeRobotDataset v3 folder without importing LeRobot: metadata, columns, and every frame in order.

Random access through LeRobot's own reader decodes a video (or, for pictures in parquet, each picture of a window of
actions) per sample: 7 to 28 ms. Training needs each frame decoded once, so this module decodes whole files front to
back and leaves random access to `vla_cl.data.frames`. Importing LeRobot would add seconds to every start.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vla_cl.data.source import Source
from vla_cl.types import ConfigurationError, InterfaceSpec

SUPPORTED_VERSION = "v3."
IMAGE_TYPES = ("video", "image")


@dataclass(frozen=True)
class DatasetFolder:
    """One LeRobotDataset v3 on disk.

    Attributes:
        root: The folder that holds ``meta/``, ``data/`` and, for video, ``videos/``.

    Raises:
        ConfigurationError: There is no dataset, it is of another version, or it is not complete.
    """

    root: Path

    def __post_init__(self) -> None:
        if not (self.root / "meta" / "info.json").is_file():
            raise ConfigurationError(
                f"no LeRobotDataset at {self.root}: meta/info.json is missing; record one with `vla-cl collect`, or "
                "give the folder that holds meta/, data/ and videos/"
            )
        version = str(self.info.get("codebase_version", "unknown"))
        if not version.startswith(SUPPORTED_VERSION):
            raise ConfigurationError(
                f"the dataset at {self.root} has format {version}, not v3.0; convert it with "
                "`python -m lerobot.scripts.convert_dataset_v21_to_v30`"
            )

    @cached_property
    def info(self) -> dict[str, Any]:
        """The contents of ``meta/info.json``."""
        content: dict[str, Any] = json.loads((self.root / "meta" / "info.json").read_text())
        return content

    @cached_property
    def recording(self) -> dict[str, Any]:
        """What `vla-cl collect` noted about the recording; empty for datasets from elsewhere."""
        note = self.root / "meta" / "vla_cl.json"
        return json.loads(note.read_text()) if note.is_file() else {}

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """Feature key to LeRobot's description (dtype, shape, names)."""
        features: dict[str, dict[str, Any]] = self.info["features"]
        return features

    @property
    def cameras(self) -> dict[str, tuple[int, int]]:
        """Picture features, with (height, width)."""
        return {key: _height_width(value) for key, value in self.features.items() if value["dtype"] in IMAGE_TYPES}

    @property
    def spec(self) -> InterfaceSpec:
        """What the dataset holds, to be compared with a policy and a suite."""
        state = self.features.get("observation.state", {"shape": [0]})
        recorded = self.recording.get("spec", {})
        if "action" not in self.features:
            found = sorted(self.features)
            raise ConfigurationError(f"the dataset at {self.root} has no feature 'action'; it has {found}")
        return InterfaceSpec(
            cameras=self.cameras,
            state_size=int(state["shape"][0]),
            action_size=int(self.features["action"]["shape"][0]),
            render_profile=recorded.get("render_profile"),
            control_mode=recorded.get("control_mode"),
            image_orientation=recorded.get("image_orientation"),
        )

    @property
    def action_range(self) -> tuple[list[float], list[float]] | None:
        """Smallest and largest action that the recorded suite takes, if the recording says so."""
        spec = self.recording.get("spec", {})
        if not spec.get("action_low") or not spec.get("action_high"):
            return None
        return spec["action_low"], spec["action_high"]

    @cached_property
    def episodes(self) -> pd.DataFrame:
        """One row per episode, in order, without the per-episode statistics."""
        files = sorted((self.root / "meta" / "episodes").glob("*/*.parquet"))
        if not files:
            raise ConfigurationError(f"the dataset at {self.root} has no episodes (meta/episodes is empty)")
        frames = []
        for file in files:
            columns = [name for name in pq.ParquetFile(file).schema_arrow.names if not name.startswith("stats/")]
            frames.append(pd.read_parquet(file, columns=columns))
        return pd.concat(frames, ignore_index=True).sort_values("episode_index", ignore_index=True)

    @cached_property
    def instructions(self) -> dict[int, str]:
        """Task index to instruction."""
        table = pd.read_parquet(self.root / "meta" / "tasks.parquet").reset_index()
        text_column = next(name for name in ("task", "index") if name in table.columns)
        return {int(number): str(text) for number, text in zip(table["task_index"], table[text_column], strict=True)}

    @cached_property
    def statistics(self) -> dict[str, dict[str, list[Any]]]:
        """LeRobot's statistics over the whole dataset (``meta/stats.json``)."""
        content: dict[str, dict[str, list[Any]]] = json.loads((self.root / "meta" / "stats.json").read_text())
        return content

    def column(self, key: str) -> NDArray[Any]:
        """One column of every frame, shape (frames,) or (frames, size), in the order of the global frame index."""
        parts = [pq.read_table(file, columns=["index", key]) for file in self._data_files]
        order = np.argsort(np.concatenate([part["index"].to_numpy() for part in parts]), kind="stable")
        values = np.concatenate([_to_numpy(part[key]) for part in parts])
        sorted_values: NDArray[Any] = values[order]
        return sorted_values

    def images(self, key: str) -> Iterator[NDArray[np.uint8]]:
        """Every frame of a camera, uint8 (H, W, 3), in the order of the global frame index; each is decoded once."""
        if self.features[key]["dtype"] == "video":
            yield from self._video_frames(key)
        else:
            yield from self._stored_pictures(key)

    def image(self, key: str, row: int) -> NDArray[np.uint8]:
        """One frame of a camera, uint8 (H, W, 3), by its global frame index."""
        if self.features[key]["dtype"] != "video":
            return next(itertools.islice(self._stored_pictures(key), row, None))
        ends = self.episodes["length"].to_numpy().cumsum()
        number = int(np.searchsorted(ends, row, side="right"))
        episode = self.episodes.iloc[number]
        row_in_episode = row - int(ends[number]) + int(episode["length"])
        path = self._video_path(
            key, int(episode[f"videos/{key}/chunk_index"]), int(episode[f"videos/{key}/file_index"])
        )
        fps = float(self.info["fps"])
        seconds = float(episode[f"videos/{key}/from_timestamp"]) + row_in_episode / fps
        return _decode_one(path, seconds, tolerance=0.5 / fps)

    @property
    def _data_files(self) -> list[Path]:
        return sorted((self.root / "data").glob("*/*.parquet"))

    def _video_frames(self, key: str) -> Iterator[NDArray[np.uint8]]:
        fps = float(self.info["fps"])
        chunk, file = f"videos/{key}/chunk_index", f"videos/{key}/file_index"
        start = f"videos/{key}/from_timestamp"
        for _, group in self.episodes.groupby([chunk, file], sort=True):
            path = self._video_path(key, int(group[chunk].iloc[0]), int(group[file].iloc[0]))
            # Episodes lie one behind the other in a file; their order there is that of their start.
            wanted = group.sort_values(start)
            first = (wanted[start] * fps).round().astype(int)
            keep = np.concatenate(
                [np.arange(begin, begin + length) for begin, length in zip(first, wanted["length"], strict=True)]
            )
            yield from _decode(path, keep)

    def _video_path(self, key: str, chunk: int, file: int) -> Path:
        path: Path = self.root / self.info["video_path"].format(video_key=key, chunk_index=chunk, file_index=file)
        if not path.is_file():
            raise ConfigurationError(f"the dataset is not complete: {path} is missing; copy or download it again")
        return path

    def _stored_pictures(self, key: str) -> Iterator[NDArray[np.uint8]]:
        from PIL import Image

        for file in self._data_files:
            for part in pq.ParquetFile(file).iter_batches(columns=[key], batch_size=256):
                for entry in part.column(0).to_pylist():
                    source = io.BytesIO(entry["bytes"]) if entry.get("bytes") else self.root / entry["path"]
                    with Image.open(source) as picture:
                        yield np.asarray(picture.convert("RGB"))


def spec_of(source: Source) -> InterfaceSpec:
    """What a source holds, its cameras chosen and renamed."""
    spec = DatasetFolder(source.root).spec
    if source.cameras is None:
        return spec
    return replace(spec, cameras={new: spec.cameras[old] for new, old in source.cameras})


def _height_width(feature: Mapping[str, Any]) -> tuple[int, int]:
    shape = [int(size) for size in feature["shape"]]
    names = feature.get("names") or ["height", "width", "channels"]
    if names[0] in ("channel", "channels"):
        return shape[1], shape[2]
    return shape[0], shape[1]


def _to_numpy(column: Any) -> NDArray[Any]:  # noqa: ANN401 - a pyarrow ChunkedArray, which has no stubs
    flat = column.combine_chunks()
    if hasattr(flat, "flatten") and flat.type.num_fields:
        return np.asarray(flat.flatten().to_numpy(zero_copy_only=False)).reshape(len(column), -1)
    return np.asarray(flat.to_numpy(zero_copy_only=False))


def _decode(path: Path, keep: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    """The frames numbered ``keep`` (ascending) of a video, decoded front to back."""
    wanted = iter(keep.tolist())
    target = next(wanted, None)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for number, frame in enumerate(container.decode(stream)):
            if target is None:
                return
            if number == target:
                yield frame.to_ndarray(format="rgb24")
                target = next(wanted, None)
    if target is not None:
        raise ConfigurationError(f"the video {path} ends before frame {target}; copy or download the dataset again")


def _decode_one(path: Path, seconds: float, tolerance: float) -> NDArray[np.uint8]:
    """The frame at a time of a video, decoded from the key frame before it."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        container.seek(int(seconds * av.time_base), backward=True)
        for frame in container.decode(stream):
            if frame.time is not None and frame.time >= seconds - tolerance:
                picture: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
                return picture
    raise ConfigurationError(f"the video {path} ends before {seconds:.2f} s; copy or download the dataset again")
