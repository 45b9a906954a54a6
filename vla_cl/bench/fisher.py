"""Rows ``fisher`` of ``vla-cl bench methods``: the exact diagonal Fisher in one pass per batch against a loop.

``fisher`` takes the default NanoVLA, where the arithmetic of a sample outweighs the calls; ``fisher-small`` takes that
of the test beds, where it does not.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from vla_cl.bench.measuring import ratio, take_turns
from vla_cl.bench.method_steps import Pictures, nano_vla
from vla_cl.bench.rows import Figure, Gate, Result, RowSettings
from vla_cl.interfaces import Data, Model
from vla_cl.methods.per_sample_gradients_estimate import SampledGradients
from vla_cl.random_numbers import Purpose, number
from vla_cl.testbeds import BEDS
from vla_cl.testbeds.bed import Tensors
from vla_cl.types import Ability, Batch, Draw

GOAL, TOLERANCE = 15.0, 1e-5
_LARGEST_SHARE_OF_BATCHED = 1.2


def fisher(settings: RowSettings) -> Result:
    """Mean squared gradient of each of N samples' losses: ours, a loop over samples, and the biased batch version."""
    model, data, batch_size = _small() if settings.name.endswith("-small") else _default(settings.quick)
    count = 4 if settings.quick else len(data)
    parameters = dict(model.module.named_parameters())
    keyed = Ability.KEYED_DRAWS in model.abilities
    estimate = SampledGradients(
        model,
        data,
        lambda batch, draw, _: model.loss(batch, draw),
        count,
        batch_size=batch_size,
        train_seed=0,
        experience=0,
    )

    def loop() -> dict[str, Tensor]:
        """What a reader of the definition would write."""
        model.module.eval()
        sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
        for row, seed in zip(estimate.rows, estimate.seeds, strict=True):
            model.module.zero_grad()
            draw = Draw(number(int(seed), Purpose.IMPORTANCE_BATCH), np.array([seed]) if keyed else None)
            model.loss(data.batch(np.array([row])), draw).sum().backward()  # type: ignore[no-untyped-call]
            for name, parameter in parameters.items():
                if parameter.grad is not None:
                    sums[name] += parameter.grad.square()
        model.module.zero_grad()
        return {name: tensor / count for name, tensor in sums.items()}

    total = sum(parameter.numel() for parameter in parameters.values())
    mine, theirs = estimate.mean("squared", "per_sample"), loop()
    # Of the whole, since the loss does not depend on some biases but for rounding (those in front of a softmax).
    whole = torch.cat([theirs[name].flatten() for name in parameters]).norm()
    worst = float(torch.cat([(mine.mean[name] - theirs[name]).flatten() for name in parameters]).norm() / whole)
    seconds = take_turns(
        {
            "ours": lambda _: _timed(lambda: estimate.mean("squared", "per_sample")),
            "loop": lambda _: _timed(loop),
            "one biased batch": lambda _: _timed(lambda: estimate.mean("squared", "batch")),
        },
        2 if settings.quick else 5,
    )
    found, batched = ratio(seconds["ours"], seconds["loop"]), ratio(seconds["one biased batch"], seconds["ours"])
    return Result(
        compares=f"exact diagonal Fisher of {count} samples, NanoVLA of {total:,} parameters, against {count} passes",
        gate=Gate(f"both, to {TOLERANCE:g} of the norm", worst <= TOLERANCE, f"largest difference {worst:.1e}"),
        ratio=found,
        figures=[Figure(name, round(1e3 * float(np.median(values)), 1), "ms") for name, values in seconds.items()],
        holds=found.median >= GOAL,
        others={"ours over the squared gradient of the batch's mean (biased)": batched},
        notes=f"The loop was {'needed' if mine.loop_reason else 'not needed'} by our side; "
        f"aim for the last figure: {_LARGEST_SHARE_OF_BATCHED}x.",
    )


def _default(quick: bool) -> tuple[Model, Data, int]:
    """The default NanoVLA (a smaller one if ``quick``), 64 samples, all in one batch."""
    return nano_vla(quick), Pictures(64, seed=0, pixels=32 if quick else 96), 64


def _small() -> tuple[Model, Data, int]:
    """NanoVLA as the test beds have it, the samples of their three tasks, and 256 of them in a batch."""
    bed = BEDS["policy_regression"]()
    batches = [data.batch(np.arange(len(data))) for data in bed.data]
    columns: Batch = {}
    for key in batches[0]:
        parts = [batch[key] for batch in batches]
        columns[key] = torch.cat(parts) if isinstance(parts[0], Tensor) else [row for part in parts for row in part]
    return bed.make_model(0), Tensors(columns), 256


def _timed(part: object) -> float:
    began = time.perf_counter()
    part()  # type: ignore[operator]
    return time.perf_counter() - began
