"""Does somebody else's method continue exactly? It is stopped and continued on a small model, in seconds.

The methods of this package are held to that by tests; one of a plug-in is tried before a run of it starts. A bit that
differs is a proof, so a method that saves what matters is never refused.
"""

from __future__ import annotations

import copy
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vla_cl.interfaces import Method, Model
from vla_cl.trust.text import harmless
from vla_cl.types import ConfigurationError

if TYPE_CHECKING:
    from torch import Tensor

    from vla_cl.testbeds.bed import Bed
    from vla_cl.training.learning import Learning

BEDS = ("policy_regression", "language")
"""Small models to try on, in this order: the second one can make up samples, which some methods need."""

_STOP = 3
"""Of the steps of an experience on a bed: where it is left and continued."""

_FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_MOST = 5
_DEEPEST = 4

Weights = Mapping[str, "Tensor"]


def is_of_a_plugin(part: object) -> bool:
    """Whether a part's class comes from outside this package, whose own tests do not know it."""
    return type(part).__module__.partition(".")[0] != "vla_cl"


def require_continuable(method: Method) -> str | None:
    """Refuse a plug-in's method that would end with other weights if the run were stopped and continued.

    Args:
        method: As built from the settings, not attached; it stays as it is.

    Returns:
        A sentence if it could not be tried; None if it was, or needs no trial: a method of this package, or one that
        begins with another run's memory.

    Raises:
        ConfigurationError: As `try_continuing`.
    """
    return try_continuing(method) if is_of_a_plugin(method) and method.reuses is None else None


def try_continuing(method: Method) -> str | None:
    """Learn two experiences of a few steps each, then again, stopped behind the first one and within the second one.

    Args:
        method: As built from the settings, not attached; it stays as it is.

    Returns:
        A sentence if the method does not work on a small model; None if it continues exactly.

    Raises:
        ConfigurationError: Its saved state cannot be loaded, or other weights come out; the attributes are named.
    """
    import torch

    unknown = "so nobody knows yet whether a run with it continues exactly"
    with tempfile.TemporaryDirectory(prefix="vla-cl-method-") as folder, torch.random.fork_rng(devices=[]):
        trial = _begun(method, Path(folder))
        if trial is None:
            return f"method {method.name!r} fits none of the small models, {unknown}"
        try:
            whole = trial.learnt()
        except _FAILURES as error:  # it may need what only the real model has
            return f"method {method.name!r} fails on a small model ({_words(error)}), {unknown}"
        trial.require_same(whole)
    return None


def _begun(method: Method, folder: Path) -> _Trial | None:
    """A trial on the first bed that the method accepts."""
    from vla_cl.testbeds import BEDS as KNOWN

    for name in BEDS:
        trial = _Trial(KNOWN[name](), method, folder)
        try:
            trial.attached()
        except ConfigurationError:  # the real model is asked in its turn, and that refusal is shown
            continue
        return trial
    return None


@dataclass
class _Whole:
    """What two experiences without a stop have left.

    Attributes:
        border: Weights, tensors and plain data behind the first experience.
        behind_border: The method's attributes there.
        place: Weights and the state of learning after `_STOP` steps of the second one.
        within: The method's attributes there.
        end: The last weights.
    """

    border: tuple[Weights, Weights, dict[str, object]]
    behind_border: dict[str, object]
    place: tuple[Weights, Weights]
    within: dict[str, object]
    end: Weights


