"""Learning without forgetting (LwF): on the new task's samples, stay near what the model said before it learnt them.

Li & Hoiem, "Learning without forgetting", ECCV 2016, arXiv 1606.09282. For tokens the distance is the divergence from
the teacher's to the student's distribution, with Hinton's T^2 (arXiv 1503.02531); for actions, velocities and noise the
squared difference under the same noise and the same time (`vla_cl.interfaces.Distillable.distance`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from vla_cl.interfaces import Data, Distillable, Model
from vla_cl.memory.mixing import select
from vla_cl.methods.checked_settings import MAX_MEGABYTES, check_range, check_strength, check_temperature, refuse_idle
from vla_cl.methods.task_counting import TaskCountingMethod
from vla_cl.methods.teacher import Teacher, teacher_bytes
from vla_cl.types import Ability, Batch, ConfigurationError, Draw, Experience, MethodCard

Caching = Literal["auto", "always", "never"]
CACHINGS: tuple[Caching, ...] = ("auto", "always", "never")

Precision = Literal["float32", "float16"]
PRECISIONS: dict[Precision, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}


class LearningWithoutForgetting(TaskCountingMethod):
    """Loss + strength x distance between the outputs of student and teacher, on new samples only.

    A step costs a forward pass of the teacher on top. Where the model's outputs depend on the sample alone they are
    kept instead: after the first epoch a step costs what a plain one costs, and after the second the teacher is
    dropped. With several processes each sees other rows in each epoch, so there the teacher stays until the task ends.

    Args:
        strength: Weight of the distance (lambda); 0 is sequential fine-tuning.
        temperature: T of the distance, for models of tokens; others have none.
        cache: Whether the teacher's outputs are kept: ``auto``, where they are fixed (`Ability.FIXED_OUTPUTS`);
            ``always``, refused where they are not; ``never``.
        cache_precision: ``float16`` halves the cache; a kept value is then off by up to 0.05 % of itself (less than
            6e-8 near zero), and magnitudes above 65504 become infinite.
        cache_megabytes: The cache stops growing before it exceeds this; the teacher then answers for the other rows.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "lwf"
    card = MethodCard(
        title="Learning without forgetting",
        paradigm="regularisation",
        equation=(
            r"\ell_t(\theta) + \lambda\, D\left(f_\theta(x), f_{\theta_{t-1}}(x)\right), \quad "
            r"D = T^2\, \mathrm{KL}\left(p_{\theta_{t-1}}^{1/T} \,\|\, p_\theta^{1/T}\right) "
            r"\text{ or } \overline{(f_\theta - f_{\theta_{t-1}})^2}"
        ),
        source="Li & Hoiem, ECCV 2016, arXiv 1606.09282; T^2: Hinton et al. 2015, arXiv 1503.02531",
        step="1 + a forward pass; 1 after the first epoch where outputs are kept",
        memory="the teacher (4 bytes per trainable parameter), or its outputs for the task's samples",
        follows=(
            "the distance from the old model on new samples. Not followed: the paper's warm-up of new heads, "
            "since tasks share one output."
        ),
    )
    needs = frozenset({Ability.OUTPUTS})

    def __init__(
        self,
        strength: float = 1.0,
        temperature: float = 2.0,
        cache: Caching = "auto",
        cache_precision: Precision = "float32",
        cache_megabytes: float = 1024.0,
    ) -> None:
        check_strength("strength", strength)
        check_range("cache_megabytes", cache_megabytes, 0, MAX_MEGABYTES)
        check_temperature(temperature)
        if cache not in CACHINGS:
            raise ConfigurationError(f"method.cache must be one of {', '.join(CACHINGS)}; got {cache!r}")
        if cache_precision not in PRECISIONS:
            raise ConfigurationError(
                f"method.cache_precision must be one of {', '.join(PRECISIONS)}; got {cache_precision!r}"
            )
        if cache == "never":
            unused = {"cache_precision": cache_precision, "cache_megabytes": cache_megabytes}
            refuse_idle(type(self), unused, "cache", cache)
        elif not cache_megabytes:
            refuse_idle(
                type(self), {"cache": cache, "cache_precision": cache_precision}, "cache_megabytes", cache_megabytes
            )
        self.strength = strength
        self.temperature = temperature
        self.cache = cache
        self.cache_precision = cache_precision
        self.cache_megabytes = cache_megabytes
        self._teacher: Teacher | None = None
        self._kept: OutputCache | None = None

    @property
    def acts(self) -> bool:
        """Whether its settings ask for an edit."""
        return self.strength > 0

    def attach(self, model: Model, train_seed: int) -> None:
        """Meet the model.

        Raises:
            ConfigurationError: The model cannot be distilled, or its outputs are not fixed and ``cache`` is ``always``.
        """
        super().attach(model, train_seed)
        if self.cache == "always" and Ability.FIXED_OUTPUTS not in model.abilities:
            raise ConfigurationError(
                f"method.cache=always needs a model with {Ability.FIXED_OUTPUTS}, but what {model.name} gives in "
                "training also depends on noise or augmentation; use cache=auto"
            )

    def begin_task(self, experience: Experience) -> None:
        """Copy the teacher; nothing in the first task."""
        self._forget_teacher()
        if not self.tasks_learnt or not self.strength:
            return
        self._teacher = Teacher(self._student)
        if self.cache != "never" and Ability.FIXED_OUTPUTS in self.model.abilities:
            self._kept = OutputCache(PRECISIONS[self.cache_precision], round(self.cache_megabytes * 2**20))

    def loss(self, batch: Batch, draw: Draw) -> Tensor:
        """The loss and, from the second task on, the distance from the teacher, shape (B,)."""
        if self._teacher is None and self._kept is None:
            return self.model.loss(batch, draw)
        student = self._student.forward_pass(batch, draw)
        teacher = self._teacher_outputs(batch, draw, student.outputs)
        return student.losses + self.strength * self._student.distance(
            student.outputs, teacher, batch, self.temperature
        )

    def midway_state(self) -> dict[str, Tensor]:
        """The outputs that are kept: asked again in another batch, a teacher may differ in the last bit."""
        return {} if self._kept is None else self._kept.state_dict()

    def load_midway_state(self, state: Mapping[str, Tensor]) -> None:
        """Keep these outputs.

        Raises:
            ValueError: Nothing is kept here.
        """
        if self._kept is not None:
            self._kept.load_state_dict(state)
        elif state:
            raise ValueError(f"no outputs are kept in this task; got {sorted(state)[:4]}")

    def end_task(self, experience: Experience, data: Data) -> None:
        """The teacher has done its work: the next one is the model as it is now."""
        super().end_task(experience, data)
        self._forget_teacher()

    def memory_bytes(self) -> int:
        """Teacher and cache, as far as they are there; between tasks, the teacher that the next begins with."""
        if not self.strength:
            return 0
        if self._teacher is None and self._kept is None:
            return teacher_bytes(self._student) if self.tasks_learnt else 0
        return (self._teacher.bytes if self._teacher else 0) + (self._kept.bytes if self._kept else 0)

    @property
    def _student(self) -> Distillable:
        return cast(Distillable, self.model)

    def _forget_teacher(self) -> None:
        self._teacher, self._kept = None, None

    def _teacher_outputs(self, batch: Batch, draw: Draw, like: Tensor) -> Tensor:
        """The teacher's outputs, shaped as ``like``; only what is not kept is computed."""
        kept, teacher = self._kept, self._teacher
        if kept is None:
            return cast(Teacher, teacher).outputs(batch, draw)
        rows: list[int] = batch["index"].tolist()
        missing = [position for position, row in enumerate(rows) if not kept.has(row, like.shape[1:])]
        if not missing:
            if kept.enough_without_a_miss(len(rows)) and not _several_processes():
                self._teacher = None
            return kept.outputs(rows).to(like.dtype)
        if teacher is None:
            raise RuntimeError(
                f"{self.name}: rows {[rows[position] for position in missing][:5]} gave no outputs of shape "
                f"{tuple(like.shape[1:])} in the task's first epochs, and the teacher is gone; set method.cache=never"
            )
        part = batch if len(missing) == len(rows) else select(batch, np.asarray(missing))
        computed = teacher.outputs(part, Draw(draw.seed))
        kept.keep([rows[position] for position in missing], computed)
        if part is batch:
            return computed
        whole = torch.empty_like(like)
        there = sorted(set(range(len(rows))) - set(missing))
        whole[there] = kept.outputs([rows[position] for position in there]).to(whole.dtype)
        whole[missing] = computed.to(whole.dtype)
        return whole


