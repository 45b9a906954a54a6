"""What theory says a method's step and memory cost, as passes and bytes; see docs/methods.md for the words.

A penalty in closed form reads importance, anchor and weight once and reads and writes the gradient: 20 bytes per
parameter for any number of tasks. A teacher costs a forward pass, a gradient of remembered samples a forward and a
backward pass. Replay that replaces part of the batch costs nothing, replay on top of it the larger batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

SLACK = 1.05
"""Measured over theoretical time, and bytes kept over theoretical bytes, at most."""

SMALLER_SLACK = {"er_replaced": 1.02}
"""Methods that have to keep to less: replay in place of new samples is a plain step."""

_ADAM_BYTES = 28  # per parameter: weight, gradient and two moments read, all but the gradient written


@dataclass(frozen=True)
class Circumstances:
    """Measured passes (seconds, see `vla_cl.bench.method_steps.Passes`) and sizes.

    Attributes:
        parameters: Of the model.
        split_products: Multiplications and additions that put every linear layer together from its singular vectors.
        past: Tasks learnt before.
        batch: Samples per step.
        samples_per_task: Samples that a task has.
        bytes_per_sample: Of a raw sample.
        values_per_output: Numbers that a sample's output has.
        prunable: Weights of linear layers and convolutions.
    """

    step: float
    forward: float
    both: float
    double: float
    bandwidth: float
    reading: float
    flops: float
    parameters: int
    split_products: int
    past: int
    batch: int
    samples_per_task: int
    bytes_per_sample: int
    values_per_output: int
    prunable: int

    def remembered(self, settings: Mapping[str, Any]) -> int:
        """Samples kept of all past tasks."""
        limit = settings.get("samples_per_task") or self.samples_per_task
        return self.past * min(self.samples_per_task, int(limit))

    def passing(self, bytes_per_parameter: float) -> float:
        """Seconds to move so many bytes for each parameter."""
        return bytes_per_parameter * self.parameters / self.bandwidth


@dataclass(frozen=True)
class Theory:
    """Seconds of a step, bytes kept after the past tasks, and where the seconds come from, in words."""

    seconds: float
    bytes: float
    words: str


Rule = Callable[[Mapping[str, Any], Circumstances], Theory]


def theory(settings: Mapping[str, Any], at: Circumstances) -> Theory:
    """What the method should cost; a plain step and no bytes for a class without a rule here."""
    rule = _RULES.get(str(settings["class"]).rpartition(":")[2])
    return rule(settings, at) if rule else Theory(at.step, 0, "a plain step")


def _traffic(moved: float, kept: float) -> Rule:
    def rule(settings: Mapping[str, Any], at: Circumstances) -> Theory:
        seconds = at.step + at.passing(moved)
        return Theory(seconds, kept * at.parameters, f"a plain step, {moved:g} bytes per parameter moved")

    return rule


def _teacher(settings: Mapping[str, Any], at: Circumstances) -> Theory:
    return Theory(at.step + at.forward, 4 * at.parameters, "a plain step, a forward pass")


def _replay(settings: Mapping[str, Any], at: Circumstances) -> Theory:
    kept = at.remembered(settings) * at.bytes_per_sample
    if settings["mixing"] != "added":
        return Theory(at.step, kept, "a plain step")
    more = float(settings["share"]) * (at.double - at.both)
    return Theory(at.step + more, kept, f"a step of 1 + {settings['share']:g} batches")


def _stored_outputs(notes_per_output: int) -> Rule:
    def rule(settings: Mapping[str, Any], at: Circumstances) -> Theory:
        of_samples = _replay(settings, at)
        draws = int(settings["draws_per_sample"])
        per_draw = at.values_per_output * (4 if settings["precision"] == "float32" else 2) + notes_per_output
        return Theory(
            of_samples.seconds, of_samples.bytes + at.remembered(settings) * draws * per_draw, of_samples.words
        )

    return rule


def _interference(settings: Mapping[str, Any], at: Circumstances) -> Theory:
    plain = _replay(settings, at)
    candidates = float(settings["candidates"]) * float(settings["share"])
    refresh = (at.both + 2 * candidates * at.forward) / int(settings["refresh_every"])
    words = f"{plain.words}; per refresh a gradient and two forward passes of {candidates:g} batches"
    return Theory(plain.seconds + refresh, plain.bytes, words)


def _averaged(settings: Mapping[str, Any], at: Circumstances) -> Theory:
    seconds = at.step + float(settings["share"]) * at.both + at.passing(16)
    return Theory(
        seconds, at.remembered(settings) * at.bytes_per_sample, "a plain step, a gradient of the memory, two dots"
    )


def _episodic(settings: Mapping[str, Any], at: Circumstances) -> Theory:
    count = min(settings["batch_size"] or at.samples_per_task, settings["samples_per_task"], at.samples_per_task)
    gradients = at.past * count / at.batch
    seconds = at.step + gradients * at.both + at.passing(8 * at.past)
    return Theory(
        seconds, at.remembered(settings) * at.bytes_per_sample, f"a plain step, gradients of {gradients:g} batches"
    )


def _generated(settings: Mapping[str, Any], at: Circumstances) -> Theory:
    of_step = _replay({**settings, "samples_per_task": None}, at)
    count = settings["samples"] or max(1, round(float(settings["samples_share"]) * at.samples_per_task))
    return Theory(of_step.seconds, count * at.bytes_per_sample, of_step.words)


def _generated_and_teacher(settings: Mapping[str, Any], at: Circumstances) -> Theory:
    plain = _generated(settings, at)
    seconds = plain.seconds + float(settings["share"]) * at.forward
    words = f"{plain.words}, a forward pass of {settings['share']:g} batches"
    return Theory(seconds, plain.bytes + 4 * at.parameters, words)


def _orthogonal(settings: Mapping[str, Any], at: Circumstances) -> Theory:
    vectors = at.past * int(settings["vectors_per_task"])
    seconds = at.step + 8 * vectors * at.parameters / at.reading  # only read
    return Theory(seconds, 4 * vectors * at.parameters, f"a plain step, {vectors} vectors read twice")


def _split(settings: Mapping[str, Any], at: Circumstances) -> Theory:
    return Theory(
        at.step + 3 * at.split_products / at.flops, 0, "a plain step, every linear layer put together and back"
    )


def _masks(settings: Mapping[str, Any], at: Circumstances) -> Theory:
    return Theory(at.step + at.passing(10), at.prunable, "a plain step, one byte and one gradient per weight twice")


_RULES: Mapping[str, Rule] = {
    "ElasticWeightConsolidation": _traffic(20, 8),
    "MemoryAwareSynapses": _traffic(20, 8),
    "SynapticIntelligence": _traffic(48, 12),
    "L2": _traffic(16, 4),
    "LearningWithoutForgetting": _teacher,
    "M2Distill": _teacher,
    "WeightMerging": _traffic(0, 4),
    "MomentumFilteredOptimizer": _traffic(_ADAM_BYTES, 0),
    "ExperienceReplay": _replay,
    "DarkExperienceReplay": _stored_outputs(8),
    "ConfidenceAwareMovingAverage": _stored_outputs(12),
    "MaximallyInterferedRetrieval": _interference,
    "GenerativeReplay": _generated,
    "GenerativeDistillation": _generated_and_teacher,
    "AveragedGradientEpisodicMemory": _averaged,
    "GradientEpisodicMemory": _episodic,
    "OrthogonalGradientDescent": _orthogonal,
    "OrthogonalSubspaceFineTuning": _split,
    "PackNet": _masks,
}
