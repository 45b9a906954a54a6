"""What recorded datasets hold, by instruction: the tasks of a stream, and where the data of a suite's tasks lie.

A task is its instruction, exactly: two recordings are of one task only if they were told the same text, code point by
code point. A suite's task is found by its instruction too, but people write those by hand, so case, surrounding space
and a full stop at the end are passed over there (`alike`), and what is learnt then is told the suite's own words.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vla_cl.data.cameras import Camera, chosen_cameras
from vla_cl.data.source import Source
from vla_cl.storage.names import readable_id
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError, Task

SAME_INSTRUCTION = ("merge", "separate")
"""Are equal instructions of different datasets one task, or one for each dataset?"""

SHOWN = 60  # characters of an instruction in a message


@dataclass(frozen=True)
class RecordedTask:
    """An instruction, and where it was recorded.

    Attributes:
        task: Its ``max_steps`` is 0 unless a suite knows it.
        sources: Data of one or more datasets.
        instruction: As it was recorded.
    """

    task: Task
    sources: tuple[Source, ...]
    instruction: str


@dataclass(frozen=True)
class Recorded:
    """The tasks of some datasets.

    Attributes:
        tasks: In the order of the datasets and of each task table, those without frames left out.
        notes: One sentence for whatever somebody should know: what is called otherwise here.
        apart: Whether equal instructions of different datasets are a task each (``same_instruction=separate``).
    """

    tasks: tuple[RecordedTask, ...]
    notes: tuple[str, ...]
    apart: bool = False


def alike(instruction: str) -> str:
    """What is compared of an instruction with a suite's: not its case, surrounding space or full stop at the end."""
    return instruction.strip().rstrip(".。").strip().casefold()


def recorded_tasks(
    roots: Sequence[Path],
    cameras: Sequence[Camera] = (),
    expected_cameras: Iterable[str] = (),
    same_instruction: str = "merge",
    declared: Collection[Path] = (),
) -> Recorded:
    """Read which tasks the datasets hold.

    Args:
        roots: Folders of LeRobotDatasets v3.
        cameras: Of the setting ``cameras``.
        expected_cameras: Cameras that a warm start or a suite knows (see `chosen_cameras`).
        same_instruction: One of `SAME_INSTRUCTION`.
        declared: Roots of which only the metadata are here, and are believed.

    Raises:
        ConfigurationError: A dataset cannot be read, or lacks a camera; or two instructions have one id.
    """
    if same_instruction not in SAME_INSTRUCTION:
        raise ConfigurationError(
            f"data.same_instruction must be one of {', '.join(SAME_INSTRUCTION)}; got {same_instruction!r}"
        )
    from vla_cl.data.dataset_folder import DatasetFolder  # pandas and PyAV, which a suite's own stream does not need
    from vla_cl.data.declared import DeclaredDataset

    expected_cameras = tuple(expected_cameras)
    found: dict[str, RecordedTask] = {}
    for root in roots:
        folder = DeclaredDataset(root) if root in declared else DatasetFolder(root)
        pairs = chosen_cameras(cameras, folder.cameras, f"the dataset {short(root)}", expected_cameras)
        apart = (folder.identity,) if same_instruction == "separate" else ()
        for text in dict.fromkeys(folder.instructions.values()):
            task = Task(f"datasets/{readable_id(text, *apart)}", text, max_steps=0)
            source = Source(root, recorded_instruction=text, cameras=pairs)
            before = found.get(task.id, RecordedTask(task, (), text))
            if before.instruction != text:
                raise ConfigurationError(
                    f"the instructions {shown(before.instruction)} and {shown(text)} get the same id {task.id}; "
                    "change a word in one of them"
                )
            found[task.id] = replace(before, sources=(*before.sources, source))
    return Recorded(tuple(found.values()), (), same_instruction == "separate")


def learnt_together(tasks: Iterable[RecordedTask]) -> list[str]:
    """A sentence for each task whose data come from several datasets."""
    return [
        f"task {shown(item.instruction)} is in {len(item.sources)} datasets "
        f"({harmless(', '.join(source.root.name for source in item.sources), 100)}), learnt together; "
        "data.same_instruction=separate keeps them apart"
        for item in tasks
        if len(item.sources) > 1
    ]


def matched(recorded: Recorded, available: Sequence[Task], suite: str) -> Recorded:
    """The tasks of a suite in place of the recorded ones that have their instructions (see `alike`).

    Args:
        recorded: Of `recorded_tasks`.
        available: The suite's tasks; empty leaves everything as it is.
        suite: Its name, for messages.

    Raises:
        ConfigurationError: More than one task of the suite has an instruction, or datasets that shall stay apart have
            the same task.
    """
    by_text: dict[str, list[Task]] = {}
    for task in available:
        by_text.setdefault(alike(task.instruction), []).append(task)
    found: dict[str, RecordedTask] = {}
    notes = list(recorded.notes)
    for item in recorded.tasks:
        fitting = by_text.get(alike(item.instruction), [])
        if len(fitting) > 1:
            raise ConfigurationError(
                f"{fitting[0].id} and {fitting[1].id} of suite {suite!r} have the same instruction "
                f"{shown(item.instruction)}, so its data belong to neither for certain; use suite=none for them"
            )
        if not fitting:
            found[item.task.id] = item
            continue
        task = fitting[0]
        if task.instruction != item.instruction:
            notes.append(f"{shown(item.instruction)} is learnt as {task.id}, in the suite's words")
        sources = tuple(replace(source, instruction=task.instruction) for source in item.sources)
        before = found.get(task.id, RecordedTask(task, (), item.instruction))
        found[task.id] = replace(before, sources=(*before.sources, *sources))
        if recorded.apart:
            _require_one_dataset(task, found[task.id].sources)
    return Recorded(tuple(found.values()), tuple(notes), recorded.apart)


