"""``vla-cl memory``: what a run remembers, and the same as a LeRobotDataset that anything can open."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.config.compose import compose
from vla_cl.data.moved_data import require_in_place, with_data_at
from vla_cl.data.run_data import with_moved_data
from vla_cl.files import remove_leftovers_of
from vla_cl.interfaces import Data
from vla_cl.memory.copied import CopiedData
from vla_cl.memory.record import is_picture
from vla_cl.memory.remembered import Remembered, from_index
from vla_cl.memory.replay_memory import COPIES, REUSED
from vla_cl.memory.settings import MemorySettings
from vla_cl.memory.store import TrajectoryStore
from vla_cl.run import checkpoint
from vla_cl.run.folder import read_settings, require_robot
from vla_cl.storage.locks import only_writer
from vla_cl.storage.manifest import require_readable_run
from vla_cl.storage.names import NOTES
from vla_cl.trust.reading import as_plain, require_entries
from vla_cl.trust.text import counted, harmless, short, told_as
from vla_cl.types import ConfigurationError, Experience, Stream, SuiteSpec, Task, Trajectory

if TYPE_CHECKING:
    from vla_cl.run.stream_sources import Sources

_REMEDY = "restore the file from where the run was written"


@dataclass(frozen=True)
class RunMemory:
    """The memory in a run's newest checkpoint.

    Attributes:
        tasks: What is remembered of each experience, without its data.
        settings: Of the memory; None for a method that has only a number of samples.
        configuration: The run's settings.
        passed_over: A sentence for each newer checkpoint that is damaged.
        places: Where the user says that the run's datasets lie now; empty: where the run saw them last.
    """

    root: Path
    tasks: tuple[Remembered, ...]
    settings: MemorySettings | None
    configuration: Mapping[str, Any]
    passed_over: tuple[str, ...] = ()
    places: tuple[Path, ...] = ()

    @classmethod
    def read(cls, root: Path) -> RunMemory:
        """Read the index of a run's memory.

        Raises:
            ConfigurationError: There is no run, it has no checkpoint or an unknown format, or its method remembers no
                samples.
        """
        if not (root / "config.yaml").is_file():
            raise ConfigurationError(f"{short(root)} is no run (it has no config.yaml); give the folder of a run")
        require_readable_run(root)
        newest = checkpoint.find_newest(root / "checkpoints")
        if newest is None:
            raise ConfigurationError(
                f"{short(root)} has no checkpoint yet; a memory is written after the first experience"
            )
        state, method = checkpoint.read_method(newest.folder)
        index = state.get("memory")
        if not isinstance(index, Mapping) or NOTES not in index:
            raise ConfigurationError(f"the method {harmless(method, 40)!r} of {short(root)} remembers no samples")
        configuration = read_settings(root / "config.yaml")
        require_entries(configuration, {"method": dict}, short(root / "config.yaml"), _REMEDY)
        given = configuration["method"].get("memory")
        names = [name for name in index if name != NOTES]
        failures = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)
        with told_as(
            f"the memory in {short(newest.folder)} is damaged", "use another checkpoint of the run", *failures
        ):
            tasks = [from_index(n, int(index[NOTES][n]["experience"]), None, index[n], index[NOTES][n]) for n in names]
        settings = MemorySettings.of(given) if given else None
        return cls(root, tuple(tasks), settings, configuration, newest.passed_over)

    def trusting(self, plugins: Sequence[str]) -> RunMemory:
        """The same with settings that may be acted on: packages that the user lists, a cache of this machine.

        Raises:
            ConfigurationError: The suite is in another package, or the settings are not those of a run.
        """
        kinds: dict[str, type | tuple[type, ...]] = {"suite": dict, "stream": dict, "demonstrations": dict}
        what = short(self.root / "config.yaml")
        content = require_entries(self.configuration, kinds | {"cache_dir": str, "arrangement": str}, what, _REMEDY)
        package = str(content["suite"].get("class")).partition(":")[0].split(".")[0]
        if package not in ("vla_cl", *plugins):
            raise ConfigurationError(
                f"the suite of the run {short(self.root)} is in the package {harmless(package, 40)!r}, not listed; "
                f"if you trust it, add --plugins {harmless(package, 40)}"
            )
        cache = Path(content["cache_dir"])
        if not (cache / "frames").is_dir():  # of another machine: no folder is made because a file says so
            cache = Path(compose(())["cache_dir"])
        return replace(self, configuration={**content, "plugins": list(plugins), "cache_dir": str(cache)})

    @property
    def encoding(self) -> str:
        """``index``, or the encoding of the copies."""
        return self.settings.encoding if self.settings and self.settings.keep == "copy" else "index"

    def rows(self) -> list[dict[str, Any]]:
        """One line per experience: what `describe` prints."""
        return [
            {
                "experience": task.name,
                "frames": len(task.rows),
                "frames_in_total": task.frames_in_total,
                "trajectories": task.trajectories,
                "encoding": self.encoding if task.files else "index",
                "bytes": task.bytes,
                "bytes_per_frame": round(task.bytes / len(task.rows), 1) if len(task.rows) else None,
            }
            for task in self.tasks
        ]


def describe(root: Path, as_json: bool = False) -> str:
    """What a run remembers, as a table or as JSON.

    Raises:
        ConfigurationError: As `RunMemory.read`.
    """
    memory = RunMemory.read(root)
    total = sum(task.bytes for task in memory.tasks)
    budget = memory.settings.budget_bytes if memory.settings else None
    if as_json:
        settings = asdict(memory.settings) if memory.settings else None
        content = {
            "tasks": memory.rows(),
            "bytes": total,
            "budget_bytes": budget,
            "settings": settings,
            "passed_over": list(memory.passed_over),
        }
        return json.dumps(content, indent=1)
    lines = [f"{'experience':24} {'frames':>14} {'trajectories':>12} {'encoding':>8} {'bytes':>13} {'per frame':>10}"]
    for row in memory.rows():
        kept = f"{row['frames']} of {row['frames_in_total']}"
        each = "-" if row["bytes_per_frame"] is None else f"{row['bytes_per_frame']:.0f}"
        counts = f"{kept:>14} {row['trajectories']:>12} {row['encoding']:>8} {row['bytes']:>13,} {each:>10}"
        lines.append(f"{harmless(row['experience'], 60):24} {counts}")
    used = f"of a budget of {budget:,} bytes ({total / budget:.1%})" if budget else "(no budget in bytes)"
    return "\n".join([*lines, f"{total:,} bytes {used}"])


def export(root: Path, target: Path, plugins: Sequence[str] = (), places: Sequence[Path] = ()) -> str:
    """Write a run's memory as a LeRobotDataset v3; a sentence that says what was written.

    An episode of the dataset is a remembered trajectory or window, or, of single frames, those of one episode in time.
    Pictures are encoded as in collected demonstrations.

    Args:
        root: Folder of the run.
        target: Folder of the dataset, which must not exist.
        plugins: Packages that the run's suite may come from; the run's own list does not count.
        places: Where the run's datasets lie now, in its order; empty: where it saw them last.

    Raises:
        ConfigurationError: As `RunMemory.read`; ``target`` exists; the data are no longer there; the copies hold no
            pictures; or the suite is in a package that ``plugins`` does not list.
    """
    if not target.name:  # "/" and "." have no name beside which a lock could lie
        raise ConfigurationError(f"{short(target.absolute())} exists; give --export a new folder")
    with only_writer(target.with_name(f".{target.name}.lock"), f"the dataset {short(target)}"):
        remove_leftovers_of(target)
        if target.exists():
            raise ConfigurationError(f"{short(target)} exists; give --export a new folder")
        memory = RunMemory.read(root)
        require_robot(memory.configuration, root, "vla-cl memory --export")
        return _export(replace(memory.trusting(plugins), places=tuple(places)), target)


def _export(memory: RunMemory, target: Path) -> str:
    from vla_cl.rollout.demonstrations import FORMAT, versions, write_dataset

    root = memory.root
    if memory.encoding == "features":
        raise ConfigurationError(
            f"the memory of {short(root)} holds features in place of pictures; there is nothing to show"
        )
    opened = list(_opened(memory))
    pieces = [(task, data, rows) for task, data in opened for rows in _pieces(task)]
    kept = [piece for piece in pieces if len(piece[2]) > 1]  # LeRobot's writer has no statistics of a single picture
    if not kept:
        raise ConfigurationError(
            f"the memory of {short(root)} holds no two frames of one episode; there is nothing to export"
        )
    trajectories = (_trajectory(task, data, rows) for task, data, rows in kept)
    first = next(trajectories)
    spec = _spec(memory, first, opened[0][1])
    noted = [{"episode_index": n, "experience": t.name, "rows": r.tolist()} for n, (t, _, r) in enumerate(kept)]
    about = {
        "format": FORMAT,
        "recorded": "memory",
        "spec": asdict(spec),
        "memory": {
            "run": root.name,
            "consecutive_frames": all((np.diff(rows) == 1).all() for _, _, rows in kept),
            "episodes": noted,
            "frames_left_out": sum(len(rows) for _, _, rows in pieces) - sum(len(rows) for _, _, rows in kept),
        },
        "versions": versions(),
    }
    write_dataset(target, spec, _again(first, trajectories), as_plain(about))
    frames = sum(len(rows) for _, _, rows in kept)
    left_out = about["memory"]["frames_left_out"]  # type: ignore[index]
    tail = f"; {counted(left_out, 'frame')} without a neighbour left out" if left_out else ""
    return f"{target}: {counted(frames, 'frame')} in {counted(len(kept), 'episode')}{tail}"


def _again(first: Trajectory, rest: Iterator[Trajectory]) -> Iterator[Trajectory]:
    yield first
    yield from rest


def _opened(memory: RunMemory) -> Iterator[tuple[Remembered, Data]]:
    """The data of every experience of which something is kept."""
    store = TrajectoryStore(memory.root / COPIES)
    frames_of = partial(_frames, memory.configuration, *_sources(memory)) if _needs_sources(memory) else None
    for task in memory.tasks:
        if not len(task.rows):
            continue
        if task.files:
            store.verify(task.files)
            yield task, CopiedData(store, task.files, task.episodes.tolist(), task.bytes_per_sample)
        elif frames_of is not None:
            yield task, frames_of(task)


def _needs_sources(memory: RunMemory) -> bool:
    return any(not task.files for task in memory.tasks)


def _sources(memory: RunMemory) -> tuple[Stream, Mapping[str, Any]]:
    from vla_cl.run import root as run

    found = _streams(memory)
    recorded = found.recorded
    if recorded is None:
        cameras = found.suite_cameras
        recorded = run.demonstrations(dict(memory.configuration), found.own_suite, found.stream.tasks, cameras)
    return found.stream, recorded


def _streams(memory: RunMemory) -> Sources:
    """Suite and stream of the run's settings, as far as they are those of a run."""
    from vla_cl.run import root as run

    problem = f"{short(memory.root / 'config.yaml')} lacks settings of a run"
    with told_as(problem, _REMEDY, KeyError, TypeError, AttributeError):
        if memory.places:
            return run.sources(with_data_at(memory.configuration, memory.root, memory.places))
        require_in_place(memory.root)
        return run.sources(with_moved_data(memory.configuration, memory.root))


