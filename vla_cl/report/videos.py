"""Chooses a few videos of a run and puts them into the page, each with its last frame as a poster."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vla_cl.report.load import EpisodeRow, RunRecord
from vla_cl.report.numbers import task_name
from vla_cl.storage.manifest import damaged_files, run_key
from vla_cl.storage.names import VIDEOS
from vla_cl.trust.media import RgbFrames, open_video
from vla_cl.trust.paths import inside
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError, Outcome

PER_TASK = 2
"""Videos per task and run: the last success and the last failure."""

MAX_TOTAL_BYTES = 48 * 2**20
"""Videos beyond this total stay out of the page, which would otherwise be slow to open and impossible to send."""


@dataclass(frozen=True)
class Video:
    """One embedded video; ``source`` and ``poster`` are data URIs."""

    task: str
    outcome: str
    after: str  # the experience after which it was filmed
    source: str
    poster: str


@dataclass(frozen=True)
class VideoSection:
    """The videos of one run, and a sentence for each that could not be shown."""

    label: str
    videos: tuple[Video, ...]
    notes: tuple[str, ...]


def video_sections(runs: Iterable[RunRecord]) -> list[VideoSection]:
    """Embed up to `PER_TASK` videos per task and run.

    Raises:
        ConfigurationError: The episode table names a video outside its run folder.
    """
    sections, budget = [], MAX_TOTAL_BYTES
    for run in runs:
        videos, notes, left_out = [], [], 0
        named = f"{short(run.folder / 'episodes.parquet')} names a video, which"
        chosen = [(row, inside(run.folder, row.video or "", named)) for row in _chosen(run)]
        damaged = damaged_files(run.folder / VIDEOS, {path for _, path in chosen}, run_key(run.folder))
        for row, path in chosen:
            size = path.stat().st_size if path.is_file() else 0
            if size > budget:
                left_out += 1
                continue
            if path in damaged:
                notes.append(f"{harmless(row.video or '')} is damaged: it differs from its manifest.")
                continue
            video = _embed(run, row, path)
            if video is None:
                notes.append(f"{harmless(row.video or '')} is missing or cannot be decoded.")
                continue
            budget -= size
            videos.append(video)
        if left_out:
            notes.append(f"{left_out} more videos are in {run.folder / VIDEOS}: the page would have become too large.")
        if videos or notes:
            sections.append(VideoSection(run.label, tuple(videos), tuple(notes)))
    return sections


def _chosen(run: RunRecord) -> list[EpisodeRow]:
    """The last filmed success and the last filmed failure of every task; two of one kind where the other is lacking."""
    filmed = [row for row in run.episodes or () if row.video is not None]
    chosen = []
    for task in run.tasks:
        rows = sorted((row for row in filmed if row.task == task), key=lambda row: (-row.step, row.initial_state))
        first_of_kind = [
            next((row for row in rows if row.outcome is kind), None) for kind in (Outcome.SUCCESS, Outcome.FAILURE)
        ]
        picked = [row for row in first_of_kind if row is not None]
        picked += [row for row in rows if row not in picked][: PER_TASK - len(picked)]
        chosen += sorted(picked[:PER_TASK], key=lambda row: row.step)
    return chosen


def _embed(run: RunRecord, row: EpisodeRow, path: Path) -> Video | None:
    """Read a video; None if it is not there or has no picture."""
    poster = _poster(path) if path.is_file() else None
    if poster is None:
        return None
    names = [name for name, _ in run.experiences]
    after = names[row.experience] if 0 <= row.experience < len(names) else f"experience {row.experience}"
    return Video(task_name(row.task), row.outcome.value, after, _data_uri("video/mp4", path.read_bytes()), poster)


def _poster(path: Path) -> str | None:
    """The last frame as a JPEG data URI; None if there is none to be decoded.

    Not the first: all episodes of an initial state begin alike, and the last one shows how it ended.
    """
    from PIL import Image

    try:
        with open_video(path, "the video", "") as container:
            frame = None
            for frame in container.decode(video=0):  # noqa: B007 - the last one is wanted
                pass
            image = None if frame is None else Image.fromarray(RgbFrames().picture(frame))
    except ConfigurationError:  # the note in the page says so
        return None
    if image is None:
        return None
    picture = io.BytesIO()
    image.save(picture, format="JPEG", quality=80)
    return _data_uri("image/jpeg", picture.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
