"""The other side of the comparisons with avalanche-lib, in an environment of its own: ``python -m ...avalanche_peer``.

Reads one JSON command a line and answers each with one JSON line. Uses avalanche's own plugins, called in the order in
which its training templates call them.
"""

from __future__ import annotations

import json
import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from vla_cl.bench import plain_models

STRENGTH = 0.4
LEARNING_RATE = 1e-4


class Peer:
    """A model, an optimizer, and one of avalanche's plugins with a past.

    Args:
        plugin: ``ewc`` or ``gem``.
        past: Tasks learnt before.
        batch: Samples per step.
        remembered: Samples per past task (gem).
        quick: A smaller model.
        kind: ``transformer`` or ``perceptron``.
        threads: Of torch.
    """

    def __init__(
        self, plugin: str, past: int, batch: int, remembered: int, quick: bool, kind: str, threads: int
    ) -> None:
        torch.set_num_threads(threads)
        self.model = plain_models.made(quick, kind)
        self.pictures, self.labels = plain_models.samples(0, batch)
        self.labels = plain_models.contradicted(self.labels)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE)
        self.strategy: Any = SimpleNamespace(
            model=self.model,
            device=torch.device("cpu"),
            clock=SimpleNamespace(train_exp_counter=past),
            optimizer=self.optimizer,
            _criterion=nn.CrossEntropyLoss(),
            loss=None,
        )
        self.plugin = self._ewc(past) if plugin == "ewc" else self._gem(past, remembered)

    def _ewc(self, past: int) -> Any:  # noqa: ANN401 - avalanche is not installed where types are checked
        from avalanche.training.plugins import EWCPlugin
        from avalanche.training.utils import ParamData

        plugin = EWCPlugin(STRENGTH, mode="separate")
        for task in range(past):
            importances, anchors = plain_models.past(self.model, task)
            for name in importances:
                for kept, tensor in ((plugin.importances, importances[name]), (plugin.saved_params, anchors[name])):
                    kept[task][name] = ParamData(name, init_tensor=tensor)
        return plugin

    def _gem(self, past: int, remembered: int) -> Any:  # noqa: ANN401
        from avalanche.training.plugins import GEMPlugin

        plugin = GEMPlugin(remembered, memory_strength=0.5)
        for task in range(past):
            plugin.memory_x[task], plugin.memory_y[task] = plain_models.samples(task, remembered)
            plugin.memory_tid[task] = torch.zeros(remembered, dtype=torch.long)
        return plugin

    def gradient(self, with_plugin: bool) -> None:
        """One forward and backward pass, with what the plugin adds, into ``.grad``."""
        strategy = self.strategy
        if with_plugin:
            self.plugin.before_training_iteration(strategy)
        self.optimizer.zero_grad()
        strategy.loss = strategy._criterion(self.model(self.pictures), self.labels)
        if with_plugin:
            self.plugin.before_backward(strategy)
        strategy.loss.backward()
        if with_plugin:
            self.plugin.after_backward(strategy)

    def steps(self, count: int, with_plugin: bool) -> float:
        """Seconds of ``count`` steps."""
        began = time.perf_counter()
        for _ in range(count):
            self.gradient(with_plugin)
            self.optimizer.step()
        return time.perf_counter() - began

    def added(self, count: int) -> float:
        """Seconds of ``count`` times what the plugin adds to a step before the backward pass, and to that pass."""
        began = time.perf_counter()
        for _ in range(count):
            self.strategy.loss = torch.zeros(())
            self.plugin.before_backward(self.strategy)
            self.strategy.loss.backward()
        return time.perf_counter() - began

    def write_gradient(self, path: str) -> None:
        """The first step's gradient, all parameters behind each other, as float32."""
        self.gradient(with_plugin=True)
        flat = torch.cat([parameter.grad.flatten() for parameter in self.model.parameters()])  # type: ignore[union-attr]
        np.save(path, flat.numpy(), allow_pickle=False)


def main() -> None:
    """Serve until the input ends."""
    peer: Peer | None = None
    for line in sys.stdin:
        command = json.loads(line)
        kind = command.pop("do")
        answer: float | None = None
        if kind == "begin":
            peer = Peer(**command)
        elif peer is None:
            raise ValueError(f"expected the command begin first; got {kind!r}")
        elif kind == "gradient":
            peer.write_gradient(command["path"])
        elif kind == "added":
            answer = peer.added(command["count"])
        elif kind == "steps":
            answer = peer.steps(command["count"], command["with_plugin"])
        print(json.dumps({"answer": answer}), flush=True)


if __name__ == "__main__":
    main()