def evaluable(tasks: Sequence[Task], available: Sequence[Task], suite: str) -> str | None:
    """A sentence that says how many tasks can be evaluated; None if all can.

    Args:
        tasks: Of the stream.
        available: The suite's, at least one.
        suite: Its name.

    Raises:
        ConfigurationError: None can: then naming the suite was for nothing.
    """
    known = {task.id for task in available}
    unknown = [task for task in tasks if task.id not in known]
    if not unknown:
        return None
    sentence = (
        f"{len(tasks) - len(unknown)} of {len(tasks)} tasks can be evaluated in suite {suite!r}: "
        f"{_nearest(unknown[0].instruction, available)}"
    )
    if len(unknown) == len(tasks):
        raise ConfigurationError(f"{sentence}; use suite=none to learn without rollouts, or another suite")
    return f"{sentence}; the others are learnt, not rolled out"


def sources_of(tasks: Sequence[Task], recorded: Recorded) -> dict[str, list[Source]]:
    """Where the data of a suite's tasks lie, found by their instructions (see `alike`).

    Raises:
        ConfigurationError: A task has no data, two tasks share an instruction, or datasets that shall stay apart have
            the same task.
    """
    sources: dict[str, list[Source]] = {}
    owner: dict[str, Task] = {}
    for task in tasks:
        text = alike(task.instruction)
        other = owner.setdefault(text, task)
        if other.id != task.id:
            raise ConfigurationError(
                f"{other.id} and {task.id} have the same instruction {shown(task.instruction)}, so their data cannot "
                "be told apart; leave one of them out with stream.tasks=[...]"
            )
        fitting = [source for item in recorded.tasks if alike(item.instruction) == text for source in item.sources]
        sources[task.id] = [replace(source, instruction=task.instruction) for source in fitting]
        if recorded.apart:
            _require_one_dataset(task, sources[task.id])
    missing = [task for task in tasks if not sources[task.id]]
    if missing:
        first = missing[0]
        there = [item.task for item in recorded.tasks]
        raise ConfigurationError(
            f"{len(missing)} of {len(tasks)} tasks of the stream have no data in data.datasets: {first.id} is "
            f"{_nearest(first.instruction, there)}; add its dataset, or leave it out with stream.tasks=[...]"
        )
    return sources


def _require_one_dataset(task: Task, sources: Sequence[Source]) -> None:
    """A suite's task is one task: its data cannot be two experiences, each with a row and a column of its own."""
    roots = list(dict.fromkeys(source.root for source in sources))
    if len(roots) > 1:
        raise ConfigurationError(
            f"{short(roots[0], 60)} and {short(roots[1], 60)} shall stay apart (data.same_instruction=separate), but "
            f"both hold {harmless(task.id, 40)}, one task of the suite; use merge, suite=none, or one of them"
        )


def find_tasks(names: Sequence[str], tasks: Sequence[RecordedTask]) -> list[Task]:
    """Look recorded tasks up by id, by the id's part after the slash, or by instruction (exactly, else `alike`).

    Raises:
        ConfigurationError: A name is unknown or stands for several tasks; the message gives the nearest.
    """
    found = []
    for name in names:
        exact = [item for item in tasks if name in (item.task.id, item.task.name, item.instruction)]
        fitting = exact or [item for item in tasks if alike(item.instruction) == alike(name)]
        if len(fitting) > 1:
            raise ConfigurationError(
                f"stream.tasks names {shown(name)}, which stands for {fitting[0].task.id} and {fitting[1].task.id}; "
                "give the id of the one that is meant"
            )
        if not fitting:
            raise ConfigurationError(
                f"stream.tasks names {shown(name)}, which no dataset holds; {_nearest(name, [t.task for t in tasks])}"
            )
        found.append(fitting[0].task)
    return found


def shown(instruction: str) -> str:
    """An instruction in a message."""
    return f"'{harmless(instruction, SHOWN)}'"


def _nearest(instruction: str, tasks: Sequence[Task]) -> str:
    """An instruction and the nearest of those there are."""
    texts: Mapping[str, Task] = {alike(task.instruction): task for task in tasks}
    close = difflib.get_close_matches(alike(instruction), list(texts), n=1, cutoff=0.3) or sorted(texts)[:1]
    near = ", ".join(shown(texts[text].instruction) for text in close)
    return f"{shown(instruction)}, nearest: {near or 'none'}"
