"""Pictures from videos, by time: the picture of a row is the frame shown at the row's time.

A row's time is its ``timestamp`` plus the ``from_timestamp`` of its episode in its file. The nearest frame belongs to
it if it is less than `TOLERANCE` away; otherwise there is none, and the dataset is refused. Both are LeRobot's rules
(``decode_video_frames_pyav`` in lerobot 0.6.1). Its other decoder, torchcodec, finds frames by the file's average rate
and raises where that misses the time: variable rates, a late start. Where either returns, it is the same frame; its
colours are torchcodec's (`vla_cl.trust.media.RgbFrames`), which LeRobot's PyAV decoder shares for the usual videos of
8 bits that note no colour space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vla_cl.data.dataset_info import REMEDY
from vla_cl.data.dataset_rows import RowTable
from vla_cl.data.picture_source import Picture, PictureSource
from vla_cl.trust.media import RgbFrames, open_video
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError

TOLERANCE = 1e-4
"""Seconds between a row's time and its frame, LeRobot's ``tolerance_s``."""

_DEEP_GREY = ("gray9", "gray10", "gray12", "gray14", "gray16", "grayf")


class NoFrameError(Exception):
    """No frame of a video is shown at a time.

    Args:
        place: Which of the wanted times.
        wanted: The time, in seconds.
        nearest: The time of the nearest frame; None if the video has none.
    """

    def __init__(self, place: int, wanted: float, nearest: float | None) -> None:
        super().__init__(place, wanted, nearest)
        self.place, self.wanted, self.nearest = place, wanted, nearest


class VideoCamera(PictureSource):
    """A camera whose pictures lie in videos.

    Args:
        root: The dataset.
        key: The camera's feature key.
        path_of: Chunk and file number to the path of a video.
        rows: The dataset's.
        episodes: Its table of episodes.

    Raises:
        ConfigurationError: The table of episodes does not say where the videos are.
    """

    def __init__(
        self, root: Path, key: str, path_of: Callable[[int, int], Path], rows: RowTable, episodes: pd.DataFrame
    ) -> None:
        self._root, self._key, self._rows = root, key, rows
        columns = [f"videos/{key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
        missing = [name for name in columns if name not in episodes.columns]
        if missing:
            raise ConfigurationError(
                f"{short(root)}: meta/episodes has no column {harmless(missing[0], 80)!r}, so where the videos of this "
                f"camera are is unknown; {REMEDY}"
            )
        places = episodes.set_index("episode_index")[columns]
        empty = np.flatnonzero(places.isna().to_numpy().any(axis=1))
        if len(empty):
            number = int(places.index[int(empty[0])])
            raise ConfigurationError(
                f"{short(root)}: meta/episodes does not say where the video of camera {self._name} of episode {number} "
                f"is; {REMEDY}"
            )
        chunk, file, start = (places[name].reindex(rows.episode).to_numpy() for name in columns)
        self._seconds: NDArray[np.float64] = rows.seconds + start.astype(np.float64)
        pairs, which = np.unique(np.stack([chunk, file]).astype(np.int64), axis=1, return_inverse=True)
        self._files = [path_of(int(one), int(other)) for one, other in pairs.T]
        self._file_of_row: NDArray[np.int64] = which.reshape(-1)
        order = np.argsort(self._file_of_row, kind="stable")
        self._rows_of_file = np.split(order, np.cumsum(np.bincount(self._file_of_row, minlength=len(self._files)))[:-1])

    def first_look(self) -> tuple[tuple[int, int], str | None]:
        """As of `PictureSource`; nothing is decoded, the file's head says it."""
        with open_video(self._files[self._file_of_row[0]], self._what, REMEDY) as container:
            context = container.streams.video[0].codec_context
            deep = str(context.pix_fmt).startswith(_DEEP_GREY)
            why = f"its video holds {context.pix_fmt}, one deep channel as for distances" if deep else None
            return (int(context.height), int(context.width)), why

    def pictures(self) -> Iterator[tuple[int, Picture]]:
        """As of `PictureSource`."""
        for path, rows in zip(self._files, self._rows_of_file, strict=True):
            try:
                for place, picture in pictures_at(path, self._seconds[rows], self._what):
                    yield int(rows[place]), picture
            except NoFrameError as error:
                raise self._refusal(int(rows[error.place]), path, error) from error

    def picture(self, row: int) -> Picture:
        """As of `PictureSource`; decoded from the key frame before it, or where that is one too late from the start.

        The container is searched by decoding time, so the frames that are shown just before a key frame but decoded
        after it are missed (LeRobot's PyAV decoder raises there).
        """
        path, seconds = self._files[self._file_of_row[row]], self._seconds[row : row + 1]
        try:
            return next(pictures_at(path, seconds, self._what, seek=True))[1]
        except NoFrameError:
            pass
        try:
            return next(pictures_at(path, seconds, self._what))[1]
        except NoFrameError as error:
            raise self._refusal(row, path, error) from error

    def end_rows(self) -> list[tuple[int, int]]:
        """As of `PictureSource`."""
        ends = []
        for rows in self._rows_of_file:
            seconds = self._seconds[rows]
            ends.append((int(rows[seconds.argmin()]), int(rows[seconds.argmax()])))
        return ends

    def require_files(self) -> None:
        """As of `PictureSource`; the number of frames is read in the file's head, where that says it."""
        for path, rows in zip(self._files, self._rows_of_file, strict=True):
            with open_video(path, self._what, REMEDY) as container:
                frames = int(container.streams.video[0].frames)
            wanted = len(np.unique(np.round(self._seconds[rows] / TOLERANCE)))
            if 0 < frames < wanted:
                raise ConfigurationError(
                    f"{short(self._root)}: {path.relative_to(self._root)} has {frames} frames for {wanted} rows from "
                    f"{self._rows.place(int(rows[0]))} on (camera {self._name}), so some would get another's picture; "
                    f"{REMEDY}"
                )

    @property
    def _name(self) -> str:
        return repr(harmless(self._key, 60))

    @property
    def _what(self) -> str:
        return f"the video of camera {self._name}"

    def _refusal(self, row: int, path: Path, error: NoFrameError) -> ConfigurationError:
        nearest = "has no frame" if error.nearest is None else f"has its nearest frame at {error.nearest:.4f} s"
        return ConfigurationError(
            f"{short(self._root, 80)}: {self._rows.place(row)} is at {error.wanted:.4f} s of its video, but "
            f"{short(path.relative_to(self._root), 70)} {nearest}; encode it again or remove the episode"
        )


