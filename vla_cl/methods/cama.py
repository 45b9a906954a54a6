"""Confidence-aware moving average (CAMA): DER++ whose stored outputs follow the model where it is sure of itself.

Kim et al., "Online continual learning for interactive instruction following agents", ICLR 2024, arXiv 2403.07548.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_cl.interfaces import Data, Model
from vla_cl.memory.mixing import Mixing
from vla_cl.memory.replay_memory import Selection
from vla_cl.methods.checked_settings import check_count, refuse_idle
from vla_cl.methods.der import Comparison, DarkExperienceReplay, LabelBatch, Precision, Replayed
from vla_cl.methods.stored_outputs import token_places
from vla_cl.types import Batch, ConfigurationError, Draw, Experience, MethodCard


class ConfidenceAwareMovingAverage(DarkExperienceReplay):
    """Dark experience replay with z <- (1 - c) z + c z_new for the stored outputs z of the samples just replayed.

    z_new is what the model said of them in the step, under the same noise and time, so it costs no computation. c is
    the mean of the last ``recent`` confidences in the sample's task, less what chance gives, cut to 0..1. Confidence in
    a task, in one step, is the mean over its replayed samples. The paper knows classes only (actions and objects, each
    with a confidence of its own); what stands for that here is our choice:

    * tokens: the probability of the right token, mean over those that are learnt from; chance is 1 / vocabulary;
    * anything else: exp(-loss / loss when the output was stored), with no chance to take away: 1 for a sample without
      error, 0.37 for one that is known as well as then, towards 0 for a forgotten one, which keeps its old output. That
      loss is of the model of that time on purpose: it is what "as well as then" means.

    The paper's code takes confidences from new samples too, and moves the outputs of all replayed samples; here only
    the samples that were compared count and move.

    Args:
        alpha: Weight of the distance from stored outputs (the paper's code: 0.5).
        beta: Weight of the loss on remembered samples (the paper's code: 0.5).
        samples_per_task: Samples kept of each past task, with their outputs.
        selection: Which samples are kept.
        memory: In place of ``samples_per_task``, see `vla_cl.methods.remembering.make_memory`.
        mixing: ``replaced`` or ``added``, as in ER.
        share: Remembered samples per sample of the batch; 2/3 with ``replaced`` and ``independent`` gives the paper's
            thirds: new samples, remembered ones, remembered ones with outputs.
        label_batch: As in `DarkExperienceReplay`.
        compare: As in `DarkExperienceReplay`.
        draws_per_sample: As in `DarkExperienceReplay`.
        temperature: As in `DarkExperienceReplay`.
        precision: As in `DarkExperienceReplay`.
        recent: Confidences that are averaged (N).

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "cama"
    card = MethodCard(
        title="Confidence-aware moving average (CAMA)",
        paradigm="replay",
        equation=(
            r"\ell_t(\theta) + \alpha\, \mathbb{E}_M\left[D\left(f_\theta(x), z\right)\right] "
            r"+ \beta\, \mathbb{E}_M\left[\ell(\theta; x)\right], \quad z \leftarrow (1 - c)\, z + c\, f_\theta(x)"
        ),
        source="Kim et al., ICLR 2024, arXiv 2403.07548",
        step="1 if replaced, 1 + share if added",
        memory="samples, their outputs and 12 bytes per output",
        follows="the moving average of stored outputs by confidence. Not followed: the stream without task borders.",
    )
    _keep_losses = True

    def __init__(
        self,
        alpha: float = 0.5,
        beta: float = 0.5,
        samples_per_task: int = 1000,
        selection: Selection = "uniform",
        memory: Mapping[str, Any] | None = None,
        mixing: Mixing = "replaced",
        share: float = 2 / 3,
        label_batch: LabelBatch = "independent",
        compare: Comparison = "squared_error",
        draws_per_sample: int = 1,
        temperature: float = 2.0,
        precision: Precision = "float32",
        recent: int = 5,
    ) -> None:
        super().__init__(
            alpha=alpha,
            beta=beta,
            samples_per_task=samples_per_task,
            selection=selection,
            memory=memory,
            mixing=mixing,
            share=share,
            label_batch=label_batch,
            compare=compare,
            draws_per_sample=draws_per_sample,
            temperature=temperature,
            precision=precision,
        )
        check_count("recent", recent, 1, 1_000_000)
        if not alpha:
            refuse_idle(type(self), {"recent": recent}, "alpha", alpha)
        self.recent = recent
        self._confidences: dict[int, list[float]] = defaultdict(list)
        self._just_replayed: Replayed | None = None

    def attach(self, model: Model, train_seed: int) -> None:
        """Meet the model.

        Raises:
            ConfigurationError: The model lacks what is needed, or several processes learn together.
        """
        super().attach(model, train_seed)
        parallel = torch.distributed.is_available() and torch.distributed.is_initialized()
        if parallel and (count := torch.distributed.get_world_size()) > 1:
            raise ConfigurationError(
                f"method {self.name!r} cannot learn in {count} processes: each would update the stored outputs of its "
                "own samples only; use one process, or method=der_pp"
            )

    def loss(self, batch: Batch, draw: Draw) -> Tensor:
        """As DER++; what the model says of replayed samples is kept until the step is over."""
        self._just_replayed = None
        return super().loss(batch, draw)

    def after_step(self) -> None:
        """Move the stored outputs of the samples that were replayed in this step."""
        replayed, self._just_replayed = self._just_replayed, None
        if replayed is None:
            return
        experiences = replayed.places[:, 0]
        confidences = self._sample_confidences(replayed)
        shares = {}
        for experience in np.unique(experiences).tolist():
            recent = self._confidences[experience]
            recent.append(float(confidences[experiences == experience].mean()))
            del recent[: -self.recent]
            shares[experience] = min(1.0, max(0.0, sum(recent) / len(recent) - _chance(replayed)))
        new = replayed.outputs.float().cpu()
        moved = {tuple(place): number for number, place in enumerate(replayed.places.tolist())}  # drawn twice: once
        for place, number in moved.items():
            old = self.stored.output(place).float()
            length = tuple(slice(size) for size in old.shape)
            fresh = old.clone()
            part = new[number][length]  # padding may differ; what is not there stays
            fresh[tuple(slice(size) for size in part.shape)] = part
            self.stored.replace(place, torch.lerp(old, fresh, shares[place[0]]))

    def extra_state(self) -> dict[str, object]:
        """Which rows are remembered, and recent confidences by experience."""
        found = {experience: list(self._confidences[int(experience)]) for experience in self.stored.shapes()}
        return {**super().extra_state(), "confidences": found}

    def load_state_dict(
        self, state: Mapping[str, Tensor], extra: Mapping[str, object], past: Iterator[tuple[Experience, Data]]
    ) -> None:
        """Remember the same rows, outputs and confidences again.

        Raises:
            ValueError: The checkpoint is another method's, or of another stream.
        """
        if "confidences" not in extra:
            raise ValueError(f"CAMA keeps confidences; the checkpoint holds {sorted(extra)}")
        super().load_state_dict(state, {key: extra[key] for key in extra if key != "confidences"}, past)
        found, known = extra["confidences"], self.stored.shapes().keys()
        if not isinstance(found, Mapping) or found.keys() != known:
            raise ValueError(f"CAMA keeps confidences in the experiences {sorted(known)}; the checkpoint holds others")
        for experience, values in found.items():
            if not isinstance(values, list) or len(values) > self.recent or not all(map(_is_confidence, values)):
                raise ValueError(f"confidences are at most {self.recent} numbers from 0 to 1; got {str(values)[:60]}")
            self._confidences[int(experience)] = list(values)

    def midway_state(self) -> dict[str, Tensor]:
        """The outputs as they have been moved, and ``confidences.<experience>``, the recent ones."""
        recent = {
            f"confidences.{experience}": torch.tensor(self._confidences[int(experience)], dtype=torch.float64)
            for experience in self.stored.shapes()
        }
        return self.stored.outputs() | recent

    def load_midway_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue with these outputs and confidences.

        Raises:
            ValueError: They are of other samples, or no confidences.
        """
        self.stored.put_outputs({name: tensor for name, tensor in state.items() if name.startswith("outputs.")})
        for experience in self.stored.shapes():
            values = state[f"confidences.{experience}"].tolist()
            if len(values) > self.recent or not all(map(_is_confidence, values)):
                raise ValueError(f"confidences are at most {self.recent} numbers from 0 to 1; got {str(values)[:60]}")
            self._confidences[int(experience)] = values

    def _distances(self, replayed: Replayed) -> Tensor:
        self._just_replayed = Replayed(
            replayed.batch,
            replayed.places,
            replayed.outputs.detach(),
            replayed.stored,
            replayed.losses.detach(),
        )
        return super()._distances(replayed)

    def _sample_confidences(self, replayed: Replayed) -> NDArray[np.float64]:
        """In 0..1, shape (M,)."""
        places = token_places(replayed.outputs, replayed.batch)
        if places is not None:
            right = replayed.batch["labels"].to(replayed.outputs.device)[:, 1:].clamp(min=0)
            probabilities = replayed.outputs[:, :-1].float().softmax(-1).gather(-1, right[..., None])[..., 0]
            means = (probabilities * places).sum(1) / places.sum(1).clamp(min=1)
            return means.double().cpu().numpy()
        at_storage = [max(self.stored.loss(place), 1e-12) for place in replayed.places.tolist()]
        losses = zip(replayed.losses.tolist(), at_storage, strict=True)
        return np.asarray([math.exp(-max(0.0, now) / then) for now, then in losses])


def _is_confidence(value: object) -> bool:
    return type(value) in (int, float) and 0 <= cast(float, value) <= 1 + 1e-6  # rounding


def _chance(replayed: Replayed) -> float:
    """The confidence that guessing gives."""
    is_tokens = token_places(replayed.outputs, replayed.batch) is not None
    return 1 / replayed.outputs.shape[-1] if is_tokens else 0.0
