"""Row ``lwf-cached`` of ``vla-cl bench methods``: distillation whose teacher answers once per sample."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from vla_cl.bench.measuring import ratio, take_turns
from vla_cl.bench.method_steps import Pictures, nano_vla
from vla_cl.bench.rows import Figure, Gate, Result, RowSettings
from vla_cl.interfaces import Method, Model
from vla_cl.methods.lwf import LearningWithoutForgetting
from vla_cl.training.learning import Learning, TrainingSettings
from vla_cl.training.step_report import StepReport
from vla_cl.types import Experience, Task

GOAL, TOLERANCE = 1.03, 1e-5
EPOCHS, BATCH, BATCHES = 20, 64, 4
# Only without augmentation are a teacher's outputs a function of the sample.
_NOT_AUGMENTED = dict.fromkeys(("state_noise", "shift_pixels", "brightness", "contrast", "color", "shade"), 0)


def lwf_cached(settings: RowSettings) -> Result:
    """Whole epochs of LwF with a cache, of LwF without one, and of plain training, in turns."""
    batch = 8 if settings.quick else BATCH
    epochs = 2 if settings.quick else EPOCHS
    pixels = 32 if settings.quick else 96
    sides = {
        "LwF, cached": _Side(LearningWithoutForgetting(cache="always"), batch, epochs, pixels, settings.quick),
        "plain": _Side(Method(), batch, epochs, pixels, settings.quick),
        "LwF, teacher asked in each step": _Side(
            LearningWithoutForgetting(cache="never"), batch, epochs, pixels, settings.quick
        ),
    }
    seconds = take_turns({name: lambda _, side=side: side.epoch() for name, side in sides.items()}, epochs)  # type: ignore[misc]
    cached, plain, live = seconds.values()
    both = (np.array(sides[name].losses) for name in ("LwF, cached", "LwF, teacher asked in each step"))
    gap = float(np.max(np.abs(np.subtract(*both))))
    found = ratio([sum(plain)], [sum(cached)])
    by_epoch = ratio(plain[1:], cached[1:])
    return Result(
        compares=f"{epochs} epochs of LwF with a cached teacher, the first one included, against plain training",
        gate=Gate(
            f"the loss of every step with and without cache, to {TOLERANCE:g}", gap <= TOLERANCE, f"gap {gap:.1e}"
        ),
        ratio=found,
        figures=[Figure(name, round(float(np.mean(values)), 3), "s per epoch") for name, values in seconds.items()],
        holds=found.median <= GOAL,
        others={"epochs after the first": by_epoch, "without cache": ratio(plain, live)},
    )


class _Side:
    def __init__(self, method: Method, batch: int, epochs: int, pixels: int, quick: bool) -> None:
        self.model: Model = nano_vla(quick, **_NOT_AUGMENTED)
        self.losses: list[float] = []
        method.attach(self.model, 0)
        data = [Pictures(BATCHES * batch, seed, pixels) for seed in (0, 1)]
        for _ in Learning(self.model, method, _experience(0), data[0], TrainingSettings(steps=2, batch_size=batch), 0):
            pass
        settings = TrainingSettings(steps=epochs * BATCHES, batch_size=batch)
        self._steps: Iterator[StepReport] = iter(Learning(self.model, method, _experience(1), data[1], settings, 0, 2))

    def epoch(self) -> float:
        began = time.perf_counter()
        for _ in range(BATCHES):
            self.losses.append(next(self._steps).loss)
        return time.perf_counter() - began


def _experience(index: int) -> Experience:
    return Experience(index, f"task {index}", (Task(f"bench/{index}", f"task {index}", 100),))
