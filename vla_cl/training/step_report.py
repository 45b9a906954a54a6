"""What one optimizer step did, told without making the device wait."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vla_cl.types import Experience


class Figures:
    """Loss and gradient norm of a step; those of a graphics card are waited for when somebody asks for them.

    Args:
        loss: Mean over the batch, shape ().
        gradient_norm: Before clipping, shape ().
    """

    def __init__(self, loss: Tensor, gradient_norm: Tensor) -> None:
        # To ask a card for a number is to wait until it has done all that it was told; so the number is sent, and the
        # next step begins meanwhile.
        self._sent = [value.detach().to("cpu", non_blocking=True) for value in (loss, gradient_norm)]
        self._arrived = torch.cuda.current_stream(loss.device).record_event() if loss.is_cuda else None

    def read(self) -> tuple[float, float]:
        """Both numbers, as soon as they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
            self._arrived = None
        loss, gradient_norm = self._sent
        return loss.item(), gradient_norm.item()


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step did.

    Attributes:
        step: Steps since the start of the experience, 1 after the first.
        total: Steps of the experience.
        phase: Name of the method's phase.
        figures: Loss and gradient norm.
        learning_rate: Of the first parameter group.
        samples: Samples learnt from in this step, replayed ones included.
        seconds: Since the experience's first step began.
    """

    step: int
    total: int
    phase: str
    figures: Figures
    learning_rate: float
    samples: int
    seconds: float

    @property
    def loss(self) -> float:
        """Mean over the batch; on a graphics card this waits until the step is done."""
        return self.figures.read()[0]

    @property
    def gradient_norm(self) -> float:
        """Before clipping; on a graphics card this waits until the step is done."""
        return self.figures.read()[1]


def answers_at_once(device: torch.device) -> bool:
    """Whether a number can be read without waiting for what the device still has to do."""
    return device.type != "cuda"


def require_numbers(report: StepReport, experience: Experience, weights: str) -> None:
    """Refuse a step whose loss or gradient norm is no number.

    Args:
        report: Of the step.
        experience: That is learnt.
        weights: What has become of the weights, for the message.

    Raises:
        FloatingPointError: One of them is not finite.
    """
    loss, norm = report.figures.read()
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise FloatingPointError(
            f"step {report.step} of experience {experience.name!r} gave loss {loss} and gradient norm {norm}; "
            f"{weights}; lower training.learning_rate, look at the data"
        )
