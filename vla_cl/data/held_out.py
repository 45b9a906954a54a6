"""Which rows of a dataset belong to a source: those of its task, learnt from or held out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vla_cl.data.dataset_folder import DatasetFolder
from vla_cl.data.source import Source
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError


def rows_of(folder: DatasetFolder, source: Source) -> NDArray[np.int64]:
    """The rows of a source's task, of those episodes that are its part, ascending.

    Raises:
        ConfigurationError: There are none, or too few episodes to hold some out.
    """
    rows = _rows_of_task(folder, source)
    if source.hold_out is None:
        return rows
    episodes = folder.rows.episode[rows]
    own = held_out_episodes(folder, source)
    if source.part == "held_out":
        held_out: NDArray[np.int64] = rows[np.isin(episodes, own)]
        return held_out
    # Where the instruction changes within an episode, what one task holds out no other may learn from.
    texts = () if source.recorded_instruction is None else dict.fromkeys(folder.instructions.values())
    others = [replace(source, recorded_instruction=text) for text in texts]
    kept = np.concatenate([own, *(held_out_episodes(folder, other) for other in others if _has_enough(folder, other))])
    learnt: NDArray[np.int64] = rows[~np.isin(episodes, kept)]
    if not len(learnt):
        raise ConfigurationError(
            f"every episode of {_words(folder, source)} is held out by some task of the dataset, so none would be left "
            "to learn from; give a smaller data.held_out"
        )
    return learnt


def _has_enough(folder: DatasetFolder, source: Source) -> bool:
    """Whether a task has enough episodes to hold some out; one that has not is refused where it is learnt."""
    assert source.hold_out is not None
    episodes = len(np.unique(folder.rows.episode[_rows_of_task(folder, source)]))
    return source.hold_out.wanted_of(episodes) < episodes


def _words(folder: DatasetFolder, source: Source) -> str:
    instruction = source.recorded_instruction
    return short(folder.root) + ("" if instruction is None else f" ({harmless(instruction, 60)!r})")


def held_out_episodes(folder: DatasetFolder, source: Source) -> NDArray[np.int64]:
    """The numbers, as the dataset counts, of the episodes that a source keeps from training, in a random order.

    Raises:
        ConfigurationError: As of `vla_cl.data.source.HoldOut.chosen`.
    """
    if source.hold_out is None:
        return np.zeros(0, dtype=np.int64)
    episodes = np.unique(folder.rows.episode[_rows_of_task(folder, source)])
    return source.hold_out.chosen(episodes, int(folder.rows.episode.max()) + 1, _words(folder, source))


def _rows_of_task(folder: DatasetFolder, source: Source) -> NDArray[np.int64]:
    if source.recorded_instruction is None:
        return np.arange(len(folder.rows))
    texts = folder.instructions
    wanted = [index for index, text in texts.items() if text == source.recorded_instruction]
    if not wanted:
        found = harmless(", ".join(repr(text) for text in sorted(texts.values())), 100)
        raise ConfigurationError(
            f"no episode of {short(folder.root)} has the instruction {harmless(source.recorded_instruction, 60)!r}; it "
            f"has {found}"
        )
    return np.flatnonzero(np.isin(folder.rows.task, wanted))
