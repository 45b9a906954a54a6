"""Dark experience replay (DER, DER++): on remembered samples, say what the model said when it had just learnt them.

Buzzega et al., "Dark experience for general continual learning", NeurIPS 2020, arXiv 2004.07211, equations 5 and 6.
There ||z - h||^2 is a sum over the outputs; the authors' code (mammoth) takes the mean, and so does this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_cl.interfaces import Data, Distillable
from vla_cl.memory.mixing import Mixing, select
from vla_cl.memory.replay_memory import Selection
from vla_cl.memory.settings import SETTING
from vla_cl.methods.checked_settings import check_count, check_strength, check_temperature, refuse_idle
from vla_cl.methods.er import ReplayMethod
from vla_cl.methods.stored_outputs import StoredOutputs, stacked, token_places
from vla_cl.random_numbers import Purpose, generator
from vla_cl.types import METHOD_KEY, Ability, Batch, ConfigurationError, Draw, Experience, ForwardPass, MethodCard

LabelBatch = Literal["same", "independent"]
LABEL_BATCHES: tuple[LabelBatch, ...] = ("same", "independent")
Comparison = Literal["squared_error", "distance"]
COMPARISONS: tuple[Comparison, ...] = ("squared_error", "distance")
Precision = Literal["float32", "float16"]
PRECISIONS: dict[Precision, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}

STORED = f"{METHOD_KEY}stored_output"
"""A list: the stored output that a sample is compared with, or None."""
SEED = f"{METHOD_KEY}seed"
"""int64 (B,): of each sample's noise and time; the stored one where there is a stored output."""
PLACE = f"{METHOD_KEY}place"
"""int64 (B, 3): experience, row and draw of the stored output, or -1."""
LOSS_WEIGHT = f"{METHOD_KEY}loss_weight"
"""float32 (B,)."""
DISTANCE_WEIGHT = f"{METHOD_KEY}distance_weight"
"""float32 (B,)."""


@dataclass(frozen=True)
class Replayed:
    """The part of a forward pass that was compared with stored outputs, M samples.

    Attributes:
        batch: The samples.
        places: As `PLACE`, shape (M, 3).
        outputs: The model's, with gradient, shape (M, ...).
        stored: What they are compared with, of the same shape.
        losses: Of these samples, shape (M,).
    """

    batch: Batch
    places: NDArray[np.int64]
    outputs: Tensor
    stored: Tensor
    losses: Tensor


