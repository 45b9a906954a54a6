"""How large the experiences of a stream are, as far as that is known before they are learnt, for a method's memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vla_cl.data.dataset_folder import DatasetFolder
from vla_cl.data.preflight import DatasetReport
from vla_cl.data.source import Source
from vla_cl.memory.copying import least_picture_bytes
from vla_cl.memory.replay_memory import REUSED, ReplayMemory
from vla_cl.memory.room import ExperienceSize, require_units
from vla_cl.memory.settings import MemorySettings, reused_folder
from vla_cl.types import Experience, InterfaceSpec, Stream


def check_memory(
    memory: ReplayMemory,
    stream: Stream,
    recorded: Mapping[str, Sequence[Source]] | None,
    reports: Sequence[DatasetReport],
    spec: InterfaceSpec,
    shortest_demonstration: int,
    beside: int = 0,
    histories: bool = False,
) -> None:
    """Refuse a memory that could keep nothing of some experience of a stream.

    Args:
        memory: The method's.
        stream: What is learnt.
        recorded: The data of each task; None: demonstrations are collected.
        reports: On the datasets of ``recorded``.
        spec: What a sample is.
        shortest_demonstration: The fewest frames of a demonstration that is collected.
        beside: Bytes that the method keeps beside each sample.
        histories: Whether a sample observes more frames than its own, so that a copy has equal pictures once.

    Raises:
        ConfigurationError: The memory's limit is too small.
    """
    found = {report.root: report for report in reports}
    each = spec.bytes_per_frame + beside
    copy = _least_copy(memory.settings, spec, beside, histories)
    sizes = [
        ExperienceSize(experience.name, None, shortest_demonstration, each, False, copy)
        if recorded is None
        else _size(experience, [source for task in experience.tasks for source in recorded[task.id]], found, each, copy)
        for experience in stream
    ]
    before: list[ExperienceSize] = []
    folder = reused_folder(memory.settings)
    if folder is not None and memory.settings.budget is not None:  # a limit for each task does not concern it
        reused = DatasetFolder(folder)
        lengths = reused.episodes["length"]
        copied = _least_copy(memory.settings, reused.spec, beside, histories)
        frames, longest = int(lengths.sum()), int(lengths.max())
        before = [ExperienceSize(REUSED.name, frames, longest, reused.spec.bytes_per_frame + beside, True, copied)]
    for together in [[size] for size in sizes] if stream.independent else [sizes]:
        require_units(memory.settings, [*before, *together])


def _least_copy(settings: MemorySettings, spec: InterfaceSpec, beside: int, histories: bool) -> int:
    """Of one sample; where equal pictures are kept once, there may be a single one in a unit."""
    return beside + (0 if histories else least_picture_bytes(settings, spec.cameras.values()))


def _size(
    experience: Experience,
    sources: Sequence[Source],
    reports: Mapping[Path, DatasetReport],
    bytes_per_sample: int,
    bytes_per_copy: int,
) -> ExperienceSize:
    """Of recorded data; of a dataset that several tasks share, or of which episodes are held out, nobody knows yet."""
    mine = [reports[source.root] for source in sources]
    shared = any(
        (report.tasks > 1 and source.recorded_instruction) or source.hold_out
        for source, report in zip(sources, mine, strict=True)
    )
    frames = None if shared else sum(report.frames for report in mine)
    longest = 1 if shared else max(report.longest for report in mine)
    return ExperienceSize(experience.name, frames, longest, bytes_per_sample, True, bytes_per_copy)
