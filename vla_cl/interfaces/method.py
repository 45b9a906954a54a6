"""A continual-learning method: edits to the one training loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_cl.interfaces.data import Data
from vla_cl.interfaces.model import Model
from vla_cl.types import Ability, Batch, ConfigurationError, Draw, Experience, MethodCard, Task

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer


class Method:
    """A continual-learning method: a set of edits to the one training loop in `vla_cl.training.learning`.

    Unedited, it is sequential fine-tuning. The loop calls, in this order: `begin_task`; for each phase `begin_phase`;
    each step `compose`, `loss`, backward, `edit_gradients`, clipping, the optimizer, `after_step`; then `end_task`. The
    method never calls the optimizer.
    """

    name: str = "method"

    card: MethodCard | None = None
    """For the documentation."""

    needs: frozenset[Ability] = frozenset()
    """What the model must be able to give."""

    task_id_at_test: bool = False
    """Whether the model must be told which task it is evaluated on (`select_task`)."""

    @property
    def acts(self) -> bool:
        """Whether its settings ask for any edit at all; where they do not, it is sequential fine-tuning."""
        return True

    @property
    def works_alone(self) -> bool:
        """Whether it acts on a first experience; if not, it is refused where no run has a second one."""
        return False

    def bytes_beside_a_sample(self, outputs: int) -> int:
        """Bytes kept beside each remembered sample, of a model that gives so many numbers for one."""
        return 0

    @property
    def reuses(self) -> Path | None:
        """A folder with another run's memory that it begins with (`adopt`); None if there is none.

        Raises:
            ConfigurationError: The settings name a folder that holds none.
        """
        return None

    def require_length(self, experiences: int) -> None:
        """Be told how many experiences come; refuse more than the settings allow, before anything is learnt."""

    def attach(self, model: Model, train_seed: int) -> None:
        """Meet the model, once, before the first task.

        A method that would change nothing on this model refuses it here.

        Raises:
            ConfigurationError: The model lacks what the method needs, or nothing of it is trained.
        """
        if missing := sorted(self.needs - model.abilities):
            raise ConfigurationError(
                f"method {self.name!r} needs a model with {' and '.join(missing)}, which {model.name} has not (it has "
                f"{', '.join(sorted(model.abilities)) or 'none'}); docs/methods.md lists what works with it"
            )
        if not any(parameter.requires_grad for parameter in model.module.parameters()):
            raise ConfigurationError(
                f"nothing of {model.name} is trained: each of its parameters is frozen; unfreeze some, for example by "
                "the policy's own settings"
            )
        self.model = model
        self.train_seed = train_seed

    def open(self, folder: Path) -> None:
        """Where files of its own may lie, within the run's folder; called before anything is learnt or restored."""

    def adopt(self, data: Data) -> None:
        """Remember another run's memory, which lies in `reuses`; called after `attach`."""

    def committed(self) -> None:
        """A checkpoint of the present state is on the disk: files that only earlier ones named may go.

        With several processes, only one calls it, while the others do not write.
        """

    def begin_task(self, experience: Experience) -> None:
        """Before the first step: grow an adapter, keep a teacher, build a basis."""

    def phases(self, steps: int) -> Sequence[tuple[str, int]]:
        """Split the task's budget of optimizer steps into named phases; the parts add up to ``steps``."""
        return [("learn", steps)]

    def begin_phase(self, name: str) -> None:
        """Before the first step of a phase."""

    def make_optimizer(self, groups: list[dict[str, Any]], learning_rate: float, weight_decay: float) -> Optimizer:
        """The optimizer of a phase, for `Model.parameter_groups`, with the schedule's peak and a decoupled decay.

        The loop sets its learning rates by the schedule and calls it.
        """
        from torch.optim import AdamW

        return AdamW(groups, lr=learning_rate, weight_decay=weight_decay)

    def compose(self, batch: Batch, step: int) -> Batch:
        """What to learn from: replay mixes the memory in. ``step`` counts from the start of the stream.

        What `loss` shall know of a sample goes into the batch (`vla_cl.types.METHOD_KEY`): processes share its samples.
        """
        return batch

    def loss(self, batch: Batch, draw: Draw) -> Tensor:
        """One value per sample, shape (B,); penalties are added to each."""
        return self.model.loss(batch, draw)

    def edit_gradients(self) -> None:
        """After backward, before clipping."""

    def after_step(self) -> None:
        """After the optimizer."""

    def end_task(self, experience: Experience, data: Data) -> None:
        """After the last step: importances, memory, pruning, merging, a new skill."""

    def midway_state(self) -> dict[str, Tensor]:
        """What steps change within a task, beside weights and optimizer, and what a phase has made of the weights.

        Whatever lives from one step to another belongs here: a choice that serves several steps, a sum, a cache.
        What `begin_task` makes does not: a run that continues within a task calls that again first.
        ``tests/contract/test_continued_within_a_task.py`` holds every method to it.
        """
        return {}

    def load_midway_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue within a task; `begin_task` and `begin_phase` have been called for what is past.

        Raises:
            ValueError: It is not what `midway_state` gives.
        """
        if state:
            raise ValueError(f"{type(self).__name__} keeps nothing within a task; got {sorted(state)[:5]}")

    def select_task(self, task: Task | None) -> None:
        """Serve one task of the past, around evaluations if `task_id_at_test`; None: all of what is being learnt."""

    def memory_bytes(self) -> int:
        """Bytes kept of the past beyond the model itself."""
        return 0

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors that a resume needs; `extra_state` holds the rest."""
        return {}

    def extra_state(self) -> dict[str, object]:
        """Plain data (JSON) that a resume needs."""
        return {}

    def load_state_dict(
        self, state: Mapping[str, Tensor], extra: Mapping[str, object], past: Iterator[tuple[Experience, Data]]
    ) -> None:
        """Continue after a resume. ``past`` gives the experiences already learnt, with their data, in order.

        Raises:
            ValueError: The checkpoint holds state that this method does not keep.
        """
        if state or extra:
            kept = sorted(state) + sorted(extra)
            raise ValueError(f"{type(self).__name__} keeps no state, but the checkpoint holds {kept}")
