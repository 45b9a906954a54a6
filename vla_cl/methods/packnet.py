"""PackNet: each task gets weights of its own, found by pruning, and nobody changes them afterwards.

Mallya and Lazebnik, "PackNet: adding multiple tasks to a single network by iterative pruning", CVPR 2018, arXiv
1711.05769. Weights of linear layers and convolutions have an owner, the task that keeps them. A task trains what nobody
owns, keeps the largest weights of each tensor and trains these once more, the others being zero. Task k is served with
the weights of tasks 1 to k, so the model must be told which task it serves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import AdamW, Optimizer

from vla_cl.interfaces import Data, Method, Model
from vla_cl.methods.checked_settings import check_part
from vla_cl.methods.parameter_patterns import Freezer
from vla_cl.methods.prunable import prunable
from vla_cl.methods.saved_state import lists_of_texts, require_alike, require_keys
from vla_cl.methods.task_buffers import TaskBuffers
from vla_cl.types import Batch, ConfigurationError, Experience, MethodCard, Task

TRAIN_REST = ("first_task", "never")
MAX_TASKS = 255
FREE = 0
_OWNER = "owner."


class PackNet(Method):
    """Weights owned by tasks.

    What is not the weight of a linear layer or a convolution (biases, normalisation, embeddings) is the same for all
    tasks, so it learns in the first one or never. Running statistics of batch normalisation stand still with it. All
    other buffers (running statistics of other normalisations, codebooks, singular vectors of spectral normalisation,
    averages, counters) are kept as each task left them and put in with its weights, so that what a task was served with
    is the same to the bit for ever. State in Python attributes of a network cannot be seen and is not kept. Under
    spectral normalisation the weights behind the normalised ones are pruned.

    Args:
        prune_share: Share of a tensor's unowned weights that a task gives back, rounded down (LIBERO: 0.75). With p,
            the tasks get 1 - p, (1 - p) p, (1 - p) p^2, ... of all weights; the last weight of a tensor is never given
            back, so each tensor is used up some day.
        retrain_share: Share of a task's steps after pruning (LIBERO: as many as before).
        train_rest: When everything else learns: ``first_task``, or ``never`` (as biases and normalisation in LIBERO,
            whose embeddings learn always).

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "packnet"
    task_id_at_test = True
    card = MethodCard(
        title="PackNet",
        paradigm="architecture",
        equation=r"g \leftarrow g \odot [\mathrm{owner} = \mathrm{free}],\quad"
        r"\theta_k = \theta \odot [1 \le \mathrm{owner} \le k]",
        source="Mallya and Lazebnik, CVPR 2018, arXiv 1711.05769",
        step="1, and a mask of 1 byte per weight read twice",
        memory="1 byte per weight of linear layers and convolutions, for any number of tasks; the buffers that tasks "
        "changed",
        follows=(
            "masks, pruning by size and retraining. Ours: biases, normalisation and embeddings learn in the "
            "first task or never; decay spares owned weights."
        ),
    )

    def __init__(self, prune_share: float = 0.75, retrain_share: float = 0.3, train_rest: str = "first_task") -> None:
        check_part("prune_share", prune_share)
        check_part("retrain_share", retrain_share)
        if train_rest not in TRAIN_REST:
            raise ConfigurationError(f"method.train_rest must be one of {', '.join(TRAIN_REST)}; got {train_rest!r}")
        self.prune_share = prune_share
        self.retrain_share = retrain_share
        self.train_rest = train_rest
        self._experiences = 1  # that will come, as far as known
        self.learnt: list[list[str]] = []  # the ids of the tasks of each experience
        self._now: list[str] | None = None  # those of the experience that is being learnt
        self._trains = FREE
        self._masks: dict[str, Tensor] = {}  # where a weight learns in this phase: 1 or 0; made when first asked for
        self._aside: dict[str, Tensor] = {}
        self._freezer = Freezer()
        self._norms: list[_BatchNorm] = []

    def require_length(self, experiences: int) -> None:
        """Refuse more tasks than a byte can number, and a second one if the first keeps everything.

        Raises:
            ConfigurationError: There are more.
        """
        if experiences > 1 and self.prune_share == 0:
            raise ConfigurationError(
                f"method.prune_share is 0, so the first task would keep every weight, but the stream has {experiences} "
                "experiences; raise method.prune_share"
            )
        if experiences > MAX_TASKS:
            raise ConfigurationError(
                f"method 'packnet' numbers at most {MAX_TASKS} tasks, but the stream has {experiences} experiences; "
                "learn fewer, or several tasks in one experience"
            )
        self._experiences = experiences

    @property
    def acts(self) -> bool:
        """Whether its settings ask for an edit."""
        return self.prune_share > 0 or self.train_rest == "never"

    @property
    def works_alone(self) -> bool:
        """The first task's weights are pruned too."""
        return self.acts

    def attach(self, model: Model, train_seed: int) -> None:
        """Meet the model; nobody owns a weight yet.

        Raises:
            ConfigurationError: It has no weights that could be owned, too few to prune or for every task of the stream,
                or some that are computed from other parameters.
        """
        super().attach(model, train_seed)
        self._weights = prunable(model.module)
        if not self._weights:
            raise ConfigurationError("method 'packnet' needs a model with linear layers or convolutions that learn")
        self._require_enough()
        if self.prune_share and not any(self._given_back(p.numel()) for p in self._weights.values()):
            raise ConfigurationError(
                f"method 'packnet' would prune nothing: method.prune_share is {self.prune_share:g}, less than one "
                f"weight of any layer of {model.name}; raise it"
            )
        self._buffers = TaskBuffers(model.module)
        self.owners = {name: torch.zeros_like(p, dtype=torch.uint8) for name, p in self._weights.items()}

    def begin_task(self, experience: Experience) -> None:
        """Free weights learn; everything else does if it may.

        Raises:
            ConfigurationError: No weight is free any more.
        """
        self.select_task(None)
        number = len(self.learnt) + 1
        free = sum(int((owner == FREE).sum()) for owner in self.owners.values())
        if not free:
            raise self._nothing_left(repr(experience.name), number)
        if number > MAX_TASKS:
            raise ConfigurationError(
                f"method 'packnet' numbers at most {MAX_TASKS} tasks, and {experience.name!r} is one more; learn "
                "several tasks in one experience"
            )
        self._now = [task.id for task in experience.tasks]
        self._train(FREE)
        frozen = number > 1 or self.train_rest == "never"
        mine = {id(parameter) for parameter in self._weights.values()}
        self._freezer.freeze(p for p in self.model.module.parameters() if frozen and id(p) not in mine)
        self._norms = [m for m in self.model.module.modules() if frozen and isinstance(m, _BatchNorm)]

    def _require_enough(self) -> None:
        """Count ahead what each task gives back of each tensor, as `_prune` does.

        Raises:
            ConfigurationError: Some task of the stream would find no free weight.
        """
        free = [parameter.numel() for parameter in self._weights.values()]
        for number in range(2, self._experiences + 1):
            free = [self._given_back(count) for count in free]
            if not any(free):
                raise self._nothing_left(f"task {number} of {self._experiences}", number)

    def _given_back(self, free: int) -> int:
        """How many of the free weights of a tensor a task gives back."""
        return math.floor(self.prune_share * free)

    def _nothing_left(self, task: str, number: int) -> ConfigurationError:
        before = "the task before owns" if number == 2 else f"the {number - 1} tasks before own"
        return ConfigurationError(
            f"method 'packnet' has nothing left for {task}: {before} every weight of {self.model.name}; raise "
            f"method.prune_share (now {self.prune_share}), so that each task keeps less"
        )

    def phases(self, steps: int) -> Sequence[tuple[str, int]]:
        """``learn``, then ``retrain`` what is kept; at least one step of the first."""
        retrain = min(round(self.retrain_share * steps), steps - 1)
        return [("learn", steps - retrain), ("retrain", retrain)]

    def begin_phase(self, name: str) -> None:
        """Prune before what is kept learns once more."""
        if name == "retrain":
            self._prune(len(self.learnt) + 1)

    def make_optimizer(self, groups: list[dict[str, Any]], learning_rate: float, weight_decay: float) -> Optimizer:
        """AdamW that neither moves nor shrinks what does not learn."""
        names = {id(parameter): name for name, parameter in self._weights.items()}
        return _OwnedAdamW(groups, learning_rate, weight_decay, lambda parameter: self._mask(names.get(id(parameter))))

    def compose(self, batch: Batch, step: int) -> Batch:
        """The batch, unedited; batch normalisation that no longer learns uses its running statistics."""
        for norm in self._norms:
            norm.eval()
        return batch

    def edit_gradients(self) -> None:
        """No gradient for weights that are not being trained."""
        for name, parameter in self._weights.items():
            if parameter.grad is not None and (mask := self._mask(name)) is not None:
                parameter.grad.mul_(mask)

    def midway_state(self) -> dict[str, Tensor]:
        """Who owns each weight: the second phase begins with pruning."""
        return {_OWNER + name: owner for name, owner in self.owners.items()}

    def load_midway_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue with these owners.

        Raises:
            ValueError: They are those of another model.
        """
        require_alike("PackNet", state, self.midway_state())
        for name, owner in self.owners.items():
            owner.copy_(state[_OWNER + name])
        self._masks = {}

    def end_task(self, experience: Experience, data: Data) -> None:
        """From now on these weights are this experience's."""
        self.learnt.append([task.id for task in experience.tasks])
        self._buffers.note()
        self._now = None
        self._masks = {}
        self._freezer.thaw()
        self._norms = []

    @torch.no_grad()
    def select_task(self, task: Task | None) -> None:
        """Serve a task: set the weights to zero that were not there when it was learnt, put its buffers in.

        None puts all back, bit for bit.

        A task that was learnt several times is served as it was learnt last; one that is being learnt, or was never
        learnt, with all weights.
        """
        for name, weights in self._aside.items():
            self._weights[name].copy_(weights)
        self._aside = {}
        self._buffers.put_back()
        if task is None or task.id in (self._now or ()):
            return
        found = [number for number, ids in enumerate(self.learnt, start=1) if task.id in ids]
        if not found:
            return
        for name, parameter in self._weights.items():
            others = (self.owners[name] == FREE) | (self.owners[name] > found[-1])
            self._aside[name] = parameter.detach().clone()
            parameter.masked_fill_(others, 0)
        self._buffers.serve(found[-1])

    def _train(self, owner: int) -> None:
        """From now on the weights of this owner learn."""
        self._trains = owner
        self._masks = {}

    def _mask(self, name: str | None) -> Tensor | None:
        """1 where a weight learns, 0 elsewhere, kept while a phase lasts; None where all learn, or nobody owns any."""
        if name is None or (not self.learnt and self._trains == FREE):
            return None
        if name not in self._masks:
            self._masks[name] = (self.owners[name] == self._trains).to(self._weights[name].dtype)
        return self._masks[name]

    @torch.no_grad()
    def _prune(self, number: int) -> None:
        """Give the largest free weights of each tensor to a task; the others are zero, and free for the next."""
        for name, parameter in self._weights.items():
            owner = self.owners[name]
            free = owner == FREE
            count = int(free.sum())
            kept = count - self._given_back(count)
            sizes = parameter.abs().masked_fill(~free, -1).flatten()
            owner.view(-1)[torch.topk(sizes, kept, sorted=False).indices] = number
            parameter.masked_fill_(owner == FREE, 0)
        self._train(number)

    def memory_bytes(self) -> int:
        """The owners, 1 byte per weight of linear layers and convolutions, and the buffers that tasks changed."""
        return sum(owner.numel() for owner in self.owners.values()) + self._buffers.bytes

    def state_dict(self) -> dict[str, Tensor]:
        """The owner of each weight, ``owner.<parameter>``: 0 for nobody, else the number of the experience from 1.

        And the buffers that tasks changed, ``buffer.<experience>.<name>``, 0 being before them.
        """
        return {_OWNER + name: owner for name, owner in self.owners.items()} | self._buffers.state_dict()

    def extra_state(self) -> dict[str, object]:
        """Which tasks each experience had, which buffers they changed, and which of these came into being later."""
        absent, shapes = self._buffers.absent(), self._buffers.shapes()
        more: dict[str, object] = {"absent": absent, "buffers": shapes}
        return {"learnt": [list(ids) for ids in self.learnt]} | {key: value for key, value in more.items() if value}

    def load_state_dict(
        self, state: Mapping[str, Tensor], extra: Mapping[str, object], past: Iterator[tuple[Experience, Data]]
    ) -> None:
        """Continue with the same owners and buffers.

        Raises:
            ValueError: The checkpoint is another method's, or of another model, or weights are owned by tasks that
                have not been learnt.
        """
        require_keys("PackNet", extra, {"learnt"} | (extra.keys() & {"absent", "buffers"}))
        learnt = lists_of_texts("learnt", extra["learnt"])
        buffers = {name: tensor for name, tensor in state.items() if name.startswith("buffer.")}
        owners = {name: tensor for name, tensor in state.items() if name not in buffers}
        require_alike("PackNet", owners, {_OWNER + name: owner for name, owner in self.owners.items()})
        numbers = {
            number
            for owner in owners.values()
            for number in torch.bincount(owner.flatten()).nonzero().flatten().tolist()
        }
        if numbers - {FREE} != set(range(1, len(learnt) + 1)):
            raise ValueError(
                f"each of the {len(learnt)} tasks learnt owns weights and nobody else does, but the checkpoint holds "
                f"weights of {sorted(numbers - {FREE})[:8]}"
            )
        self._buffers.load(buffers, extra.get("absent", []), extra.get("buffers", {}), len(learnt))
        for name, owner in self.owners.items():
            owner.copy_(state[_OWNER + name])
        self.learnt = learnt
        self._masks = {}