class _Trial:
    def __init__(self, bed: Bed, method: Method, folder: Path) -> None:
        self._bed, self._method, self._folder = bed, method, folder

    def attached(self) -> tuple[Model, Method]:
        """A new model, and the method as a run begins with it."""
        model, method = self._bed.make_model(0), copy.deepcopy(self._method)
        method.attach(model, 0)
        method.open(self._folder)
        return model, method

    def learnt(self) -> _Whole:
        """Two experiences without a stop."""
        model, method = self.attached()
        list(self._learning(model, method, 0))
        border = _copied(model.module.state_dict()), _copied(method.state_dict()), copy.deepcopy(method.extra_state())
        behind_border = attributes(method)
        learning = self._learning(model, method, 1)
        for report in learning:
            if report.step == _STOP:
                place, within = (_weights(model), _copied(learning.state_dict())), attributes(method)
        return _Whole(border, behind_border, place, within, _weights(model))

    def require_same(self, whole: _Whole) -> None:
        """Continue twice; the last weights must be the same.

        Raises:
            ConfigurationError: They are not.
        """
        fresh = attributes(self.attached()[1])
        model, method = self._continued(whole)
        kept = attributes(method)
        list(self._learning(model, method, 1))
        if not same(_weights(model), whole.end):
            lost = [name for name in _unlike(whole.behind_border, kept) if same(kept.get(name), fresh.get(name))]
            raise self._refusal(lost, "state_dict (tensors) or extra_state (plain data)", "load_state_dict")
        model, method = self._continued(whole)
        learning = self._learning(model, method, 1)
        self._loaded(learning.continue_at, _STOP, *whole.place)
        steps = iter(learning)
        next(steps)
        lost = _unlike(whole.within, attributes(method))
        list(steps)
        if not same(_weights(model), whole.end):
            raise self._refusal(lost, "midway_state", "load_midway_state")

    def _continued(self, whole: _Whole) -> tuple[Model, Method]:
        model, method = self.attached()
        weights, tensors, extra = whole.border
        model.module.load_state_dict(weights)
        past = iter([(self._bed.stream.experiences[0], self._bed.data[0])])
        self._loaded(method.load_state_dict, _copied(tensors), copy.deepcopy(extra), past)
        return model, method

    def _loaded(self, load: Callable[..., None], *state: object) -> None:
        """Restore, as a run that continues does.

        Raises:
            ConfigurationError: The method does not take back what it gave.
        """
        try:
            load(*state)
        except _FAILURES as error:
            raise ConfigurationError(
                f"method {self._method.name!r} cannot be continued after a stop: {load.__name__} does not take what "
                f"it saved ({_words(error)}); docs/plugins.md shows both sides"
            ) from error

    def _learning(self, model: Model, method: Method, index: int) -> Learning:
        from vla_cl.training.learning import Learning

        bed = self._bed
        first = index * bed.tiny.steps
        return Learning(model, method, bed.stream.experiences[index], bed.data[index], bed.tiny, 0, first)

    def _refusal(self, lost: Sequence[str], where: str, load: str) -> ConfigurationError:
        named = " and ".join(lost[:_MOST]) or "something beside its attributes, random numbers perhaps,"
        changes = "change" if len(lost) > 1 else "changes"
        return ConfigurationError(
            f"method {self._method.name!r} ends with other weights when its run is stopped and continued: {named} "
            f"{changes} while it learns and is not saved; give it in {where}, and restore it in {load}"
        )


def attributes(method: Method) -> dict[str, object]:
    """What a method holds beside its model, as plain copies that `same` compares."""
    return {name: _plain(value, 0) for name, value in vars(method).items() if not isinstance(value, Model)}


def _plain(value: object, depth: int) -> object:
    """A copy of tensors and plain data in containers and objects, down to `_DEEPEST`; of anything else its type."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, str | bytes | int | float | complex | None):
        return value
    if isinstance(value, np.ndarray):
        return value.tolist()
    if depth < _DEEPEST and isinstance(value, Mapping):
        return {str(key): _plain(inner, depth + 1) for key, inner in value.items()}
    if depth < _DEEPEST and isinstance(value, list | tuple | deque):
        return [_plain(inner, depth + 1) for inner in value]
    if depth < _DEEPEST and isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if depth < _DEEPEST and isinstance(value, torch.nn.Module):
        return {name: tensor.detach().clone() for name, tensor in value.state_dict().items()}
    return type(value).__name__


def same(one: object, other: object) -> bool:
    """Whether two are equal, tensors bit for bit."""
    import torch

    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def _unlike(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    return [name for name in one if name not in other or not same(one[name], other[name])]


def _copied(tensors: Weights) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _weights(model: Model) -> dict[str, Tensor]:
    return _copied(model.module.state_dict())


def _words(error: Exception) -> str:
    return harmless(f"{type(error).__name__}: {' '.join(str(error).split())}", 100)