class OutputCache:
    """A teacher's outputs by row of the experience's data.

    In each epoch every row comes once, so as many samples in a row as are kept, all of them found, say that all rows
    are here.

    Args:
        dtype: How they are kept.
        limit: Bytes that are never exceeded.
    """

    def __init__(self, dtype: torch.dtype, limit: int) -> None:
        self._dtype = dtype
        self._limit = limit
        self._rows: dict[int, Tensor] = {}
        self._fits = True
        self._found_since_miss = 0
        self.bytes = 0

    def state_dict(self) -> dict[str, Tensor]:
        """``rows.<n>`` and ``outputs.<n>``, for each shape n of an output, in the order in which they were kept."""
        of_shape: dict[torch.Size, list[int]] = {}
        for row, value in self._rows.items():
            of_shape.setdefault(value.shape, []).append(row)
        state: dict[str, Tensor] = {}
        for place, rows in enumerate(of_shape.values()):
            state |= {f"rows.{place}": torch.tensor(rows), f"outputs.{place}": self.outputs(rows)}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Keep what `state_dict` gave, and nothing else."""
        self._rows, self.bytes, self._fits = {}, 0, True
        for name, rows in state.items():
            if name.startswith("rows."):
                self.keep(rows.tolist(), state[f"outputs.{name.removeprefix('rows.')}"])

    def has(self, row: int, shape: torch.Size) -> bool:
        """Whether a row's outputs are kept in this shape."""
        found = self._rows.get(row)
        return found is not None and found.shape == shape

    def outputs(self, rows: list[int]) -> Tensor:
        """Those of these rows, shape (len(rows), ...)."""
        return torch.stack([self._rows[row] for row in rows])

    def enough_without_a_miss(self, found: int) -> bool:
        """Whether nobody needs to be asked any more, now that a batch of ``found`` samples was all here."""
        self._found_since_miss += found
        return self._fits and self._found_since_miss >= len(self._rows)

    def keep(self, rows: list[int], outputs: Tensor) -> None:
        """Remember as many as fit; a row that is there already, in whatever shape, keeps what it has."""
        self._found_since_miss = 0
        for row, value in zip(rows, outputs.to(self._dtype), strict=True):
            size = value.numel() * value.element_size()
            if row not in self._rows and self.bytes + size <= self._limit:
                self._rows[row] = value.clone()  # a view would keep the whole batch alive
                self.bytes += size
            elif row not in self._rows or self._rows[row].shape != value.shape:
                self._fits = False


def _several_processes() -> bool:
    """Whether each process sees only its share of an epoch's rows, other ones in each epoch."""
    return (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    )