def _frames(configuration: Mapping[str, Any], stream: Stream, sources: Mapping[str, Any], task: Remembered) -> Data:
    from vla_cl.data.frames import Frames
    from vla_cl.data.source import Source
    from vla_cl.memory.settings import reused_folder

    cache = Path(configuration["cache_dir"]) / "frames"
    if task.name == REUSED.name:
        folder = reused_folder(MemorySettings.of(configuration["method"]["memory"]))
        assert folder is not None
        return Frames([Source(folder)], cache, [0])
    experience: Experience = stream.experiences[task.experience]
    return Frames([source for item in experience.tasks for source in sources[item.id]], cache, [0])


def _pieces(task: Remembered) -> Iterator[NDArray[np.int64]]:
    """The rows of each exported episode, in time: a unit, or the single frames of one episode."""
    if (task.lengths > 1).any():
        order = np.argsort([task.rows[start] for start in np.cumsum(task.lengths) - task.lengths], kind="stable")
        units = np.split(task.rows, np.cumsum(task.lengths)[:-1])
        yield from (units[number] for number in order)
        return
    for episode in np.unique(task.episodes):
        yield np.sort(task.rows[task.episodes == episode])


def _trajectory(task: Remembered, data: Data, rows: NDArray[np.int64]) -> Trajectory:
    here = data.find(rows) if isinstance(data, CopiedData) else rows
    batch = data.batch(here)
    actions = data.notes("action") if isinstance(data, CopiedData) else getattr(data, "actions", None)
    pictures = {key: value.numpy() for key, value in batch.items() if is_picture(value)}
    if actions is None or not pictures:
        raise ConfigurationError(f"the memory of {task.name!r} holds no pictures with actions; it is no robot's")
    state = batch.get("observation.state")
    states = np.zeros((len(rows), 0), np.float32) if state is None else state.numpy()
    return Trajectory(
        Task(f"memory/{task.name}", batch["task"][0], max_steps=len(rows)),
        initial_state=-1,
        # of a policy that sees several frames at once, the last is the sample's own
        images={key: value.reshape(len(rows), -1, *value.shape[-3:])[:, -1].transpose(0, 2, 3, 1)
                for key, value in pictures.items()},
        states=states.reshape(len(rows), -1, states.shape[-1])[:, -1] if states.shape[-1] else states,
        actions=actions[here],
        success=True,
    )  # fmt: skip


def _spec(memory: RunMemory, first: Trajectory, data: Data) -> SuiteSpec:
    """The suite's conventions, with the sizes that the samples have."""
    from vla_cl.data.dataset_folder import DatasetFolder

    found = _streams(memory)
    suite = found.suite.spec
    known = getattr(data, "spec", suite)
    return SuiteSpec(
        cameras={key: (value.shape[1], value.shape[2]) for key, value in first.images.items()},
        state_size=first.states.shape[1],
        action_size=first.actions.shape[1],
        render_profile=known.render_profile,
        control_mode=known.control_mode,
        image_orientation=known.image_orientation,
        fps=suite.fps or round(DatasetFolder(found.roots[0]).fps),
        action_low=suite.action_low,
        action_high=suite.action_high,
    )
