"""Is a dataset what its metadata say? What would go wrong in the third task is found before the first step."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vla_cl.data.agreement import Described, agreed
from vla_cl.data.cameras import Pairs
from vla_cl.data.dataset_folder import ACTION, STATE, DatasetFolder, spec_of
from vla_cl.data.frame_cache import missing_bytes
from vla_cl.data.source import Source
from vla_cl.trust.text import short
from vla_cl.types import ConfigurationError, InterfaceSpec

GIB = 2**30


@dataclass(frozen=True)
class DatasetReport:
    """What was found in one dataset.

    Attributes:
        root: Its folder.
        frames: Number of frames.
        episodes: Number of episodes.
        fps: Frames per second.
        spec: Cameras (chosen and renamed), state and action sizes.
        tasks: Number of instructions that have frames.
        cache_bytes: What decoding its pictures will take in the frame cache.
        notes: What somebody should know, one sentence each.
    """

    root: Path
    frames: int
    episodes: int
    fps: float
    spec: InterfaceSpec
    tasks: int
    cache_bytes: int
    notes: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """The dataset in a message."""
        return short(self.root, 60)


def inspect_dataset(root: Path, cameras: Pairs | None = None, cache: Path | None = None) -> DatasetReport:
    """Compare a dataset's metadata with its data, and decode the first and the last picture of every file.

    Args:
        root: Folder of a LeRobotDataset v3.
        cameras: Which cameras are looked at, and their names here; None: all.
        cache: Folder of decoded pictures; None: nothing is decoded yet.

    Raises:
        ConfigurationError: Something is wrong; one sentence that names dataset, column, episode and frame.
    """
    folder = DatasetFolder(root)
    spec = spec_of(Source(root, cameras=cameras))
    rows = folder.rows
    for key in (ACTION, STATE) if spec.state_size else (ACTION,):
        folder.vectors(key)
    own = list(folder.cameras) if cameras is None else list(dict.fromkeys(old for _, old in cameras))
    for camera in own:
        folder.look_at_ends(camera)
    nowhere = root / "no cache"
    return DatasetReport(
        root=root,
        frames=len(rows),
        episodes=len(folder.episodes),
        fps=folder.fps,
        spec=spec,
        tasks=len(set(folder.instructions.values())),
        cache_bytes=sum(missing_bytes(folder, camera, cache or nowhere) for camera in own),
        notes=folder.left_out,
    )


def require_alike(reports: Sequence[DatasetReport], check_fps: bool = True) -> InterfaceSpec:
    """Refuse datasets that one policy cannot learn from one after another.

    Args:
        reports: Of every dataset of a stream, at least one.
        check_fps: Also compare frames per second.

    Returns:
        What they hold together, as of `vla_cl.data.agreement.agreed`.

    Raises:
        ConfigurationError: Cameras, sizes, rates or conventions differ; both datasets are named.
    """
    return agreed([Described(report.shown, report.spec) for report in reports], check_fps)


def require_room(reports: Sequence[DatasetReport], folder: Path, more: int = 0) -> None:
    """Refuse to begin what the disk cannot hold.

    Args:
        reports: Datasets whose pictures will be decoded into ``folder``.
        folder: It, or the nearest folder above it that exists, tells the disk.
        more: Bytes needed besides.

    Raises:
        ConfigurationError: Less is free than needed.
    """
    needed = sum(report.cache_bytes for report in reports) + more
    where = folder.absolute()
    while not where.exists():
        where = where.parent
    free = shutil.disk_usage(where).free
    if needed > free:
        raise ConfigurationError(
            f"the stream needs {needed / GIB:.1f} GiB in {short(folder)}, where {free / GIB:.1f} GiB are free; "
            "free some, choose fewer cameras with cameras=[...], or set cache_dir to another disk"
        )
