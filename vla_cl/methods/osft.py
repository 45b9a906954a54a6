"""OSFT: the large singular directions of each weight matrix are frozen, the small ones learn.

"Sculpting subspaces: constrained full fine-tuning in LLMs for continual learning", ICLR 2026, arXiv 2504.07097. Each
weight is split, W = U_h S_h V_h + U_l S_l V_l; U_l, S_l, V_l learn, with gradients projected off U_h and V_h. Before
task t of T the largest (t - 1) / T of the directions are frozen. The layers are PEFT's (`peft.tuners.osf`).
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vla_cl.interfaces import Data, Model
from vla_cl.methods.checked_settings import check_count, check_share, checked_shares, refuse_idle
from vla_cl.methods.parameter_patterns import checked_patterns, roles_of
from vla_cl.methods.task_counting import TaskCountingMethod
from vla_cl.trust.text import counted
from vla_cl.types import ConfigurationError, Experience, MethodCard

Output = Literal["split", "frozen", "trained"]
OUTPUTS: tuple[Output, ...] = ("split", "frozen", "trained")
_ADAPTER = "default"

UNTOLD_TASKS = 10
"""How many tasks are taken to come where neither the settings nor a run tell."""


class OrthogonalSubspaceFineTuning(TaskCountingMethod):
    """PEFT's OSF layers while a task is learnt, plain weights between tasks.

    The first task is learnt plainly; so is a layer of which no direction is to be frozen yet. Linear layers inside
    `torch.nn.MultiheadAttention` are not split, since their weights are read past their `forward`; nor is one whose
    weight is shared (a tied output layer) or computed (spectral normalisation). Buffers are left to the model.

    The paper and PEFT split the projections of attention and feed-forward layers of language models; PEFT leaves the
    output layer out, which its ``all-linear`` finds in transformers' language models only, and freezes it. Here every
    linear layer is split unless ``target`` or ``output`` says otherwise, since a policy whose output layer stands still
    after the first task learns little.

    Args:
        tasks: T, how many tasks will come; at task t the share (t - 1) / T is frozen. Null: as many as the stream has,
            which a run tells (`require_length`); whoever does not tell gets ten.
        effective_rank: A constant share to freeze from the second task on instead, of the smaller side of each matrix
            (PEFT's own default is 0.5); 0 is sequential fine-tuning.
        rank_schedule: The shares to freeze instead, one per task from the first on; the last holds for all that follow.
        target: Patterns of the names of the linear layers to split; null: all.
        output: What becomes of the layers that give the output, which the model tells
            (`vla_cl.interfaces.Model.roles`): ``split`` as all others (nobody asks the model), ``frozen`` after the
            first task, or ``trained`` freely.
        train_rest: Whether everything else (biases, normalisation, embeddings, convolutions) learns in later tasks;
            PEFT freezes it.
        exact: Whether U_l and V_l themselves are projected after each step. PEFT projects their gradients alone, which
            Adam's scaling, entry by entry, turns back into the frozen directions.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "osft"
    card = MethodCard(
        title="Orthogonal subspace fine-tuning (OSFT)",
        paradigm="regularisation",
        equation=r"W = U_h S_h V_h + U_l S_l V_l,\quad dU_l \leftarrow (I - U_h U_h^\top)\, dU_l,"
        r"\quad dV_l \leftarrow dV_l\, (I - V_h^\top V_h)",
        source="ICLR 2026, arXiv 2504.07097; layers of PEFT",
        step="at most 3 times the products of the split layers: W, U_l V_l and what these were",
        memory="0",
        follows=(
            "the split and the projection, with PEFT's layers. Ours: `exact` also projects the factors after each step."
        ),
    )

    def __init__(
        self,
        tasks: int | None = None,
        effective_rank: float | None = None,
        rank_schedule: Sequence[float] | None = None,
        target: Sequence[str] | None = None,
        output: Output = "split",
        train_rest: bool = False,
        exact: bool = True,
    ) -> None:
        if tasks is not None:
            check_count("tasks", tasks)
        if effective_rank is not None and rank_schedule is not None:
            raise ConfigurationError("method.effective_rank and method.rank_schedule exclude each other; give one")
        if effective_rank is not None:
            check_share("effective_rank", effective_rank)
        if output not in OUTPUTS:
            raise ConfigurationError(f"method.output must be one of {', '.join(OUTPUTS)}; got {output!r}")
        self._announced = tasks
        for setting, shares in (("effective_rank", effective_rank), ("rank_schedule", rank_schedule)):
            if shares is not None:
                refuse_idle(type(self), {"tasks": tasks}, setting, shares)
        self.tasks = UNTOLD_TASKS if tasks is None else tasks
        self.effective_rank = effective_rank
        self.rank_schedule = checked_shares("rank_schedule", rank_schedule)
        self.target = checked_patterns("target", target)
        self.output = output
        self.train_rest = train_rest
        self.exact = exact
        self._layers: dict[str, Any] = {}  # name of a linear layer to PEFT's layer in its place
        self._frozen: list[nn.Parameter] = []
        self._outputs: frozenset[str] = frozenset()

    @property
    def acts(self) -> bool:
        """Whether its settings ask for an edit."""
        if self.rank_schedule is not None:
            return any(self.rank_schedule)
        return self._announced != 1 if self.effective_rank is None else self.effective_rank > 0

    @property
    def works_alone(self) -> bool:
        """Only where the first task's share is given and not 0."""
        return self.rank_schedule is not None and self.rank_schedule[0] > 0

    def attach(self, model: Model, train_seed: int) -> None:
        """Meet the model.

        Raises:
            ConfigurationError: A pattern matches no linear layer, or some task would freeze no direction of any.
        """
        super().attach(model, train_seed)
        names = _linear_layers(model.module)
        for pattern in self.target or ():
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ConfigurationError(
                    f"method.target: no linear layer matches {pattern!r}; they are {', '.join(names) or 'none'}"
                )
        if self.output != "split":
            self._outputs = roles_of(model, self.name, "set method.output=split").outputs
        sides = [min(layer.weight.shape) for layer in self._targets().values()]
        for task, share in enumerate(self._shares(), start=1):
            if share and not sides:
                raise ConfigurationError(
                    f"method 'osft' would freeze nothing: no linear layer of {model.name} is trained and may be split; "
                    "train more of it, or name other layers in method.target"
                )
            if share and not int(share * max(sides)):
                raise ConfigurationError(
                    f"method 'osft' would freeze nothing in task {task}: {share:g} of the {max(sides)} directions of "
                    f"the largest linear layer of {model.name} that is trained and may be split is below one; train "
                    "or target larger layers, or set method.effective_rank higher"
                )

    def require_length(self, experiences: int) -> None:
        """Take the stream's length for ``tasks`` where that is null; refuse what does not fit it.

        Refused are more tasks than ``tasks`` divides the directions between, and a schedule that freezes nothing.

        Raises:
            ConfigurationError: There are more, or ``rank_schedule`` freezes nothing in any task of the stream.
        """
        told = max(experiences, 2)  # a stream of one experience may grow
        if self.rank_schedule is not None and not any(self.rank_schedule[:told]):
            raise ConfigurationError(
                f"method.rank_schedule is 0 for all of {counted(experiences, 'experience')}, so method 'osft' would "
                "change nothing; raise a share, or use method=sequential"
            )
        if self._announced is None:
            self.tasks = told
        if self.rank_schedule is None and self.effective_rank is None and experiences > self.tasks:
            raise ConfigurationError(
                f"method.tasks is {self.tasks}, but the stream has {experiences} experiences and nothing may learn "
                f"after number {self.tasks}; set method.tasks={experiences}, or null for the stream's length"
            )

    def frozen_share(self, task: int) -> float:
        """The share of directions that is frozen while the ``task``-th task is learnt (the first is 1).

        Raises:
            ConfigurationError: There are more tasks than were announced.
        """
        if self.rank_schedule is not None:
            return self.rank_schedule[min(task, len(self.rank_schedule)) - 1]
        if task == 1:
            return 0.0
        if self.effective_rank is not None:
            return self.effective_rank
        if task > self.tasks:
            raise ConfigurationError(
                f"method.tasks is {self.tasks}, but task {task} begins and nothing may learn in it"
            )
        return (task - 1) / self.tasks

    def begin_task(self, experience: Experience) -> None:
        """Split the weights."""
        share = self.frozen_share(self.tasks_learnt + 1)
        layers = self._targets()
        ranks = {name: int(share * min(layer.weight.shape)) for name, layer in layers.items()}
        if not any(ranks.values()):
            return
        from peft.tuners.osf import Linear, OSFConfig

        learning = [parameter for parameter in self.model.module.parameters() if parameter.requires_grad]
        plain = {id(layer.weight) for name, layer in layers.items() if not ranks[name]}
        if self.output == "trained":
            plain |= {id(p) for name, p in self.model.module.named_parameters() if name in self._outputs}
        for name, layer in layers.items():
            if ranks[name]:
                split = Linear(layer, _ADAPTER, config=OSFConfig(), effective_rank=ranks[name])
                split.register_forward_pre_hook(_pass_on)
                split.train(layer.training)
                self.model.module.set_submodule(name, split)
                self._layers[name] = split
        weights = {id(split.get_base_layer().weight) for split in self._layers.values()}
        if self.output == "frozen":
            weights |= {id(p) for name, p in self.model.module.named_parameters() if name in self._outputs}
        self._frozen = [p for p in learning if id(p) in weights or not (self.train_rest or id(p) in plain)]
        for parameter in self._frozen:
            parameter.requires_grad_(False)

    def after_step(self) -> None:
        """Keep U_l and V_l orthogonal to what is frozen."""
        if self.exact:
            for split in self._layers.values():
                _project(split)

    def end_task(self, experience: Experience, data: Data) -> None:
        """Plain weights again, under their names."""
        for name, split in self._layers.items():
            with torch.no_grad():
                split.merge()
            split._detach_hooks()  # they refer to the layer, which else waits for the garbage collector
            self.model.module.set_submodule(name, split.get_base_layer())
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._layers, self._frozen = {}, []
        super().end_task(experience, data)

    def _shares(self) -> list[float]:
        """Of each task, up to that behind which no share is smaller."""
        if self.rank_schedule is not None:
            return list(self.rank_schedule)
        tasks = 2 if self.effective_rank is not None else min(2, self.tasks)
        return [self.frozen_share(task) for task in range(1, tasks + 1)]

    def _targets(self) -> dict[str, nn.Linear]:
        """Name to layer, of those that may be split."""
        return {
            name: layer
            for name, layer in _linear_layers(self.model.module).items()
            if f"{name}.weight" not in self._outputs
            and (self.target is None or any(fnmatchcase(name, pattern) for pattern in self.target))
        }


def _linear_layers(module: nn.Module) -> dict[str, nn.Linear]:
    """Name to linear layer, for those whose weight learns, is their own and is used by their own `forward` alone."""
    inside = {id(part) for m in module.modules() if isinstance(m, nn.MultiheadAttention) for part in m.modules()}
    uses: dict[int, int] = {}
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    return {
        name: part
        for name, part in module.named_modules()
        if name and isinstance(part, nn.Linear) and id(part) not in inside
        if "weight" in part._parameters  # else it is computed from other parameters
        and part.weight.requires_grad
        and uses[id(part.weight)] == 1
    }


@torch.no_grad()
def _project(split: Any) -> None:  # noqa: ANN401 - PEFT's layer is untyped
    """Take the frozen directions out of U_l and V_l.

    Where U_h is square with U_l, PEFT does not keep it: U_l U_l^T of the beginning is the same projection.
    """
    factors = split.osf_svd_params[_ADAPTER]
    columns: Tensor = factors["U_low"]
    rows: Tensor = factors["V_low"]
    if _ADAPTER in split._osf_U_high:
        frozen = split._osf_U_high[_ADAPTER]
        columns -= frozen @ (frozen.T @ columns)
    else:
        kept = split._osf_U_low_init[_ADAPTER]
        columns.copy_(kept @ (kept.T @ columns))
    if _ADAPTER in split._osf_V_high:
        frozen = split._osf_V_high[_ADAPTER]
        rows -= (rows @ frozen.T) @ frozen
    else:
        kept = split._osf_V_low_init[_ADAPTER]
        rows.copy_((rows @ kept.T) @ kept)


def _pass_on(module: nn.Module, arguments: Any) -> None:  # noqa: ANN401 - torch's signature
    """Does nothing; a hook keeps torch's transformer layers from reading a linear layer's weight past its `forward`."""