class _OwnedAdamW(AdamW):
    """torch's AdamW, with weight decay for what learns only.

    Adam moves nothing whose gradient has always been zero, but decay shrinks it all the same.

    Args:
        groups: Of parameters, as for any optimizer.
        learning_rate: Of groups without their own.
        weight_decay: Decoupled, of groups without their own.
        learning: Where a parameter learns, 1 or 0, of its shape and type; None where it learns everywhere.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        learning_rate: float,
        weight_decay: float,
        learning: Callable[[Tensor], Tensor | None],
    ) -> None:
        decays = [group.get("weight_decay", weight_decay) for group in groups]
        super().__init__([{**group, "weight_decay": 0.0} for group in groups], lr=learning_rate)
        for group, decay in zip(self.param_groups, decays, strict=True):
            group["decay_of_learning"] = decay
        self._learning = learning

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # noqa: ANN401
        """Decay, then Adam, as AdamW does."""
        for group in self.param_groups:
            factor = 1 - group["lr"] * group["decay_of_learning"]
            for parameter in group["params"]:
                if parameter.grad is None or factor == 1:
                    continue
                learning = self._learning(parameter)
                if learning is None:
                    parameter.mul_(factor)
                else:
                    parameter.lerp_(parameter * factor, learning)  # to the bit either the one or the other
        return super().step(closure)
