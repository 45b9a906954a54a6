"""Rows ``step-<method>`` of ``vla-cl bench methods``: a method's training step against a plain one.

What theory says a step must cost is put together from passes measured in the same turns: a plain step, a forward pass,
a forward and backward pass, also of a larger batch; and from the rates of memory and of arithmetic, measured once. The
goal bounds measured over theoretical time, and bytes kept over theoretical bytes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vla_cl.bench.measuring import ratio, readable, say
from vla_cl.bench.method_grounds import Ground, of_bed
from vla_cl.bench.method_theory import SLACK, SMALLER_SLACK, Circumstances, theory
from vla_cl.bench.rows import CannotRunError, Figure, Gate, Result, RowSettings
from vla_cl.config.compose import build, compose
from vla_cl.interfaces import Data, Method, Model
from vla_cl.training.learning import Learning, TrainingSettings
from vla_cl.training.step_report import StepReport
from vla_cl.types import Batch, Draw, Experience, InterfaceSpec, Task

PAST = 3
"""Experiences learnt before the one that is timed."""

BATCH = 64
WARM, BLOCK = 6, 4
_PIXELS, _STATE, _ACTION = 96, 4, 4
_PREFIX = "step-"
_PRUNABLE = (nn.Linear, nn.Conv1d, nn.Conv2d)


def step(settings: RowSettings) -> Result:
    """Time the method that the row is named after."""
    name, _, bed = settings.name.removeprefix(_PREFIX).partition("-")
    turns = 2 if settings.quick else 10
    batch = 8 if settings.quick else BATCH
    ground = of_bed(bed) if bed else _of_nano_vla(batch, settings.quick)
    ours, plain = _Side(name, batch, ground), _Side("sequential", batch, ground)
    if missing := ours.missing:
        raise CannotRunError(f"{name} needs {' and '.join(missing)}, which {ground.title} does not have")
    ours.learn_the_past()
    plain.learn_the_past()
    mine, theirs, whole = [], [], []
    parts, rates = _Parts(plain.model, ground.data[-1], batch), _rates()
    before = [Figure("before a task", round(_seconds(ours.prepare), 2), "s")] if bed else []
    ours.begin((turns + 1) * BLOCK + WARM)
    plain.begin((turns + 1) * BLOCK + WARM)
    for turn in range(turns):
        theirs.append(plain.block())
        mine.append(ours.block())
        passes = Passes(theirs[-1] / BLOCK, **parts.seconds(), **rates)
        due = theory(ours.settings, ours.circumstances(passes))
        whole.append(BLOCK * due.seconds)
        say(f"turn {turn + 1} of {turns}: plain {theirs[-1] / BLOCK:.4f} s, {name} {mine[-1] / BLOCK:.4f} s per step")
    found = ratio(theirs, mine)  # how many plain steps a step costs
    excess = ratio(whole, mine)
    kept = ours.method.memory_bytes()
    fits = kept <= SLACK * due.bytes if due.bytes else kept == 0
    slack = SMALLER_SLACK.get(name, SLACK)
    return Result(
        compares=f"a step of {name} after {ground.past} tasks, batch {batch}, {ground.title} "
        f"({ours.parameters:,} parameters), "
        "against a plain step",
        gate=Gate("the method keeps to its memory", fits, f"{kept:,} bytes, theory {due.bytes:,.0f}"),
        ratio=found,
        figures=[
            Figure("measured over theory", excess.median, "x"),
            Figure("theory over plain", ratio(theirs, whole).median, "x"),
            Figure("plain step", round(1e3 * float(np.median(theirs)) / BLOCK, 1), "ms"),
            Figure("kept", kept, "bytes"),
            Figure("kept in theory", round(due.bytes), "bytes"),
            *before,
        ],
        holds=excess.median <= slack and fits,
        profile={"theory": due.words, "forward pass": readable(passes.forward), "plain step": readable(passes.step)},
        others={"measured over theory": excess},
        notes="" if excess.low <= slack else f"Above {slack} of theory: [{excess.low}, {excess.high}].",
    )


@dataclass(frozen=True)
class Passes:
    """Seconds of the parts that theory puts together, of one model at one batch size.

    Attributes:
        step: A plain step: loading, forward, backward, clipping, AdamW.
        forward: The loss of a batch, without gradient.
        both: The loss and its gradient.
        double: Loss and gradient of a batch of twice the size.
        bandwidth: Bytes read and written per second by adding one large tensor to another.
        reading: Bytes per second of summing one large tensor: what is written back travels beside what is read, so that
            reading alone moves fewer bytes per second.
        flops: Multiplications and additions per second of a large product of matrices.
    """

    step: float
    forward: float
    both: float
    double: float
    bandwidth: float
    reading: float
    flops: float


class _Parts:
    """Passes of a model that is learning, timed between its steps."""

    def __init__(self, model: Model, data: Data, batch: int) -> None:
        small, large = (data.batch(np.arange(size) % len(data)) for size in (batch, 2 * batch))
        parameters = [parameter for parameter in model.module.parameters() if parameter.requires_grad]

        def gradient(values: Batch) -> None:
            torch.autograd.grad(model.loss(values, Draw(0)).mean(), parameters, allow_unused=True)

        def forward() -> None:
            with torch.no_grad():
                model.loss(small, Draw(0))

        self._kinds = {"forward": forward, "both": lambda: gradient(small), "double": lambda: gradient(large)}
        self.seconds()  # once in vain

    def seconds(self) -> dict[str, float]:
        """Of each part, once."""
        return {name: _seconds(part) for name, part in self._kinds.items()}


class _Side:
    """A model, a method and their data."""

    def __init__(self, name: str, batch: int, ground: Ground) -> None:
        self.settings: Mapping[str, Any] = compose([f"method={name}"])["method"]
        self.model = ground.make_model()
        self.method = build(self.settings, Method)
        self.missing = sorted(self.method.needs - self.model.abilities)
        self.batch = batch
        self.parameters = sum(parameter.numel() for parameter in self.model.module.parameters())
        self._ground = ground
        self._steps: Iterator[StepReport]

    def learn_the_past(self) -> None:
        self.method.attach(self.model, 0)
        short = TrainingSettings(steps=4, batch_size=8)
        for index, experience in enumerate(self._ground.experiences[:-1]):
            for _ in Learning(self.model, self.method, experience, self._ground.data[index], short, 0, 4 * index):
                pass

    def prepare(self) -> None:
        """What the method does before the first step of the task that is timed."""
        self.method.begin_task(self._ground.experiences[-1])

    def circumstances(self, passes: Passes) -> Circumstances:
        linear = [part for part in self.model.module.modules() if isinstance(part, nn.Linear)]
        weights = [part.weight for part in self.model.module.modules() if isinstance(part, _PRUNABLE)]
        return Circumstances(
            **asdict(passes),
            parameters=self.parameters,
            split_products=sum(2 * part.weight.numel() * min(part.weight.shape) for part in linear),
            prunable=sum(weight.numel() for weight in weights),
            past=self._ground.past,
            batch=self.batch,
            samples_per_task=len(self._ground.data[0]),
            bytes_per_sample=self._ground.data[0].bytes_per_sample,
            values_per_output=16 * _ACTION,
        )

    def begin(self, steps: int) -> None:
        settings = TrainingSettings(steps=steps, batch_size=self.batch)
        timed, data = self._ground.experiences[-1], self._ground.data[-1]
        self._steps = iter(Learning(self.model, self.method, timed, data, settings, 0, 4 * self._ground.past))
        for _ in range(WARM):
            next(self._steps)

    def block(self) -> float:
        """Seconds of `BLOCK` steps."""
        began = time.perf_counter()
        for _ in range(BLOCK):
            next(self._steps)
        return time.perf_counter() - began


class Pictures(Data):
    """Random pictures, states and actions in memory: what they show does not matter to the time a step takes."""

    def __init__(self, rows: int, seed: int, pixels: int) -> None:
        generator = np.random.default_rng(seed)
        self._images = torch.from_numpy(generator.integers(0, 256, (rows, 3, pixels, pixels), dtype=np.uint8))
        self._states = torch.from_numpy(generator.standard_normal((rows, _STATE)).astype(np.float32))
        self._actions = torch.from_numpy(generator.uniform(-1, 1, (rows, 16, _ACTION)).astype(np.float32))
        self._task = f"task {seed}"

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._states)

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """The samples of these rows."""
        chosen = torch.from_numpy(np.asarray(rows, dtype=np.int64))
        return {
            "index": chosen,
            "task": [self._task] * len(chosen),
            "observation.image": self._images[chosen],
            "observation.state": self._states[chosen],
            "action": self._actions[chosen],
            "action_is_pad": torch.zeros(len(chosen), 16, dtype=torch.bool),
        }

    @property
    def bytes_per_sample(self) -> int:
        """Picture, state, one action."""
        return self._images[0].numel() + 4 * (_STATE + _ACTION)

    @property
    def episode_of_row(self) -> NDArray[np.int64]:
        """Episodes of 16 frames."""
        return np.arange(len(self)) // 16


def nano_vla(quick: bool, **changes: object) -> Model:
    """The default NanoVLA for `Pictures`, a tiny one if ``quick``; ``changes`` are fields of its configuration."""
    from vla_cl.models.vla import VlaModel, policy_config

    pixels = 32 if quick else _PIXELS
    small = {"vision_channels": [8, 16, 32], "hidden_size": 64, "image_size": pixels} if quick else {}
    fields = {key: value for key, value in compose([])["policy"].items() if key != "type"} | small | changes
    spec = InterfaceSpec({"observation.image": (pixels, pixels)}, _STATE, _ACTION)
    config = policy_config("nano_vla", fields, spec, "cpu")
    one = np.ones(4, dtype=np.float32)
    unit = {"mean": 0 * one, "std": one, "min": -one, "max": one}
    return VlaModel.new(config, {"observation.state": unit, "action": unit}, init_seed=0)


def _of_nano_vla(batch: int, quick: bool) -> Ground:
    """NanoVLA on random pictures, after `PAST` tasks."""
    pixels = 32 if quick else _PIXELS
    data = [Pictures(4 * batch, seed=index, pixels=pixels) for index in range(PAST + 1)]
    return Ground("NanoVLA", lambda: nano_vla(quick), [_experience(index) for index in range(PAST + 1)], data)


def _experience(index: int) -> Experience:
    return Experience(index, f"task {index}", (Task(f"bench/{index}", f"task {index}", 100),))


def _seconds(part: Any) -> float:  # noqa: ANN401 - any callable
    began = time.perf_counter()
    part()
    return time.perf_counter() - began


def _rates() -> dict[str, float]:
    """Bytes per second of tensors that no cache holds; multiplications and additions of matrices of 512 rows."""
    left, right, matrix = torch.ones(2**27), torch.ones(2**27), torch.ones(512, 512)
    added = min(_seconds(lambda: left.add_(right)) for _ in range(5))
    summed = min(_seconds(left.sum) for _ in range(5))
    multiplied = min(_seconds(lambda: matrix @ matrix) for _ in range(20))
    return {"bandwidth": 12 * len(left) / added, "reading": 4 * len(left) / summed, "flops": 2 * 512**3 / multiplied}
