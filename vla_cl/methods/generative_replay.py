"""Generative replay: learn from samples of past tasks that the model itself makes up, so none has to be kept.

Shin et al., "Continual learning with deep generative replay", NeurIPS 2017, arXiv 1705.08690; for language models LAMOL
(Sun et al., ICLR 2020, arXiv 1909.03329); for diffusion models generative distillation (Masip et al. 2023, arXiv
2311.14028).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vla_cl.interfaces import Data, Distillable, Generator, Method
from vla_cl.memory.mixing import Mixing, Mixture, concatenate, select, union_losses
from vla_cl.memory.settings import MOST_BYTES
from vla_cl.methods.checked_settings import (
    MAX_BATCH,
    check_count,
    check_range,
    check_strength,
    check_temperature,
    refuse_idle,
)
from vla_cl.methods.saved_state import TASKS_LEARNT, require_alike, require_keys, whole_number
from vla_cl.methods.teacher import Teacher, teacher_bytes
from vla_cl.random_numbers import Purpose, generator, number
from vla_cl.types import METHOD_KEY, Ability, Batch, ConfigurationError, Draw, Experience, MethodCard

GENERATED = f"{METHOD_KEY}generated"
"""bool (B,): whether a sample was made up."""
SEED = f"{METHOD_KEY}seed"
"""int64 (B,): of each sample's noise and time, so that teacher and student see the same."""

WEIGHT = f"{METHOD_KEY}weight"
"""float32 (B,): what a sample's loss or distance is multiplied by."""

Weights = Literal["tasks", "equal"]
WEIGHTS: tuple[Weights, ...] = ("tasks", "equal")

MAX_SAMPLES_SHARE = 1000.0
"""Generated samples per sample of a past experience: more than anyone could wait for."""

_ROWS_LOOKED_AT = 512


