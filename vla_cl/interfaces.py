"""What one can add: a model, a policy, a suite, a method. A new one is a new file and a yaml.

Only typing needs torch here: simulator workers import this module and must start quickly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.types import (
    Ability,
    Batch,
    ConfigurationError,
    Draw,
    Experience,
    ForwardPass,
    InterfaceSpec,
    MethodCard,
    Observation,
    Roles,
    Split,
    SuiteSpec,
    Task,
    Transition,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.optim import Optimizer


class Environment(ABC):
    """One simulated world for one task. Made and used inside one process."""

    @abstractmethod
    def reset(self, initial_state: int) -> None:
        """Start an episode from a numbered initial state: the same number gives the same world, bit for bit."""

    @abstractmethod
    def step(self, action: NDArray[np.float32]) -> Transition:
        """Execute one action, shape (A,), without rendering."""

    def execute(self, actions: NDArray[np.float32]) -> Iterable[Transition]:
        """Execute actions, shape (K, A), one transition each, until they are used up or the episode has ended.

        A simulator that is faster when it is given many actions at once overrides this; the transitions are those of
        `step`, one after another. After the episode's end the world may stand where the rest of the actions led.
        """
        for action in actions:
            transition = self.step(action)
            yield transition
            if transition.ended or transition.success:
                return

    @abstractmethod
    def observe(self) -> Observation:
        """Render every camera and read the state."""

    @abstractmethod
    def state(self) -> NDArray[np.float32]:
        """Proprioception, shape (S,), without rendering."""

    @abstractmethod
    def film(self) -> NDArray[np.uint8]:
        """A picture for people, uint8 (H, W, 3)."""

    @abstractmethod
    def close(self) -> None:
        """Free the simulator and its renderer."""


class Expert(ABC):
    """A scripted or privileged policy that demonstrates a task."""

    @abstractmethod
    def act(self, environment: Environment) -> NDArray[np.float32]:
        """The action for the environment's present state, shape (A,), inside the action range."""


class Suite(ABC):
    """Tasks that share simulator, observation and action spaces; has no order.

    Constructing a suite imports no simulator; `make_environment` and `make_expert` do. It can be sent to a worker.
    """

    name: str

    @property
    @abstractmethod
    def spec(self) -> SuiteSpec:
        """Cameras, sizes, action range, render profile."""

    @abstractmethod
    def tasks(self) -> Sequence[Task]:
        """Every task."""

    @abstractmethod
    def initial_states(self, split: Split, count: int) -> Sequence[int]:
        """The first ``count`` initial states of a split; the three splits never share one.

        Raises:
            ConfigurationError: The suite has fewer.
        """

    @abstractmethod
    def make_environment(self, task: Task) -> Environment:
        """Build the world of a task."""

    def make_expert(self, task: Task) -> Expert:
        """The task's scripted expert, for suites that have them."""
        raise ConfigurationError(
            f"suite {self.name!r} has no scripted experts (asked for {task.id}); give a stream of recorded datasets"
        )

    def fingerprint(self) -> Mapping[str, object]:
        """All that decides what a recorded episode looks like: versions of the simulator, cameras, render profile."""
        spec = self.spec
        return {"suite": self.name, "cameras": dict(spec.cameras), "render_profile": spec.render_profile}


class Model(ABC):
    """Anything with a loss: a policy, a language model, a diffusion model. Wraps a `torch.nn.Module`."""

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """What is trained; its ``parameters()`` are what a method may regularise, mask or grow."""

    @abstractmethod
    def loss(self, batch: Batch, draw: Draw) -> Tensor:
        """One value per sample, shape (B,); the caller reduces."""

    @abstractmethod
    def features(self, batch: Batch) -> Tensor:
        """An embedding for routers and selection, shape (B, D), without gradient."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write everything inference needs into ``folder``, in the format of the model's own ecosystem."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the parameters live."""

    @property
    def abilities(self) -> frozenset[Ability]:
        """What this model can give beyond its loss; must not change during a run."""
        return frozenset({Ability.PER_SAMPLE_LOSSES, Ability.FEATURES})

    @property
    def name(self) -> str:
        """What messages call it."""
        return type(self).__name__

    def roles(self) -> Roles | None:
        """What its parameters are for; None if it does not tell.

        Raises:
            ConfigurationError: It tells of its kind, but this one has parameters that it does not know.
        """
        return None

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Optimizer groups of what is trainable; a group may set its own ``lr``."""
        return [{"params": [p for p in self.module.parameters() if p.requires_grad], "lr": learning_rate}]

    def independent_samples(self) -> AbstractContextManager[None]:
        """Inside, no computation is shared between samples, so that each layer's batch dimension is the samples'.

        For gradients per sample; a model that computes something once for several samples (an instruction that they
        share) overrides this.
        """
        return nullcontext()


class Distillable(Model):
    """A model whose outputs can be compared with a teacher's."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names of `ForwardPass.modalities`, told before there is one; none without `Ability.MODALITIES`."""
        return ()

    @abstractmethod
    def forward_pass(self, batch: Batch, draw: Draw) -> ForwardPass:
        """Losses, outputs and inner features from one forward pass."""

    @abstractmethod
    def distance(self, student: Tensor, teacher: Tensor, batch: Batch, temperature: float = 2.0) -> Tensor:
        """How far a student's outputs are from a teacher's, one value per sample, shape (B,); zero where they agree.

        The mean squared difference of actions, velocities or noise, over what is not padding. For tokens T^2 times the
        Kullback-Leibler divergence from teacher to student at ``temperature`` T (Hinton et al. 2015, arXiv 1503.02531),
        averaged over the tokens that are learnt from.
        """

    def outputs(self, batch: Batch, draw: Draw) -> Tensor:
        """What distillation compares, shape (B, ...)."""
        return self.forward_pass(batch, draw).outputs

    def answer_as_teacher(self, student_is_training: bool) -> None:
        """Put the module into the mode in which it answers as a teacher: evaluation mode (Li & Hoiem 2016).

        A model whose inputs depend on the mode (augmentation) overrides this, so that teacher and student see the same
        inputs under the same draw.
        """
        self.module.eval()


class Generator(Model):
    """A model that can make up samples of what it has learnt."""

    @abstractmethod
    def generate(self, tasks: Sequence[str], seed: int) -> Batch:
        """One new sample for each entry of ``tasks`` (the ``task`` of the samples to imitate), as a `Batch`.

        A pure function of the weights, the tasks and the seed.
        """


class Policy(Model):
    """A model that acts."""

    @property
    @abstractmethod
    def spec(self) -> InterfaceSpec:
        """Cameras, state and action sizes that the policy expects."""

    @property
    @abstractmethod
    def chunk_size(self) -> int:
        """Actions predicted at once."""

    @abstractmethod
    def act(self, observations: Sequence[Observation]) -> NDArray[np.float32]:
        """A chunk of actions for each observation, in the suite's units, shape (B, chunk_size, A).

        An observation's chunk does not depend on what else is in the batch.
        """


class Data(ABC):
    """The data of one experience: random access to samples by row number."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples (frames)."""

    @abstractmethod
    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """The samples of these rows, in this order (see `vla_cl.types.Batch`)."""

    @property
    @abstractmethod
    def bytes_per_sample(self) -> int:
        """Bytes of one raw sample."""

    @property
    @abstractmethod
    def episode_of_row(self) -> NDArray[np.int64]:
        """The episode that each row belongs to, shape (len(self),)."""


class Method:
    """A continual-learning method: a set of edits to the one training loop in `vla_cl.train`.

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
