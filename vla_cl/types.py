"""The nouns everybody shares. Only typing needs torch here, so that simulator workers start quickly.

Conventions, fixed once:

* images are ``uint8``, height x width x 3, RGB, upright; inside a `Batch` they are stacked channels first;
* states and actions are ``float32`` in the suite's own units, never normalised (normalisation is the model's business);
* an *env step* executes one action; a *decision* predicts a chunk of actions; a *step* is an optimizer update.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import InitVar, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Batch = dict[str, Any]
"""What a model learns from: LeRobot's flat dictionary, B samples.

``observation.image`` or ``observation.images.<camera>``: uint8 (B, 3, H, W) tensor; ``observation.state``: float32
(B, S); ``action``: float32 (B, chunk_size, A), the actions from this frame on; ``action_is_pad``: bool (B, chunk_size),
True after the episode's end; ``task``: list of B instructions; ``index``: int64 (B,), the row in the experience's data.
Language and diffusion models have other features (see `vla_cl.models`); ``task`` and ``index`` are always there. Keys
that begin with ``method.`` are a method's own notes on each sample, from its `compose` to its `loss`; models pass over
them.
"""

METHOD_KEY = "method."
"""How the keys of a `Batch` begin that only methods read."""

Split = Literal["train", "select", "report"]
"""Three disjoint sets of initial states: for demonstrations, for choosing checkpoints, for the reported numbers."""


class ConfigurationError(ValueError):
    """The user asked for something that cannot be done; the message says what was expected, what came, and what to do.

    The command line prints the message alone and exits with status 2.
    """


@dataclass(frozen=True)
class Task:
    """Something that can be evaluated: an instruction, a goal test and initial states.

    Attributes:
        id: ``<suite>/<name>``, for example ``metaworld/drawer-open``.
        instruction: What the policy is told, in natural language.
        max_steps: Time limit of an episode, in env steps.
    """

    id: str
    instruction: str
    max_steps: int

    @property
    def suite(self) -> str:
        """The part of the id before the slash."""
        return self.id.split("/", 1)[0]

    @property
    def name(self) -> str:
        """The part of the id after the slash."""
        return self.id.split("/", 1)[1]


@dataclass(frozen=True)
class Observation:
    """What a policy sees when a decision is due.

    Attributes:
        images: Feature key (``observation.image``, ``observation.images.wrist``) to uint8 (H, W, 3).
        state: Proprioception, float32 (S,).
        instruction: The task in natural language.
    """

    images: Mapping[str, NDArray[np.uint8]]
    state: NDArray[np.float32]
    instruction: str


@dataclass(frozen=True)
class Transition:
    """What executing one action gave. Holds no image: rendering happens only when a decision is due."""

    reward: float
    success: bool
    ended: bool  # the episode is over: success, or the time limit


@dataclass(frozen=True)
class InterfaceSpec:
    """What a suite offers, a dataset holds or a policy expects; compared before anything runs.

    Attributes:
        cameras: Feature key to (height, width) in pixels.
        state_size: Length of ``observation.state``; 0 if there is none.
        action_size: Length of one action.
        render_profile: Look of the pictures (``reference``, ``fast``); None where it does not apply or is unknown.
        control_mode: What the part of an action means that moves the arm: ``relative``, by how much the hand's pose
            (position and rotation) shall change; ``absolute``, the hand's pose itself; ``relative_position`` and
            ``absolute_position``, the same without rotation. A suite that is driven otherwise uses a word of its own
            (``absolute_joints``, say). None if unknown.
        image_orientation: ``upright`` or ``upright_mirrored`` (left and right swapped, LIBERO's convention in
            LeRobot); None if unknown.
        fps: Frames, and so actions, per second; None if unknown.
        any_size: Of a policy: whether it brings pictures of any size to its own; else their sizes are compared.

    Render profile, control mode, orientation and rate are compared where both sides know theirs.
    """

    cameras: Mapping[str, tuple[int, int]]
    state_size: int
    action_size: int
    render_profile: str | None = None
    control_mode: str | None = None
    image_orientation: str | None = None
    fps: float | None = None
    any_size: bool = True

    @property
    def bytes_per_frame(self) -> int:
        """Bytes of one raw frame: pictures, state and one action."""
        pictures = sum(height * width * 3 for height, width in self.cameras.values())
        return pictures + 4 * (self.state_size + self.action_size)


@dataclass(frozen=True)
class SuiteSpec(InterfaceSpec):
    """A suite's conventions, declared.

    Attributes:
        fps: Env steps per simulated second.
        action_low: Smallest action, per dimension.
        action_high: Largest action, per dimension.
    """

    fps: int = 0
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()


class Outcome(StrEnum):
    """How an episode ended. A crashed episode is not a failed one."""

    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"


@dataclass(frozen=True)
class EpisodeRequest:
    """One episode to roll out: a task, where it starts and whether it is filmed."""

    task: Task
    split: Split
    initial_state: int
    film: bool = False


@dataclass(frozen=True)
class Episode:
    """One row of the episode table (see `vla_cl.rollout`)."""

    task: str
    split: Split
    initial_state: int
    outcome: Outcome
    env_steps: int
    decisions: int
    total_reward: float
    seconds: float
    error: str | None = None
    frames: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)  # (T, H, W, 3) if filmed


@dataclass(frozen=True)
class Trajectory:
    """The recorded steps of an episode; a demonstration if an expert gave it.

    Attributes:
        images: Feature key to uint8 (T, H, W, 3).
        states: float32 (T, S).
        actions: float32 (T, A); ``actions[t]`` was executed after ``images[k][t]`` and ``states[t]`` were observed.
    """

    task: Task
    initial_state: int
    images: Mapping[str, NDArray[np.uint8]]
    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    success: bool

    def __len__(self) -> int:
        """Number of env steps."""
        return len(self.actions)


@dataclass(frozen=True)
class Experience:
    """What the learner receives at one position of the stream: one or more tasks and where their data lie."""

    index: int
    name: str
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class Stream:
    """Ordered experiences.

    Attributes:
        independent: Every experience starts with model and method anew (a reference).
    """

    name: str
    experiences: tuple[Experience, ...]
    independent: bool = False

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Every task once, in the order of first appearance: the columns of the success matrix."""
        return tuple({task.id: task for experience in self.experiences for task in experience.tasks}.values())

    def __iter__(self) -> Iterator[Experience]:
        """Experiences in order."""
        return iter(self.experiences)

    def __len__(self) -> int:
        """Number of experiences."""
        return len(self.experiences)