class GenerativeReplay(Method):
    """Samples of past tasks, generated before each task from the model as it is then, mixed into its batches.

    Every past experience gets the same number of generated samples; within one, its tasks (the samples' ``task``) come
    as often as they did in its data, as far as 512 rows of them tell. The samples are a pure function of the weights
    and the seed, so a resumed run makes the same ones again.

    Args:
        samples_share: Samples generated before a task, per sample of a past experience (their mean): LAMOL's gamma. The
            paper counts the new task's samples, which are not known before it begins.
        samples: Instead, how many; null: by ``samples_share``.
        mixing: ``replaced``: generated samples take the place of current ones; ``added``: they come on top.
        share: Generated samples per sample of the batch that the loop hands over; 0 is sequential fine-tuning. The
            ratio r of Shin et al. is 1 - share if they replace, 1 / (1 + share) if they are added.
        chunk: Samples generated at once.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "generative_replay"
    card = MethodCard(
        title="Generative replay, LAMOL",
        paradigm="replay",
        equation=r"r\, \mathbb{E}_{D_t}\left[\ell(\theta; x)\right] + (1 - r)\, "
        r"\mathbb{E}_{\hat x \sim p_{\theta_{t-1}}}\left[\ell(\theta; \hat x)\right]",
        source="Shin et al., NeurIPS 2017, arXiv 1705.08690; Sun et al., ICLR 2020, arXiv 1909.03329",
        step="1 if replaced, 1 + share if added; before a task, generating its samples",
        memory="the generated samples, while a task is learnt",
        follows=(
            "samples of past tasks by the model itself, and their part of the batch. Not followed: a generator beside "
            "the learner (Shin et al.); the model is both."
        ),
    )
    needs = frozenset({Ability.GENERATION})

    def __init__(
        self,
        samples_share: float = 0.2,
        samples: int | None = None,
        mixing: Mixing = "replaced",
        share: float = 0.5,
        chunk: int = 256,
    ) -> None:
        check_range("samples_share", samples_share, 0, MAX_SAMPLES_SHARE)
        if not samples_share and samples is None:
            raise ConfigurationError("method.samples_share must be above 0 unless method.samples is given; got 0")
        if samples is not None:
            check_count("samples", samples)
            if samples_share:
                refuse_idle(type(self), {"samples_share": samples_share}, "samples", samples)
        check_count("chunk", chunk, 1, MAX_BATCH)
        self.samples_share = samples_share
        self.samples = samples
        self.mixture = Mixture(mixing, share, ("added", "replaced"))
        self.mixing = mixing
        self.share = share
        self.chunk = chunk
        self._past: list[dict[str, Any]] = []
        self._generated: Batch | None = None
        self._bytes = 0

    @property
    def acts(self) -> bool:
        """Whether its settings ask for an edit."""
        return self.mixture.share > 0

    def begin_task(self, experience: Experience) -> None:
        """Generate samples of the past, if there is one."""
        self._generated = None
        if not self._past or not self.mixture.share:
            return
        tasks = self._tasks_to_generate(experience)
        parts = []
        starts = range(0, len(tasks), self.chunk)
        for start in tqdm(starts, desc=f"generating {len(tasks)} samples of the past", unit="chunk", disable=None):
            seed = number(self.train_seed, Purpose.GENERATED_SAMPLES, experience.index, start)
            parts.append(cast(Generator, self.model).generate(tasks[start : start + self.chunk], seed))
        self._generated = concatenate(parts)
        self._bytes = _bytes(self._generated)

    def compose(self, batch: Batch, step: int) -> Batch:
        """Mix generated samples in, from the second task on."""
        if self._generated is None:
            return batch
        return self.mixture.union(batch, self._picked(self._generated, len(batch["task"]), step))

    def loss(self, batch: Batch, draw: Draw) -> Tensor:
        """One value per sample, shape (B,); on average over the steps their mean is that of the union."""
        return union_losses(self.model.loss(batch, draw), batch)

    def end_task(self, experience: Experience, data: Data) -> None:
        """Note how many samples the experience had, and of which tasks; what was generated is not needed any more."""
        self._generated = None
        random = generator(self.train_seed, Purpose.LOOKED_AT_ROWS, experience.index)
        rows = np.sort(random.choice(len(data), size=min(_ROWS_LOOKED_AT, len(data)), replace=False))
        self._past.append({"samples": len(data), "tasks": dict(sorted(Counter(data.batch(rows)["task"]).items()))})

    def memory_bytes(self) -> int:
        """Bytes of the samples generated for the task that is learnt or, between tasks, for the last one."""
        return self._bytes

    def extra_state(self) -> dict[str, object]:
        """Sizes and tasks of the past experiences."""
        past = [{**item, "tasks": dict(item["tasks"])} for item in self._past]
        return {"past": past, "bytes": self._bytes, TASKS_LEARNT: len(past)}

    def load_state_dict(
        self, state: Mapping[str, Tensor], extra: Mapping[str, object], past: Iterator[tuple[Experience, Data]]
    ) -> None:
        """Know the same past again.

        Raises:
            ValueError: The checkpoint is another method's.
        """
        require_alike(type(self).__name__, state, {})
        require_keys(type(self).__name__, extra, ["past", "bytes", TASKS_LEARNT])
        tasks_learnt = whole_number(TASKS_LEARNT, extra[TASKS_LEARNT])
        if not isinstance(extra["past"], list) or len(extra["past"]) != tasks_learnt:
            raise ValueError(f"past must be a list of {tasks_learnt}; the checkpoint holds {str(extra['past'])[:40]!r}")
        known = [_checked_past(item) for item in extra["past"]]
        self._bytes = whole_number("bytes", extra["bytes"], high=MOST_BYTES)
        self._past = known

    def _picked(self, generated: Batch, total: int, step: int) -> Batch | None:
        """The generated samples of a step with ``total`` current ones; None if it has none."""
        count = self.mixture.count(total, self.train_seed, step)
        random = generator(self.train_seed, Purpose.GENERATED_REPLAY, step)
        rows = random.integers(len(generated["task"]), size=count)
        return select(generated, np.sort(rows)) if count else None

    def _tasks_to_generate(self, experience: Experience) -> list[str]:
        """The ``task`` of each sample to generate, experience by experience in turn."""
        mean_size = sum(item["samples"] for item in self._past) / len(self._past)
        count = self.samples if self.samples is not None else max(1, round(self.samples_share * mean_size))
        random = generator(self.train_seed, Purpose.GENERATED_TASKS, experience.index)
        drawn = []
        for place in range(count):
            tasks: dict[str, int] = self._past[place % len(self._past)]["tasks"]
            bounds = np.cumsum(list(tasks.values()))
            drawn.append(list(tasks)[int(np.searchsorted(bounds, random.integers(bounds[-1]), side="right"))])
        return drawn


class GenerativeDistillation(GenerativeReplay):
    """Generative distillation: generated samples are learnt from the old model's outputs, not as data.

    A generated sample's loss is replaced by strength x distance between the outputs of the model before the task (the
    teacher) and now, under the same noise and time, which are new in every step.

    Args:
        samples_share: As in `GenerativeReplay`.
        samples: As in `GenerativeReplay`.
        mixing: As in `GenerativeReplay`.
        share: As in `GenerativeReplay`.
        chunk: As in `GenerativeReplay`.
        strength: Weight of the distance (lambda). 0 learns nothing from generated samples, though with ``replaced``
            they take the place of current ones.
        weights: Of the two terms, each the mean over its own samples. ``tasks``: with k tasks behind, 1 / (k + 1) for
            the new data and k / (k + 1) for the generated, as the authors' code has it; ``equal``: 1 for both.
        temperature: Of the distance, for models of tokens.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "generative_distillation"
    card = MethodCard(
        title="Generative distillation",
        paradigm="replay",
        equation=(
            r"\frac{1}{t}\, \mathbb{E}_{D_t}\left[\ell(\theta; x)\right] + \frac{t - 1}{t}\, \lambda\, "
            r"\mathbb{E}_{\hat x \sim p_{\theta_{t-1}}}"
            r"\left[D\left(f_\theta(\hat x), f_{\theta_{t-1}}(\hat x)\right)\right]"
        ),
        source="Masip et al. 2023, arXiv 2311.14028",
        step="generative replay's, and a forward pass of the generated samples",
        memory="the generated samples and the teacher (4 bytes per trainable parameter), while a task is learnt",
        follows=(
            "the teacher's outputs at generated samples under the same noise. Ours: the samples are made before the "
            "task, not in each step."
        ),
    )
    needs = frozenset({Ability.GENERATION, Ability.PER_SAMPLE_LOSSES, Ability.OUTPUTS, Ability.KEYED_DRAWS})

    def __init__(
        self,
        samples_share: float = 0.2,
        samples: int | None = None,
        mixing: Mixing = "replaced",
        share: float = 0.5,
        chunk: int = 256,
        strength: float = 1.0,
        temperature: float = 2.0,
        weights: Weights = "tasks",
    ) -> None:
        super().__init__(samples_share, samples, mixing, share, chunk)
        check_strength("strength", strength)
        check_temperature(temperature)
        if weights not in WEIGHTS:
            raise ConfigurationError(f"method.weights must be one of {', '.join(WEIGHTS)}; got {weights!r}")
        if not strength:
            refuse_idle(type(self), {"temperature": temperature}, "strength", strength)
        self.strength = strength
        self.temperature = temperature
        self.weights = weights
        self._teacher: Teacher | None = None

    def begin_task(self, experience: Experience) -> None:
        """Generate samples of the past and copy the teacher, if there is a past."""
        super().begin_task(experience)
        self._teacher = Teacher(self._student) if self._generated is not None else None

    def compose(self, batch: Batch, step: int) -> Batch:
        """Mix generated samples in, and note which they are, what each weighs, and the noise of each sample."""
        if self._generated is None:
            return batch
        handed = len(batch["task"])
        picked = self._picked(self._generated, handed, step)
        mixed = self.mixture.mix(batch, picked)
        total = len(mixed["task"])
        generated = torch.arange(total) >= total - (0 if picked is None else len(picked["task"]))
        seeds = generator(self.train_seed, Purpose.GENERATED_LOSS, step).integers(2**62, size=total)
        weights = self._weights(handed, total, generated)
        return {**mixed, GENERATED: generated, WEIGHT: weights, SEED: torch.from_numpy(seeds)}

    def _weights(self, handed: int, total: int, generated: Tensor) -> Tensor:
        """Of each sample, so that the mean over a batch is the weighted sum of both terms, on average over the steps.

        Each term is shared by the number of samples that it has on average.
        """
        past = len(self._past)
        of_new, of_generated = (1 / (past + 1), past / (past + 1)) if self.weights == "tasks" else (1.0, 1.0)
        mean_new = self.mixture.mean(handed, lambda count: self.mixture.current(handed, count))
        weights = torch.full((total,), total * of_new / mean_new if mean_new else 0.0)
        weights[generated] = self.strength * total * of_generated / self.mixture.mean(handed)
        return weights

    def loss(self, batch: Batch, draw: Draw) -> Tensor:
        """The loss of current samples, the weighted distance of generated ones, shape (B,)."""
        if GENERATED not in batch or self._teacher is None:
            return self.model.loss(batch, draw)
        seeds = batch[SEED].numpy()
        student = self._student.forward_pass(batch, Draw(draw.seed, seeds))
        weights: Tensor = batch[WEIGHT].to(student.losses)
        rows = np.flatnonzero(batch[GENERATED].numpy())
        if not len(rows):
            return weights * student.losses
        part, chosen = select(batch, rows), torch.from_numpy(rows).to(student.outputs.device)
        teacher = self._teacher.outputs(part, Draw(draw.seed, seeds[rows]))
        distances = self._student.distance(student.outputs[chosen], teacher, part, self.temperature)
        return weights * student.losses.index_copy(0, chosen, distances.to(student.losses))

    def end_task(self, experience: Experience, data: Data) -> None:
        """Note the experience's size and tasks; the teacher has done its work."""
        super().end_task(experience, data)
        self._teacher = None

    def memory_bytes(self) -> int:
        """Bytes of the generated samples and, from the second task on, of the teacher."""
        return super().memory_bytes() + (teacher_bytes(self._student) if self._past and self.mixture.share else 0)

    @property
    def _student(self) -> Distillable:
        return cast(Distillable, self.model)


def _checked_past(item: object) -> dict[str, Any]:
    """What a checkpoint says of a past experience: how many samples it had, and of which tasks.

    Raises:
        ValueError: It says something else.
    """
    tasks = item.get("tasks") if isinstance(item, Mapping) else None
    if not isinstance(item, Mapping) or item.keys() != {"samples", "tasks"} or not isinstance(tasks, Mapping):
        raise ValueError(f"a past experience has samples and tasks; the checkpoint holds {str(item)[:60]!r}")
    samples = whole_number("the samples of a past experience", item["samples"], 1)
    counts = {name: whole_number("the samples of a past task", count, 1) for name, count in tasks.items()}
    if sum(counts.values()) != min(_ROWS_LOOKED_AT, samples):
        raise ValueError(f"the tasks of {samples} samples were counted in {min(_ROWS_LOOKED_AT, samples)} of them")
    return {"samples": samples, "tasks": counts}


def _bytes(batch: Batch) -> int:
    """Of a batch's tensors; the row numbers tell nothing."""
    tensors = [value for key, value in batch.items() if isinstance(value, torch.Tensor) and key != "index"]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
