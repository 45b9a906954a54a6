"""Streams of tasks: from a suite's task names, or from datasets on disk or on the hub."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, count

from vla_cl.data.recorded import Recorded, find_tasks, learnt_together, shown
from vla_cl.data.source import Source
from vla_cl.storage.names import RESERVED, slug
from vla_cl.trust.text import harmless
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
    named = [(str(item.get("name", number)), _names_of(item)) for number, item in enumerate(experiences, start=1)]
    groups = named or [(task, [task]) for task in tasks]
    resolved = [(label, named_tasks(members, available)) for label, members in groups]
    return arrange(name, resolved, arrangement)


def arrange(name: str, groups: Sequence[tuple[str, Sequence[Task]]], arrangement: str) -> Stream:
    """Put named groups of tasks in sequence, all into one experience, or each on its own.

    Raises:
        ConfigurationError: The arrangement is unknown, or an experience has a name that a memory uses itself.
    """
    if arrangement not in ARRANGEMENTS:
        near = difflib.get_close_matches(arrangement, ARRANGEMENTS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigurationError(f"unknown arrangement {arrangement!r}; allowed: {', '.join(ARRANGEMENTS)}{hint}")
    if arrangement == "joint":
        unique = {task.id: task for _, members in groups for task in members}
        return Stream(name, (Experience(0, "joint", tuple(unique.values())),))
    if arrangement == "independent":
        first: dict[tuple[str, ...], tuple[str, Sequence[Task]]] = {}
        for label, members in groups:  # what comes again is learnt once, under the name that it has the first time
            first.setdefault(tuple(task.id for task in members), (label, members))
        groups = list(first.values())
    labels = _distinct([label.rsplit("/", 1)[-1] for label, _ in groups])
    _require_free(name, labels)
    experiences = [
        Experience(index, label, tuple(members))
        for index, (label, (_, members)) in enumerate(zip(labels, groups, strict=True))
    ]
    return Stream(name, tuple(experiences), independent=arrangement == "independent")


@dataclass(frozen=True)
class RecordedStream:
    """A stream over recorded datasets.

    Attributes:
        stream: A task that no suite knows has ``max_steps`` 0: it can be learnt from, not rolled out.
        sources: The data of each task id.
        notes: One sentence for whatever somebody should know of them.
    """

    stream: Stream
    sources: dict[str, list[Source]]
    notes: tuple[str, ...] = ()


def recorded_stream(
    name: str,
    recorded: Recorded,
    tasks: Sequence[str] = (),
    experiences: Sequence[Mapping[str, object]] = (),
    arrangement: str = "sequential",
) -> RecordedStream:
    """A stream over recorded tasks.

    Args:
        name: How the stream is called in run folders.
        recorded: As of `vla_cl.data.recorded.recorded_tasks`, perhaps `matched` with a suite's tasks.
        tasks: Which tasks in which order, by instruction or id; empty: all, one experience each.
        experiences: Instead of ``tasks``, as in `suite_stream`.
        arrangement: As in `suite_stream`.

    Raises:
        ConfigurationError: There is no data, or a task is unknown.
    """
    if not recorded.tasks:
        raise ConfigurationError(
            f"stream {name!r} has no dataset; give at least one folder or hub name in stream.datasets"
        )
    if tasks and experiences:
        raise ConfigurationError(f"stream {name!r} has both `tasks` and `experiences`; give one of them")
    named = [(str(item.get("name", number)), _names_of(item)) for number, item in enumerate(experiences, start=1)]
    groups = [(label, find_tasks(members, recorded.tasks)) for label, members in named]
    chosen = find_tasks(tasks, recorded.tasks) if tasks else [item.task for item in recorded.tasks]
    stream = arrange(name, groups or [(label, [task]) for label, task in _labelled(chosen)], arrangement)
    learnt = {task.id for task in stream.tasks}
    left_out = [item for item in recorded.tasks if item.task.id not in learnt]
    notes = [f"task {shown(item.instruction)} is in the data but not in the stream" for item in left_out]
    sources = {item.task.id: list(item.sources) for item in recorded.tasks if item.task.id in learnt}
    together = learnt_together(item for item in recorded.tasks if item.task.id in learnt)
    return RecordedStream(stream, sources, (*recorded.notes, *together, *notes))


def _labelled(tasks: Sequence[Task]) -> list[tuple[str, Task]]:
    """Each task with a name for its experience: its words, or its whole name where others have the same words."""
    words = {task.id: task.name if task.max_steps else slug(task.instruction) for task in tasks}
    return [(words[task.id] if list(words.values()).count(words[task.id]) == 1 else task.name, task) for task in tasks]


def _names_of(item: Mapping[str, object]) -> list[str]:
    tasks = item.get("tasks")
    if not isinstance(tasks, Sequence) or isinstance(tasks, str) or not tasks:
        raise ConfigurationError(
            f"experience {item.get('name')!r} needs a list `tasks` with at least one name; got {tasks!r}"
        )
    return [str(task) for task in tasks]


def _require_free(stream: str, labels: Sequence[str]) -> None:
    """Refuse names under which a memory's index has something else."""
    for label in labels:
        if label in RESERVED:
            raise ConfigurationError(
                f"stream {harmless(stream, 60)!r} calls an experience {label!r}, under which a memory keeps its own "
                f"entries; allowed is every name but {', '.join(sorted(RESERVED))}; give another in stream.experiences"
            )


def _distinct(labels: Sequence[str]) -> list[str]:
    """Number repeated labels: a, b, a becomes a, b, a-2; a number that makes another label is left out."""
    taken, numbers = set(labels), {label: count(2) for label in labels}
    seen: set[str] = set()
    result = []
    for label in labels:
        name = label
        if label in seen:
            name = next(free for number in numbers[label] if (free := f"{label}-{number}") not in taken)
        seen.add(label)
        taken.add(name)
        result.append(name)
    return result
