"""Streams of tasks: from a suite's task names, or from datasets on disk or on the hub."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from vla_cl.data.source import Source
from vla_cl.types import ConfigurationError, Experience, Stream, Task

_LONGEST_HINT = 180
ARRANGEMENTS = ("sequential", "joint", "independent")


def named_tasks(names: Sequence[str], available: Sequence[Task]) -> list[Task]:
    """Look tasks up by id (``metaworld/reach``) or by name (``reach``).

    Raises:
        ConfigurationError: A name is unknown; the message gives the nearest ones.
    """
    by_name = {task.name: task for task in available} | {task.id: task for task in available}
    for name in names:
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, n=3) or sorted(task.name for task in available)[:8]
            suite = available[0].suite if available else "the suite"
            nearest = ", ".join(near[: max(1, sum(end <= _LONGEST_HINT for end in accumulate(map(len, near))))])
            raise ConfigurationError(f"unknown task {name!r} of {suite}; nearest: {nearest}")
    return [by_name[name] for name in names]


def suite_stream(
    name: str,
    available: Sequence[Task],
    tasks: Sequence[str] = (),
    experiences: Sequence[Mapping[str, object]] = (),
    arrangement: str = "sequential",
) -> Stream:
    """A stream over a suite's tasks.

    Args:
        name: How the stream is called in run folders.
        available: The suite's tasks.
        tasks: One task per experience, in order; a task that comes again is a second experience of it.
        experiences: Instead of ``tasks``, for several tasks in one experience: ``{"name": ..., "tasks": [...]}``.
        arrangement: ``sequential``; ``joint``, one experience with everything (upper reference); ``independent``, every
            task from the warm start (single-task reference).

    Raises:
        ConfigurationError: Unknown task or arrangement, or nothing to learn.
    """
    if bool(tasks) == bool(experiences):
        raise ConfigurationError(f"stream {name!r} needs either `tasks` or `experiences`; give one of them")
    groups = [(str(item["name"]), _names_of(item)) for item in experiences] or [(task, [task]) for task in tasks]
    resolved = [(label, named_tasks(members, available)) for label, members in groups]
    return arrange(name, resolved, arrangement)


def arrange(name: str, groups: Sequence[tuple[str, Sequence[Task]]], arrangement: str) -> Stream:
    """Put named groups of tasks in sequence, all into one experience, or each on its own."""
    if arrangement not in ARRANGEMENTS:
        near = difflib.get_close_matches(arrangement, ARRANGEMENTS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigurationError(f"unknown arrangement {arrangement!r}; allowed: {', '.join(ARRANGEMENTS)}{hint}")
    if arrangement == "joint":
        unique = {task.id: task for _, members in groups for task in members}
        return Stream(name, (Experience(0, "joint", tuple(unique.values())),))
    if arrangement == "independent":
        groups = list({tuple(task.id for task in members): (label, members) for label, members in groups}.values())
    labels = _distinct([label.rsplit("/", 1)[-1] for label, _ in groups])
    experiences = [
        Experience(index, label, tuple(members))
        for index, (label, (_, members)) in enumerate(zip(labels, groups, strict=True))
    ]
    return Stream(name, tuple(experiences), independent=arrangement == "independent")


def dataset_stream(
    name: str,
    datasets: Sequence[str],
    available: Sequence[Task] = (),
    arrangement: str = "sequential",
) -> tuple[Stream, dict[str, list[Source]]]:
    """A stream over recorded datasets: one experience per instruction, in the order of the list and of each task table.

    Args:
        name: How the stream is called in run folders.
        datasets: Folders of LeRobotDatasets v3, or names on the hub (``user/dataset``), which are downloaded.
        available: Tasks of the suite to evaluate on; an instruction equal to one of theirs stands for that task.
        arrangement: As in `suite_stream`.

    Returns:
        The stream, and the sources of each task id. A task that no suite knows has ``max_steps`` 0: it can be learnt
        from, not rolled out.
    """
    from vla_cl.data.dataset_folder import (
        DatasetFolder,
    )  # pandas and PyAV, which a stream of a suite's tasks does not need

    by_instruction = {task.instruction: task for task in available}
    tasks: dict[str, Task] = {}
    sources: dict[str, list[Source]] = {}
    for location in datasets:
        folder = DatasetFolder(dataset_root(location))
        for instruction in folder.instructions.values():
            own = Task(f"{folder.root.name}/{_slug(instruction)}", instruction, max_steps=0)
            task = by_instruction.get(instruction, own)
            tasks[task.id] = task
            sources.setdefault(task.id, []).append(Source(folder.root, recorded_instruction=instruction))
    if not tasks:
        raise ConfigurationError(
            f"stream {name!r} has no dataset; give at least one folder or hub name in stream.datasets"
        )
    return arrange(name, [(task.name, [task]) for task in tasks.values()], arrangement), sources


def dataset_root(location: str) -> Path:
    """The folder of a dataset given as a folder or by its name on the hub, which is downloaded when it is not here.

    Raises:
        ConfigurationError: It is neither.
    """
    folder = Path(location).expanduser()
    if (folder / "meta" / "info.json").is_file():
        return folder
    if folder.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", location):
        raise ConfigurationError(
            f"{location!r} is neither a LeRobotDataset folder (no meta/info.json in it) nor a hub name like user/name"
        )
    from lerobot.datasets import LeRobotDataset  # only a download needs LeRobot's seconds of import

    try:
        return Path(LeRobotDataset(location).root)
    except OSError as error:
        raise ConfigurationError(
            f"{location!r} is not a folder here and could not be fetched from the hub ({error}); "
            "check the name and the connection, or copy the dataset and give its folder"
        ) from error


def _names_of(item: Mapping[str, object]) -> list[str]:
    tasks = item.get("tasks")
    if not isinstance(tasks, Sequence) or isinstance(tasks, str) or not tasks:
        raise ConfigurationError(
            f"experience {item.get('name')!r} needs a list `tasks` with at least one name; got {tasks!r}"
        )
    return [str(task) for task in tasks]


def _distinct(labels: Sequence[str]) -> list[str]:
    """Number repeated labels: a, b, a becomes a, b, a-2."""
    seen: dict[str, int] = {}
    result = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        result.append(label if seen[label] == 1 else f"{label}-{seen[label]}")
    return result


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "task"
