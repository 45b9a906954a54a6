"""Rows ``ewc-avalanche`` and ``gem-avalanche*`` of ``vla-cl bench methods``: the same step with avalanche's plugins."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

import vla_cl
from vla_cl.bench import plain_models
from vla_cl.bench.avalanche_peer import LEARNING_RATE, STRENGTH
from vla_cl.bench.measuring import ratio, take_turns
from vla_cl.bench.rows import CannotRunError, Figure, Gate, Result, RowSettings
from vla_cl.interfaces import Data, Model
from vla_cl.methods.gem import GradientEpisodicMemory
from vla_cl.methods.quadratic_penalty import QuadraticPenalty, trainable
from vla_cl.types import Batch, Draw, Experience, Task

PAST, BATCH, REMEMBERED = 10, 32, 32
_EWC_TOLERANCE, _GEM_TOLERANCE = 1e-6, 1e-4
_EWC_SHARE_GOAL, _EWC_RATIO_GOAL, _GEM_GOAL = 0.03, 30.0, 3.0
_STEPS = 3


def ewc(settings: RowSettings) -> Result:
    """What EWC adds to a step after ten tasks, ours merged, avalanche's ``separate``."""
    batch, past, turns = (2, 3, 2) if settings.quick else (BATCH, PAST, 6)
    model = plain_models.made(settings.quick)
    penalty = QuadraticPenalty()
    for task in range(past):
        importances, anchors = plain_models.past(model, task)
        penalty.merge(importances, anchors)
    pictures, labels = plain_models.samples(0, batch)
    labels = plain_models.contradicted(labels)
    with _peer(settings, plugin="ewc", past=past, batch=batch) as peer:
        functional.cross_entropy(model(pictures), labels).backward()  # type: ignore[no-untyped-call]
        penalty.add_gradient(trainable(model), STRENGTH, half=False)
        gate = _gate(_flat(model), peer, settings.workspace, _EWC_TOLERANCE)

        def added(_: int) -> float:
            began = time.perf_counter()
            for _ in range(10 * _STEPS):
                penalty.add_gradient(trainable(model), STRENGTH, half=False)
            return (time.perf_counter() - began) / (10 * _STEPS)

        seconds = take_turns({"ours": added, "avalanche": lambda _: peer.ask("added", count=_STEPS) / _STEPS}, turns)
        step = peer.ask("steps", count=_STEPS, with_plugin=False) / _STEPS
    found = ratio(seconds["ours"], seconds["avalanche"])
    share = float(np.median(seconds["ours"])) / step
    count = sum(parameter.numel() for parameter in model.parameters())
    return Result(
        compares=f"what EWC adds to a step after {past} tasks, a transformer of {count:,} parameters, batch {batch}, "
        "against avalanche-lib's EWCPlugin, mode separate",
        gate=gate,
        ratio=found,
        figures=[
            Figure("ours, added", round(1e3 * float(np.median(seconds["ours"])), 2), "ms"),
            Figure("avalanche, added", round(1e3 * float(np.median(seconds["avalanche"])), 2), "ms"),
            Figure("a plain step", round(1e3 * step, 1), "ms"),
            Figure("ours over a plain step", round(100 * share, 2), "%"),
            Figure("ours, kept", penalty.memory_bytes() / count, "bytes per parameter"),
            Figure("avalanche, kept", 8.0 * past, "bytes per parameter"),
        ],
        holds=found.median >= _EWC_RATIO_GOAL and share <= _EWC_SHARE_GOAL,
    )


