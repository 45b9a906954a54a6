"""A policy of a plug-in, tried on two made-up samples before anything is recorded, decoded or learnt.

Of the policies that LeRobot and this package bring, tests know that they learn and act; of anybody else's nobody does.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from torch import Tensor

from vla_cl.models.policy_config import horizon, predicted_actions
from vla_cl.models.vla import VlaModel
from vla_cl.random_numbers import Purpose, number
from vla_cl.trust.text import harmless
from vla_cl.types import Batch, ConfigurationError, Draw, InterfaceSpec

_SAMPLES = 2
_SAVED = 2**30
"""Bytes of weights up to which a policy is also saved and loaded."""

_FAILURES = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, NotImplementedError,
             RuntimeError, TypeError, ValueError)  # fmt: skip


def try_policy(config: PreTrainedConfig, spec: InterfaceSpec) -> VlaModel:
    """Build a policy, let it learn from two made-up samples, act on them, be saved and be loaded.

    Args:
        config: With the features of the data.
        spec: Cameras, state and action sizes of the data.

    Returns:
        The policy, on the CPU.

    Raises:
        ConfigurationError: A step fails or gives something else than is due; the message names the method.
    """
    own = copy.deepcopy(config)
    own.device = "cpu"
    kind = own.type
    model = _done(kind, "its class and processors", lambda: VlaModel.new(own, _statistics(spec), 0))
    batch = _samples(own, spec)
    loss = _done(kind, "forward", lambda: model.loss(copy.copy(batch), Draw(number(0, Purpose.LOSS))))
    _require_loss(kind, model, loss)
    chunk = _done(kind, "predict_action_chunk", lambda: model.chunks(batch))
    due = (_SAMPLES, predicted_actions(own), spec.action_size)
    if chunk.shape != due or not np.isfinite(chunk).all():
        raise _refusal(
            kind,
            f"predict_action_chunk must give finite actions of shape {due} (batch, actions of a chunk, numbers of an "
            f"action); got shape {chunk.shape}",
        )
    if sum(weights.nbytes for weights in model.module.state_dict().values()) <= _SAVED:
        _require_kept(kind, model)
    return model


def _require_loss(kind: str, model: VlaModel, loss: Tensor) -> None:
    """One finite number for each sample, with a gradient.

    Raises:
        ConfigurationError: It is something else.
    """
    if loss.shape != (_SAMPLES,) or not torch.isfinite(loss).all():
        raise _refusal(
            kind,
            "forward must give (loss, dictionary): a finite mean, or with reduction='none' one finite value per "
            f"sample, shape ({_SAMPLES},) here; got shape {tuple(loss.shape)}",
        )
    if not loss.requires_grad:
        raise _refusal(kind, "the loss of forward has no gradient, so nothing would be learnt; do not detach it")
    _done(kind, "the gradient of forward's loss", lambda: loss.mean().backward())  # type: ignore[no-untyped-call]
    if all(parameter.grad is None for parameter in model.module.parameters()):
        raise _refusal(kind, "the loss of forward reaches no parameter, so nothing would be learnt")
    model.module.zero_grad(set_to_none=True)


def _require_kept(kind: str, model: VlaModel) -> None:
    """What is loaded has the weights that were saved.

    Raises:
        ConfigurationError: It has not, or cannot be loaded.
    """
    with tempfile.TemporaryDirectory(prefix="vla-cl-policy-") as folder:
        _done(kind, "save_pretrained", lambda: model.save(Path(folder) / "policy"))
        again = _done(kind, "from_pretrained", lambda: VlaModel.load(Path(folder) / "policy", "cpu"))
    before, after = model.module.state_dict(), again.module.state_dict()
    if lost := sorted(name for name in before if name not in after or not torch.equal(before[name], after[name])):
        raise _refusal(kind, f"{lost[0]} is not the same after saving and loading; keep it a parameter or a buffer")


def _samples(config: PreTrainedConfig, spec: InterfaceSpec) -> Batch:
    """Two samples as `vla_cl.data.frames.Frames.batch` gives them: gray images, states and actions of zeros."""
    window = horizon(config)
    past = () if window.observations is None else (len(window.observations),)
    batch: Batch = {
        "index": torch.arange(_SAMPLES),
        "task": ["do one thing", "do another"],
        "action": torch.zeros(_SAMPLES, len(window.actions), spec.action_size),
        "action_is_pad": torch.zeros(_SAMPLES, len(window.actions), dtype=torch.bool),
    }
    for camera, (height, width) in spec.cameras.items():
        batch[camera] = torch.full((_SAMPLES, *past, 3, height, width), 128, dtype=torch.uint8)
    if spec.state_size:
        batch["observation.state"] = torch.zeros(_SAMPLES, *past, spec.state_size)
    if past:
        observed = [key for key in batch if key.startswith("observation.")]
        batch |= {f"{key}_is_pad": torch.zeros(_SAMPLES, *past, dtype=torch.bool) for key in observed}
    return batch


def _statistics(spec: InterfaceSpec) -> dict[str, dict[str, Any]]:
    """Of numbers between -1 and 1."""

    def of(*shape: int) -> dict[str, Any]:
        low, high = np.full(shape, -1, np.float32), np.ones(shape, np.float32)
        named = {"min": low, "max": high, "mean": np.zeros(shape, np.float32), "std": high}
        return named | {"q01": low, "q10": low, "q50": named["mean"], "q90": high, "q99": high}

    found = {"action": of(spec.action_size), **{camera: of(3, 1, 1) for camera in spec.cameras}}
    return found | ({"observation.state": of(spec.state_size)} if spec.state_size else {})


def _done[Given](kind: str, what: str, step: Callable[[], Given]) -> Given:
    """The result of a step of the trial.

    Raises:
        ConfigurationError: It fails.
    """
    try:
        return step()
    except _FAILURES as error:
        words = harmless(f"{type(error).__name__}: {' '.join(str(error).split())}", 160)
        raise _refusal(kind, f"{what} fails on two made-up samples ({words}); --debug shows where") from error


def _refusal(kind: str, what: str) -> ConfigurationError:
    return ConfigurationError(f"policy {kind!r} cannot be learnt as it is: {what}")