class DarkExperienceReplay(ReplayMethod):
    """Loss on new samples + alpha x distance from stored outputs [+ beta x loss on remembered samples, DER++].

    Each term is the mean over its own samples, as in the paper, so alpha and beta do not depend on how many remembered
    samples a step has; where that number differs from step to step, on average over the steps. One forward pass of the
    mixed batch gives all of them.

    Differences from the paper: the squared differences of a sample's outputs are averaged, as in the authors' code, not
    added, so alpha does not depend on how many outputs there are; outputs are stored when their task ends, not while
    its samples stream by, so they are the finished task's; they are computed in evaluation mode; and by default both
    terms of DER++ look at the same remembered samples, where the paper draws a second batch
    (``label_batch=independent``). An output that depends on noise and time is stored with the seed of them and compared
    under the same.

    Args:
        alpha: Weight of the distance from stored outputs.
        beta: Weight of the loss on remembered samples; 0 is DER. With alpha also 0: sequential fine-tuning.
        samples_per_task: Samples kept of each past task, with their outputs.
        selection: Which samples are kept.
        memory: In place of ``samples_per_task``, see `vla_cl.methods.remembering.make_memory`.
        mixing: ``replaced`` or ``added``, as in ER.
        share: Remembered samples per sample of the batch that the loop hands over.
        label_batch: ``same``: the beta term looks at the samples of the alpha term; ``independent``: each of the terms
            gets half of the remembered samples.
        compare: ``squared_error``: of tokens' logits, the mean over vocabulary and tokens that are learnt from; of
            anything else, the model's distance, which is a mean squared error too. ``distance``: always
            the model's, for tokens the divergence between distributions.
        draws_per_sample: Outputs stored of each sample, each under noise of its own.
        temperature: Of ``compare=distance``, for models of tokens.
        precision: How outputs are stored; ``float16`` takes half the bytes.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "der"
    card = MethodCard(
        title="Dark experience replay (DER, DER++)",
        paradigm="replay",
        equation=(
            r"\ell_t(\theta) + \alpha\, \mathbb{E}_{(x, z) \sim M}\left[D\left(f_\theta(x), z\right)\right] "
            r"+ \beta\, \mathbb{E}_{x \sim M}\left[\ell(\theta; x)\right]"
        ),
        source="Buzzega et al., NeurIPS 2020, arXiv 2004.07211",
        step="1 if replaced, 1 + share if added",
        memory="samples, their outputs and 8 bytes per output",
        follows=(
            "the stored outputs and both terms, with the mean over a sample's outputs, as in the authors' code; the "
            "paper's equations have the sum. Not followed: the reservoir over a stream without borders; the memory is "
            "filled at each task's end."
        ),
    )
    needs = frozenset({Ability.PER_SAMPLE_LOSSES, Ability.OUTPUTS, Ability.KEYED_DRAWS})
    _keep_losses = False

    def __init__(
        self,
        alpha: float = 0.5,
        beta: float = 0.0,
        samples_per_task: int = 1000,
        selection: Selection = "uniform",
        memory: Mapping[str, Any] | None = None,
        mixing: Mixing = "replaced",
        share: float = 0.5,
        label_batch: LabelBatch = "same",
        compare: Comparison = "squared_error",
        draws_per_sample: int = 1,
        temperature: float = 2.0,
        precision: Precision = "float32",
    ) -> None:
        super().__init__(samples_per_task, mixing, share, selection, memory, mixings=("added", "replaced"))
        check_strength("alpha", alpha)
        if alpha and self.memory.settings.reuse is not None:
            raise ConfigurationError(
                f"{SETTING}.reuse={self.memory.settings.reuse}: an exported memory holds no outputs that the model "
                f"could stay near; set method.alpha=0, or use a method that keeps none, such as er; got alpha={alpha}"
            )
        check_strength("beta", beta)
        check_count("draws_per_sample", draws_per_sample, 1, 64)
        for setting, value, allowed in (
            ("label_batch", label_batch, LABEL_BATCHES),
            ("compare", compare, COMPARISONS),
            ("precision", precision, tuple(PRECISIONS)),
        ):
            if value not in allowed:
                raise ConfigurationError(f"method.{setting} must be one of {', '.join(allowed)}; got {value!r}")
        check_temperature(temperature)
        if not alpha:
            kept = {"draws_per_sample": draws_per_sample, "compare": compare, "precision": precision}
            refuse_idle(type(self), {**kept, "label_batch": label_batch}, "alpha", alpha)
        elif not beta:
            refuse_idle(type(self), {"label_batch": label_batch}, "beta", beta)
        if compare != "distance":
            refuse_idle(type(self), {"temperature": temperature}, "compare", compare)
        self.alpha = alpha
        self.beta = beta
        self.label_batch = label_batch
        self.compare = compare
        self.temperature = temperature
        self.draws_per_sample = draws_per_sample
        self.precision = precision
        self.stored = StoredOutputs(draws_per_sample, PRECISIONS[precision], self._keep_losses)

    @property
    def acts(self) -> bool:
        """Whether its settings ask for an edit."""
        return super().acts and bool(self.alpha or self.beta)

    def bytes_beside_a_sample(self, outputs: int) -> int:
        """The stored outputs, with seeds and losses."""
        return self.stored.bytes_of(outputs) if self.alpha else 0

    def compose(self, batch: Batch, step: int) -> Batch:
        """Mix remembered samples in, with a note on each sample of what `loss` shall do with it."""
        if not self.replays or not self.acts:
            return batch
        count = self.remembered_count(batch, step)
        random = generator(self.train_seed, Purpose.REPLAY_TERMS, step)
        picks = random.permutation(self.memory.pick(count, self.train_seed, step))  # any part is a fair draw
        mixed = self.mixture.mix(batch, self.memory.fetch(picks) if count else None)
        return {**mixed, **self._notes(len(batch["task"]), len(mixed["task"]), picks, random)}

    def loss(self, batch: Batch, draw: Draw) -> Tensor:
        """The weighted sum of losses and distances, shape (B,); its mean over a whole batch is the method's loss."""
        if STORED not in batch:
            return self.model.loss(batch, draw)
        student = self._student.forward_pass(batch, Draw(draw.seed, batch[SEED].numpy()))
        losses: Tensor = batch[LOSS_WEIGHT].to(student.losses) * student.losses
        replayed = self._replayed(batch, student)
        if replayed is None:
            return losses
        weights = replayed.batch[DISTANCE_WEIGHT].to(losses)
        where = torch.from_numpy(_compared(batch)).to(losses.device)
        return losses.index_add(0, where, weights * self._distances(replayed).to(losses))

    def end_task(self, experience: Experience, data: Data) -> None:
        """Remember samples of what was just learnt, and what the model says of them; forget outputs of lost samples."""
        super().end_task(experience, data)
        self.stored.keep_only(self.memory.everything())
        if not self.alpha:
            return
        if self.memory.settings.budget is not None:  # one tells about how much room the others need
            self.stored.compute(self._student, self.memory, experience.index, self.train_seed, most=1)
            self._charge()
        self.stored.compute(self._student, self.memory, experience.index, self.train_seed)
        self._charge()

    def memory_bytes(self) -> int:
        """Bytes of the remembered samples, raw, of their outputs and of the seeds."""
        return self.memory.memory_bytes()

    def state_dict(self) -> dict[str, Tensor]:
        """The stored outputs."""
        return self.stored.state_dict()

    def extra_state(self) -> dict[str, object]:
        """Which rows are remembered, and the shape of an output of each experience."""
        return {**super().extra_state(), "outputs": self.stored.shapes()}

    def load_state_dict(
        self, state: Mapping[str, Tensor], extra: Mapping[str, object], past: Iterator[tuple[Experience, Data]]
    ) -> None:
        """Remember the same rows and outputs again.

        Raises:
            ValueError: The checkpoint is another method's, or of another stream, or outputs of some rows are missing.
        """
        if "outputs" not in extra:
            raise ValueError(f"{type(self).__name__} keeps outputs; the checkpoint holds {sorted(extra)}")
        super().load_state_dict({}, {key: extra[key] for key in extra if key != "outputs"}, past)
        remembered = self.memory.everything()
        self.stored.load_state_dict(state, extra["outputs"], remembered if self.alpha else remembered[:0])
        self._charge()

    def _charge(self) -> None:
        """Have the memory count the stored outputs, and forget those of samples that it has no room for."""
        for experience, count in self.stored.bytes_per_sample().items():
            self.memory.charge(experience, count)
        self.stored.keep_only(self.memory.everything())

    @property
    def _student(self) -> Distillable:
        return cast(Distillable, self.model)

    def _notes(self, handed: int, total: int, picks: NDArray[np.int64], generator: np.random.Generator) -> Batch:
        """What `loss` shall know of each sample of a mixed batch, whose last samples are ``picks``.

        A term's weight is shared by the number of samples that it has on average over the steps: so the mean of the
        steps is the equation, also where small batches have no new or no remembered sample in some of them.
        """
        new, (compared, labelled) = total - len(picks), self._parts(len(picks))
        draws = generator.integers(self.stored.draws, size=(compared, 1))
        places = np.full((total, 3), -1)
        places[new : new + compared] = np.hstack([picks[:compared], draws])
        seeds = generator.integers(2**62, size=total)
        seeds[new : new + compared] = [self.stored.seed(place) for place in places[new : new + compared]]
        mean_new = self.mixture.mean(handed, lambda count: self.mixture.current(handed, count))
        mean_compared = self.mixture.mean(handed, lambda count: self._parts(count)[0])
        mean_labelled = self.mixture.mean(handed, lambda count: self._parts(count)[1])
        losses, distances = np.zeros(total, np.float32), np.zeros(total, np.float32)
        if new:
            losses[:new] = total / mean_new
        if compared:
            distances[new : new + compared] = self.alpha * total / mean_compared
        if labelled:
            losses[total - labelled :] = self.beta * total / mean_labelled
        return {
            STORED: [self.stored.output(place) if place[0] >= 0 else None for place in places],
            SEED: torch.from_numpy(seeds),
            PLACE: torch.from_numpy(places),
            LOSS_WEIGHT: torch.from_numpy(losses),
            DISTANCE_WEIGHT: torch.from_numpy(distances),
        }

    def _parts(self, count: int) -> tuple[int, int]:
        """How many of ``count`` remembered samples have a distance (the first ones) and a loss (the last ones)."""
        if self.label_batch == "independent" and self.alpha > 0 and self.beta > 0 and count > 1:
            return (count + 1) // 2, count // 2
        return (count if self.alpha else 0), count

    def _replayed(self, batch: Batch, student: ForwardPass) -> Replayed | None:
        """The samples of a batch that have a stored output; None if no sample has."""
        where = _compared(batch)
        if not len(where):
            return None
        part = select(batch, where)
        chosen = torch.from_numpy(where).to(student.outputs.device)
        outputs = student.outputs[chosen]
        stored = stacked(part[STORED], outputs)
        return Replayed(part, part[PLACE].numpy(), outputs, stored, student.losses[chosen])

    def _distances(self, replayed: Replayed) -> Tensor:
        """One value per replayed sample, shape (M,)."""
        places = token_places(replayed.outputs, replayed.batch)
        if self.compare == "distance" or places is None:
            return self._student.distance(replayed.outputs, replayed.stored, replayed.batch, self.temperature)
        squares = (replayed.outputs - replayed.stored)[:, :-1].float().square().mean(2)
        return (squares * places).sum(1) / places.sum(1).clamp(min=1)


def _compared(batch: Batch) -> NDArray[np.int64]:
    """The positions of the samples that have a stored output."""
    return np.asarray([place for place, stored in enumerate(batch[STORED]) if stored is not None], dtype=np.int64)
