"""Is a dataset what its metadata say? What would go wrong in the third task is found before the first step."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vla_cl.data.agreement import Described, agreed, same_rate
from vla_cl.data.cameras import Pairs
from vla_cl.data.dataset_folder import ACTION, STATE, DatasetFolder, spec_of
from vla_cl.data.frame_cache import missing_bytes
from vla_cl.data.identity import identity
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
        longest: Frames of the longest episode.
        fps: Frames per second.
        spec: Cameras (chosen and renamed), state and action sizes.
        tasks: Number of instructions that have frames.
        cache_bytes: What decoding its pictures will take in the frame cache.
        notes: What somebody should know, one sentence each.
        joints: Names of the numbers of states and actions, where they are told.
        robot: ``robot_type`` of the metadata, where it is told.
    """

    root: Path
    frames: int
    episodes: int
    longest: int
    fps: float
    spec: InterfaceSpec
    tasks: int
    cache_bytes: int
    notes: tuple[str, ...] = ()
    joints: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    robot: str | None = None

    @property
    def shown(self) -> str:
        """The dataset in a message."""
        return short(self.root, 60)


def inspect_dataset(
    root: Path, cameras: Pairs | None = None, cache: Path | None = None, check_fps: bool = True
) -> DatasetReport:
    """Compare a dataset's metadata with its data, and decode the first and the last picture of every file.

    Args:
        root: Folder of a LeRobotDataset v3.
        cameras: Which cameras are looked at, and their names here; None: all.
        cache: Folder of decoded pictures; None: nothing is decoded yet.
        check_fps: Also compare the times of the rows with the declared frames per second.

    Raises:
        ConfigurationError: Something is wrong; one sentence that names dataset, column, episode and frame.
    """
    folder = DatasetFolder(root)
    spec = spec_of(Source(root, cameras=cameras), folder)
    for key in (ACTION, STATE) if spec.state_size else (ACTION,):
        folder.vectors(key)
    if check_fps:
        _require_declared_rate(folder)
    own = list(folder.cameras) if cameras is None else list(dict.fromkeys(old for _, old in cameras))
    for camera in own:
        folder.look_at_ends(camera)
    nowhere = root / "no cache"
    decoded = sum(missing_bytes(folder, camera, cache or nowhere) for camera in own)
    return described(folder, spec, len(folder.rows), decoded, folder.left_out)


def described(
    folder: DatasetFolder, spec: InterfaceSpec, frames: int, cache_bytes: int, notes: tuple[str, ...] = ()
) -> DatasetReport:
    """The report on a dataset of which these have been found."""
    return DatasetReport(
        root=folder.root,
        frames=frames,
        episodes=len(folder.episodes),
        longest=int(folder.episodes["length"].max()),
        fps=folder.fps,
        spec=spec,
        tasks=len(set(folder.instructions.values())),
        cache_bytes=cache_bytes,
        notes=notes,
        joints=folder.joints,
        robot=folder.robot,
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


def require_distinct(reports: Sequence[DatasetReport]) -> None:
    """Refuse a dataset that is given twice, at two places: its frames would count double.

    Raises:
        ConfigurationError: Two hold the same; both are named.
    """
    groups: dict[tuple[object, ...], list[DatasetReport]] = {}
    for report in reports:  # contents are read only where the rest is alike
        groups.setdefault((report.frames, report.episodes, report.fps, report.tasks), []).append(report)
    for alike in groups.values():
        if len(alike) < 2:
            continue
        known: dict[str, DatasetReport] = {}
        for report in alike:
            other = known.setdefault(identity(report.root), report)
            if other is not report:
                raise ConfigurationError(
                    f"{short(other.root, 80)} and {short(report.root, 80)} are the same dataset, which would count "
                    "twice; leave one of them out"
                )


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
    free = shutil.disk_usage(_existing(folder)).free
    if needed > free:
        raise ConfigurationError(
            f"the stream needs {needed / GIB:.1f} GiB in {short(folder)}, where {free / GIB:.1f} GiB are free; "
            "free some, choose fewer cameras with cameras=[...], or set cache_dir to another disk"
        )


def require_room_to_fetch(size: int, folder: Path, reports: Sequence[DatasetReport], cache: Path) -> None:
    """Refuse a download that the disk cannot hold, together with the decoded pictures where they go to the same disk.

    Args:
        size: Bytes to be downloaded.
        folder: Where to.
        reports: Datasets whose pictures will be decoded.
        cache: Where to.

    Raises:
        ConfigurationError: Less is free than needed.
    """
    where = _existing(folder)
    same = where.stat().st_dev == _existing(cache).stat().st_dev
    decoded = sum(report.cache_bytes for report in reports) if same else 0
    free = shutil.disk_usage(where).free
    if size + decoded > free:
        more = f" and {decoded / GIB:.1f} GiB for decoded pictures" if decoded else ""
        raise ConfigurationError(
            f"the datasets of the hub need {size / GIB:.1f} GiB in {short(folder, 80)}{more}, where {free / GIB:.1f} "
            "GiB are free; free some, set HF_LEROBOT_HOME or cache_dir to another disk, or name fewer datasets"
        )


def _require_declared_rate(folder: DatasetFolder) -> None:
    """The rows' own times must tell the declared rate, or every movement is learnt at another speed."""
    measured = folder.rows.rate
    if measured is not None and not same_rate(measured, folder.fps):
        raise ConfigurationError(
            f"{short(folder.root, 80)}: meta/info.json declares {folder.fps:g} fps, the times of its rows tell "
            f"{measured:.4g} fps; correct the one that is wrong, or data.check_fps=false to accept it"
        )


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    where = folder.absolute()
    while not where.exists():
        where = where.parent
    return where