class Ability(StrEnum):
    """What a model can give beyond its loss. A method says what it needs; where that lacks, a run does not start.

    * ``per_sample_losses``: its losses are one value per sample, not the batch's mean repeated;
    * ``outputs``: what it predicts can be compared with a teacher's (`Distillable`);
    * ``fixed_outputs``: its training outputs depend on the sample alone, neither on noise nor on augmentation, so a
      teacher's can be computed once and kept;
    * ``keyed_draws``: the noise of each sample can be chosen (`Draw.sample_seeds`), so that an output that was stored
      can be compared under the noise that it was computed with;
    * ``features``: an embedding of each sample;
    * ``modalities``: its inner features, by what is perceived (`ForwardPass.modalities`);
    * ``generation``: it can make up samples of a task that it has learnt (`Generator`).
    """

    PER_SAMPLE_LOSSES = "per_sample_losses"
    OUTPUTS = "outputs"
    FIXED_OUTPUTS = "fixed_outputs"
    KEYED_DRAWS = "keyed_draws"
    FEATURES = "features"
    MODALITIES = "modalities"
    GENERATION = "generation"


@dataclass(frozen=True)
class ForwardPass:
    """What one forward pass of a `Distillable` model gives, with gradient.

    Attributes:
        losses: One value per sample, shape (B,).
        outputs: What distillation compares (logits, noise, velocity, actions), shape (B, ...).
        modalities: Inner features by what is perceived (``vision``, ``text``, ``state``), each (B, D); empty for models
            without `Ability.MODALITIES`.
    """

    losses: Tensor
    outputs: Tensor
    modalities: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Roles:
    """What the parameters of a model are for, by their names in ``module.named_parameters()``.

    Attributes:
        forward: Every parameter, in the order in which the forward pass first uses it: the nearer to the input, the
            earlier.
        outputs: Those of the layers that give the final output. A weight that serves as input embedding too is one.
        idle: Those that have no influence on what the trained model does when it acts, such as an encoder of what it
            shall learn.
    """

    forward: tuple[str, ...]
    outputs: frozenset[str]
    idle: frozenset[str] = frozenset()


Paradigm = Literal["reference", "regularisation", "replay", "architecture"]
PARADIGMS: tuple[Paradigm, ...] = get_args(Paradigm)
"""How methods are grouped; a reference is what the others are compared with."""


@dataclass(frozen=True)
class MethodCard:
    """What docs/methods.md says of a method.

    Attributes:
        title: Its name in full.
        paradigm: One of `PARADIGMS`; regularisation, replay and architecture are those of the survey arXiv 2506.13045.
        equation: In LaTeX, without delimiters.
        source: Authors, year, arXiv number or venue.
        step: What a training step costs beyond a plain one, in theory.
        memory: What is kept of the past, in theory.
        follows: In one line, what of the source is followed and what is not.

    Raises:
        ConfigurationError: The paradigm is missing or unknown.
    """

    title: str
    equation: str
    source: str
    step: str
    memory: str
    follows: str
    paradigm: Paradigm | None = None
    family: InitVar[str | None] = None  # what cards of older plug-ins call the paradigm

    def __post_init__(self, family: str | None) -> None:
        allowed = ", ".join(map(repr, PARADIGMS))
        if family is not None:
            raise ConfigurationError(
                f"the MethodCard of {self.title!r} gives family={family!r}, which is called paradigm now; write "
                f"paradigm= with one of {allowed}"
            )
        if self.paradigm not in PARADIGMS:
            raise ConfigurationError(
                f"the MethodCard of {self.title!r} needs paradigm= with one of {allowed}; got {self.paradigm!r}"
            )


@dataclass(frozen=True)
class Draw:
    """The randomness of one stochastic loss: augmentation, noise, time, dropout.

    A model evaluates its loss with its random state seeded from ``seed`` and puts the previous state back, so a teacher
    and a student of one architecture that get the same draw see the same noise, whatever policy it is.

    Attributes:
        seed: Of the whole batch.
        sample_seeds: One non-negative number per sample, int64 (B,), or None. If given, the noise and the time (not the
            augmentation) of a sample follow from its own number alone, whatever batch it is in; only models with
            `Ability.KEYED_DRAWS` can do that, and others refuse it.
    """

    seed: int
    sample_seeds: NDArray[np.int64] | None = None