def gem(settings: RowSettings) -> Result:
    """What GEM adds to a step after ten tasks: the gradients of their memories and the projection.

    A transformer's step is almost all gradients, which both sides compute; with a perceptron the projection counts.
    """
    kind = "perceptron" if settings.name.endswith("perceptron") else "transformer"
    batch, past, turns = (2, 3, 2) if settings.quick else (BATCH, PAST, 4 if kind == "transformer" else 10)
    remembered = 2 if settings.quick else REMEMBERED
    model = _VitModel(plain_models.made(settings.quick, kind))
    method = GradientEpisodicMemory(samples_per_task=remembered, batch_size=remembered, margin=0.5, eps=1e-3)
    method.attach(model, 0)
    for task in range(past):
        experience = Experience(task, f"task {task}", (Task(f"bench/{task}", f"task {task}", 1),))
        method.begin_task(experience)
        method.end_task(experience, _VitData(task, remembered))
    now = Experience(past, "now", (Task("bench/now", "now", 1),))
    method.begin_task(now)
    data = _VitData(0, batch, contradicts=True)
    optimizer = torch.optim.AdamW(model.module.parameters(), lr=LEARNING_RATE)

    def step(number: int, edited: bool) -> None:
        optimizer.zero_grad()
        composed = method.compose(data.batch(np.arange(batch)), number)
        method.loss(composed, Draw(0)).mean().backward()  # type: ignore[no-untyped-call]
        if edited:
            method.edit_gradients()

    with _peer(settings, plugin="gem", past=past, batch=batch, remembered=remembered, kind=kind) as peer:
        step(0, edited=False)
        unedited = _flat(model.module)
        method.edit_gradients()
        edited = _flat(model.module)
        if np.array_equal(edited, unedited):
            raise CannotRunError("no past task's gradient opposes the present one, so nothing is projected")
        gate = _gate(edited, peer, settings.workspace, _GEM_TOLERANCE)

        def ours(turn: int) -> float:
            began = time.perf_counter()
            step(turn, edited=True)
            optimizer.step()
            return time.perf_counter() - began

        seconds = take_turns({"ours": ours, "avalanche": lambda _: peer.ask("steps", count=1, with_plugin=True)}, turns)
        plain = peer.ask("steps", count=_STEPS, with_plugin=False) / _STEPS
    found = ratio(seconds["ours"], seconds["avalanche"])
    return Result(
        compares=f"a GEM step after {past} tasks, {remembered} remembered samples each, batch {batch}, a {kind} of "
        f"{sum(parameter.numel() for parameter in model.module.parameters()):,} parameters, against avalanche-lib's "
        "GEMPlugin",
        gate=gate,
        ratio=found,
        figures=[
            Figure("ours", round(float(np.median(seconds["ours"])), 3), "s"),
            Figure("avalanche", round(float(np.median(seconds["avalanche"])), 3), "s"),
            Figure("a plain step", round(plain, 3), "s"),
            Figure("ours over a plain step", round(float(np.median(seconds["ours"])) / plain, 2), "x"),
            Figure("theory over a plain step", 1 + past * remembered / batch, "x"),
        ],
        holds=found.median >= _GEM_GOAL,
    )


class _Peer:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, command: str, **arguments: object) -> float:
        """Send a command, wait for its answer; 0.0 where there is none."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": command, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise CannotRunError(f"avalanche's process ended with status {self._process.wait()}; its output is above")
        answer: float | None = json.loads(line)["answer"]
        return answer or 0.0


@contextmanager
def _peer(
    settings: RowSettings, plugin: str, past: int, batch: int, remembered: int = 0, kind: str = "transformer"
) -> Iterator[_Peer]:
    """Avalanche in its own environment, with its past behind it.

    Raises:
        CannotRunError: No such environment was named.
    """
    if settings.peer_python is None:
        raise CannotRunError(
            "avalanche-lib needs an environment of its own; make one (docs/benchmarks.md) and give peer_python=PATH"
        )
    root = Path(vla_cl.__file__).parents[1]
    command = [str(settings.peer_python), "-m", "vla_cl.bench.avalanche_peer"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
    try:
        peer = _Peer(process)
        sizes = {"past": past, "batch": batch, "remembered": remembered, "quick": settings.quick, "kind": kind}
        peer.ask("begin", plugin=plugin, threads=torch.get_num_threads(), **sizes)
        yield peer
    finally:
        process.kill()
        process.wait()


def _gate(mine: NDArray[np.float32], peer: _Peer, workspace: Path, tolerance: float) -> Gate:
    """The first step's gradient, before any optimizer has moved anything."""
    path = workspace / "gradient.npy"
    peer.ask("gradient", path=str(path))
    theirs = np.load(path, allow_pickle=False)
    worst = float(np.linalg.norm(mine - theirs) / np.linalg.norm(theirs))
    return Gate(f"the gradient, to {tolerance:g} of its norm", worst <= tolerance, f"relative difference {worst:.1e}")


def _flat(module: nn.Module) -> NDArray[np.float32]:
    gradients = [parameter.grad.flatten() for parameter in module.parameters() if parameter.grad is not None]
    flat: NDArray[np.float32] = torch.cat(gradients).numpy()
    return flat


class _VitModel(Model):
    """The plain transformer as a model of ours."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    @property
    def module(self) -> nn.Module:
        return self._module

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def loss(self, batch: Batch, draw: Draw) -> Tensor:
        return functional.cross_entropy(self._module(batch["pictures"]), batch["labels"], reduction="none")

    def features(self, batch: Batch) -> Tensor:
        raise NotImplementedError("no row of the bench asks for features")

    def save(self, folder: Path) -> None:
        raise NotImplementedError("no row of the bench saves a model")


class _VitData(Data):
    def __init__(self, task: int, count: int, contradicts: bool = False) -> None:
        self._pictures, labels = plain_models.samples(task, count)
        self._labels = plain_models.contradicted(labels) if contradicts else labels
        self._task = f"task {task}"

    def __len__(self) -> int:
        return len(self._labels)

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        chosen = torch.from_numpy(np.asarray(rows, dtype=np.int64))
        task: list[Any] = [self._task] * len(chosen)
        return {"index": chosen, "task": task, "pictures": self._pictures[chosen], "labels": self._labels[chosen]}

    @property
    def bytes_per_sample(self) -> int:
        return 4 * self._pictures[0].numel() + 8

    @property
    def episode_of_row(self) -> NDArray[np.int64]:
        return np.arange(len(self))