def pictures_at(
    path: Path, seconds: NDArray[np.float64], what: str, seek: bool = False
) -> Iterator[tuple[int, Picture]]:
    """The frames shown at these times, decoded front to back.

    Args:
        path: A video.
        seconds: Wanted times, in any order, equal ones too, shape (N,).
        what: What the video is, for messages.
        seek: Begin at the key frame before the first wanted time; otherwise at the beginning.

    Yields:
        Place in ``seconds`` and picture, uint8 (H, W, 3), in the order of the times.

    Raises:
        NoFrameError: At a wanted time there is none.
        ConfigurationError: The video is damaged, or to be turned when it is shown.
    """
    order = np.argsort(seconds, kind="stable")
    wanted: list[float] = seconds[order].tolist()
    before: tuple[float, Any] | None = None
    done, rgb = 0, RgbFrames()
    for time, frame in _decoded(path, what, wanted[0] if seek else None):
        if before is not None and time <= before[0]:
            continue  # of frames with equal times the first is the one LeRobot takes
        first = done
        while done < len(wanted) and wanted[done] <= time:
            done += 1
        yield from _matched(wanted, order, range(first, done), [item for item in (before, (time, frame)) if item], rgb)
        if done == len(wanted):
            return
        before = (time, frame)
    yield from _matched(wanted, order, range(done, len(wanted)), [before] if before else [], rgb)


def _matched(
    wanted: list[float], order: NDArray[np.int64], places: range, frames: list[tuple[float, Any]], rgb: RgbFrames
) -> Iterator[tuple[int, Picture]]:
    """Each wanted time with the nearest of one or two frames; a frame is converted once."""
    converted: dict[float, Picture] = {}
    for place in places:
        second = wanted[place]
        if not frames:
            raise NoFrameError(int(order[place]), second, None)
        time, frame = min(frames, key=lambda item: abs(item[0] - second))
        if not _is_near(time, second):
            raise NoFrameError(int(order[place]), second, time)
        if time not in converted:
            converted[time] = rgb.picture(frame)
        yield int(order[place]), converted[time]


def _is_near(time: float, second: float) -> bool:
    """Within the tolerance, also as LeRobot compares: in single precision, which is coarser in long files."""
    return abs(time - second) < TOLERANCE or abs(float(np.float32(time) - np.float32(second))) < TOLERANCE


def _decoded(path: Path, what: str, start: float | None) -> Iterator[tuple[float, Any]]:
    with open_video(path, what, REMEDY) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        unit = float(stream.time_base or 1)
        if start is not None:
            container.seek(round(start / unit) - 1, backward=True, any_frame=False, stream=stream)
        for frame in container.decode(stream):
            pts: int | None = frame.pts
            if pts is None:
                continue
            time = pts * unit
            if frame.is_corrupt and start is None:
                raise ConfigurationError(f"{what} at {short(path)} is damaged at {time:.3f} s; {REMEDY}")
            if frame.rotation:
                raise ConfigurationError(
                    f"{what} at {short(path)} is to be turned by {frame.rotation} degrees when shown, which LeRobot's "
                    "decoders do not agree on; encode it again without that note"
                )
            yield time, frame
