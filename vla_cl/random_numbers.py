"""Where every random number comes from: one function of a seed, a purpose and indices.

A plain ``numpy.random.default_rng([seed, a])`` gives the same numbers as ``[seed, a, 0]``, so what is drawn for one
thing may be what was drawn for another. Here seed, purpose and indices are written as text and hashed (SHA-256), so
that two streams are the same only if all three are, or by chance. Who draws for a new reason adds a `Purpose`.

What simulators draw is not from here: their seeds are part of a benchmark's definition (`vla_cl.envs`).
"""

from __future__ import annotations

import hashlib
from enum import Enum, unique

import numpy as np


@unique
class Purpose(Enum):
    """What random numbers are for. The value is a part of every stream: changing it changes results."""

    INITIAL_WEIGHTS = "initial weights"
    """Of a new model. No index."""

    ROW_ORDER = "order of rows"
    """Which rows a step learns from. Experience, epoch."""

    LOSS = "loss"
    """Augmentation, noise, time and dropout of a step's loss. Experience, step, process."""

    GIVEN_NOISE = "noise"
    """Noise and time of a model that draws them apart from its dropout. No index; the seed is a draw's."""

    DROPOUT = "dropout"
    """The same model's dropout. No index; the seed is a draw's."""

    HELD_OUT = "held-out episodes"
    """Which episodes of a dataset are kept from training. No index."""

    HELD_OUT_LOSS = "loss of held-out episodes"
    """Noise and time of the loss on an episode that is held out. Episode, by its place among those of its task."""

    HAND_TRIALS = "order of trials scored by a person"
    """In which order checkpoints and tasks are tried. No index."""

    REPLAY = "replay"
    """Which remembered samples a step learns from. Step."""

    REPLAY_TERMS = "replay terms"
    """Which of a step's remembered samples serve which term, and under which of their stored draws. Step."""

    REPLAY_COIN = "replay coin"
    """Whether a step learns from new samples or from remembered ones. Step."""

    SELECTION = "selection"
    """Which samples of an experience are remembered. Experience."""

    SELECTION_LOSS = "selection loss"
    """The noise under which samples are compared before they are remembered. Experience, part."""

    STORED_OUTPUTS = "stored outputs"
    """The noise under which a sample's output is stored. Experience; samples of it in order."""

    STORED_OUTPUTS_BATCH = "stored outputs of a batch"
    """What is not the single sample's in that pass. Experience, part, draw."""

    PAST_ROWS = "rows of a past task"
    """Which remembered samples of a past task a gradient is taken of. Step, experience."""

    PAST_LOSS = "loss of a past task"
    """The noise of that gradient. Step, experience."""

    VIRTUAL_STEP = "virtual step"
    """The noise of a loss that a foreseen step follows. Step."""

    VIRTUAL_COMPARISON = "comparison of a virtual step"
    """The noise under which losses before and after a foreseen step are compared. Step."""

    IMPORTANCE = "importance"
    """Samples on which importances (a Fisher) are estimated, and their noise. Experience."""

    IMPORTANCE_BATCH = "importance of a batch"
    """What is not the single sample's in that pass. No index; the seed is the first sample's."""

    DRAWN_TARGET = "drawn target"
    """A target drawn from the model's own outputs. No index; the seed is the sample's."""

    BASIS_ROWS = "rows of a basis"
    """Samples whose gradients span a basis. Experience."""

    BASIS_LOSS = "loss of a basis"
    """The noise of such a gradient. Experience, row."""

    FROZEN_TENSORS = "frozen tensors"
    """Which tensors stand still. Experience."""

    GENERATED_TASKS = "generated tasks"
    """Of which tasks samples are made up. Experience."""

    GENERATED_SAMPLES = "generated samples"
    """The samples that a model makes up. Experience, first sample of the part."""

    GENERATED_SAMPLE = "generated sample"
    """One of them. Its place in the part; the seed is the part's."""

    GENERATED_REPLAY = "replay of generated samples"
    """Which generated samples a step learns from. Step."""

    GENERATED_LOSS = "loss of generated samples"
    """The noise of each sample of a step in which generated samples are distilled. Step."""

    LOOKED_AT_ROWS = "rows looked at"
    """Which rows tell what tasks an experience has. Experience."""

    DEMONSTRATION = "demonstration"
    """The noise on an expert's actions. Initial state, checksum of the task."""

    ACTING = "acting"
    """The noise of a policy that draws some when it acts. No index: the same at every decision."""

    RANDOM_POLICY = "random policy"
    """The actions of a policy without weights. Hash of what it sees."""

    TEST_BED = "test bed"
    """The data of a small model's tasks. Task."""


def generator(seed: int, purpose: Purpose, *indices: int) -> np.random.Generator:
    """A generator of its own for a seed, a purpose and indices.

    Args:
        seed: Of the run.
        purpose: What it is for.
        indices: Which of them: experience, step, row, ...; any whole numbers. (0,) and () are different streams.
    """
    return np.random.default_rng(int.from_bytes(_digest(seed, purpose, indices), "little"))


def number(seed: int, purpose: Purpose, *indices: int) -> int:
    """A number from 0 to 2^63 - 1, for what is seeded with one: torch's generators, `vla_cl.types.Draw`.

    Of it torch's generator of the CPU takes 32 bits. So of a run's many streams in torch two may coincide by chance, as
    any two of 2^32 may; those of two purposes do not coincide by construction.
    """
    return int.from_bytes(_digest(seed, purpose, indices)[:8], "little") >> 1


def _digest(seed: int, purpose: Purpose, indices: tuple[int, ...]) -> bytes:
    words = ",".join(str(int(value)) for value in (seed, *indices))
    return hashlib.sha256(f"{purpose.value}:{words}".encode()).digest()
