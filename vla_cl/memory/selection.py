"""Which units of an experience are worth most: the interface of the rules in `vla_cl.memory.rules`.

A rule puts units (frames, windows or trajectories) in an order of worth; the memory keeps the beginning of it. When
another task needs the room, a memory forgets from the end of that order, so shrinking needs neither data nor luck.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from vla_cl.interfaces import Data, Model
from vla_cl.memory import rules
from vla_cl.memory.settings import SETTING, Unit, nearest
from vla_cl.random_numbers import Purpose, generator, number
from vla_cl.types import Ability, Batch, ConfigurationError, Draw

_ROWS_AT_ONCE = 64
_ROWS_OF_A_MEAN = 512


@dataclass(frozen=True)
class Units:
    """What a memory can keep of an experience: runs of consecutive rows of one episode.

    Attributes:
        rows: Every row of the data, episode by episode, shape (len(data),).
        starts: Where each unit begins in ``rows``, shape (U,).
        stops: Where it ends, exclusive, shape (U,).
        episodes: The episode of each unit, shape (U,).
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    episodes: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of units."""
        return len(self.starts)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Frames of each unit, shape (U,)."""
        return self.stops - self.starts

    def rows_of(self, unit: int) -> NDArray[np.int64]:
        """The rows of a unit, in time."""
        return self.rows[self.starts[unit] : self.stops[unit]]

    def means(self, per_row: NDArray[Any]) -> NDArray[np.float64]:
        """Mean of each unit of values per row of ``rows``, shape (len(rows), ...) to (U, ...)."""
        sums = np.add.reduceat(per_row.astype(np.float64), self.starts, axis=0)
        return np.asarray(sums / self.lengths.reshape(-1, *[1] * (per_row.ndim - 1)))


def cut(data: Data, unit: Unit, window: int) -> Units:
    """Cut an experience's data into units; windows follow one another without overlap."""
    episode_of_row = np.asarray(data.episode_of_row)
    rows = np.argsort(episode_of_row, kind="stable")
    sorted_episodes = episode_of_row[rows]
    length = {"frame": 1, "window": window, "trajectory": max(1, len(rows))}[unit]
    begins = np.flatnonzero(np.diff(sorted_episodes, prepend=-1))
    place = np.arange(len(rows)) - np.repeat(begins, np.diff([*begins, len(rows)]))
    starts = np.flatnonzero(place % length == 0)
    return Units(rows, starts, np.append(starts[1:], len(rows)), sorted_episodes[starts])


class Candidates:
    """What a rule may look at, computed when it asks.

    Args:
        data: The experience's.
        units: What can be kept of it.
        limit: How many units of the order can matter; the rest may be left out.
        seed: Of the run.
        experience: Index of the experience; what is drawn is a pure function of it and the seed.
        model: Just after it learnt the experience; None if the method gave none.
    """

    def __init__(
        self, data: Data, units: Units, limit: int, seed: int, experience: int, model: Model | None = None
    ) -> None:
        self.data = data
        self.units = units
        self.limit = min(limit, len(units))
        self._seed = seed
        self._experience = experience
        self._model = model

    def __len__(self) -> int:
        """Number of units."""
        return len(self.units)

    def generator(self) -> np.random.Generator:
        """Fresh randomness, the same at every call."""
        return generator(self._seed, Purpose.SELECTION, self._experience)

    @cached_property
    def instructions(self) -> NDArray[np.int64]:
        """A number for each unit's instruction, in the order of first appearance, shape (U,)."""
        episodes, first = np.unique(self.units.episodes, return_index=True)
        texts = []
        for part in _parts(self.units.rows[self.units.starts[first]]):
            texts += self.data.batch(part)["task"]
        numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        of_episode = np.asarray([numbers[text] for text in texts])
        return of_episode[np.searchsorted(episodes, self.units.episodes)]

    @cached_property
    def phase(self) -> NDArray[np.float64]:
        """Where the middle of each unit lies in its episode, above 0 and below 1, shape (U,)."""
        first, last = _ends_of_episodes(self.units)
        middle = (self.units.starts + self.units.stops) / 2
        return np.asarray((middle - first) / (last - first))

    def per_frame(self, name: str) -> NDArray[np.float32]:
        """A column of the data (``states``, ``actions``), of every row of ``units.rows``, shape (len(rows), size).

        Raises:
            ConfigurationError: The data have none.
        """
        if name not in self.data.columns:
            raise ConfigurationError(f"{SETTING}.selection=keyframes needs data with {name}; these have none")
        return np.asarray(self.data.column(name), dtype=np.float32)[self.units.rows]

    @cached_property
    def features(self) -> NDArray[np.float64]:
        """Mean of the model's features over each unit, shape (U, D).

        Raises:
            ConfigurationError: There is no model, or it has no features.
        """
        return self.units.means(features_of(with_ability(self._model, Ability.FEATURES), self.data, self.units.rows))

    @cached_property
    def losses(self) -> NDArray[np.float64]:
        """Mean of the model's loss over each unit, in evaluation mode and under fixed noise, shape (U,).

        Raises:
            ConfigurationError: There is no model, or it has no losses per sample.
        """
        model = with_ability(self._model, Ability.PER_SAMPLE_LOSSES)
        found = []
        with _evaluating(model), torch.no_grad():
            for place, part in enumerate(_parts(self.units.rows)):
                seed = number(self._seed, Purpose.SELECTION_LOSS, self._experience, place)
                found.append(model.loss(self.data.batch(part), Draw(seed)).float().cpu().numpy())
        return self.units.means(np.concatenate(found))


def with_ability(model: Model | None, ability: Ability) -> Model:
    """The model, if it is there and can do that.

    Raises:
        ConfigurationError: It cannot.
    """
    if model is None or ability not in model.abilities:
        who = "the method gave none" if model is None else f"{model.name} has not"
        raise ConfigurationError(
            f"{SETTING}: this needs a model with {ability}, but {who}; choose another {SETTING}.selection, split or "
            "encoding"
        )
    return model


class Rule(ABC):
    """An order of worth. A new rule is a file in `vla_cl.memory.rules` with one subclass, named like the file.

    Constructor arguments are its settings (``method.memory.selection_settings``), all with defaults.
    """

    @abstractmethod
    def order(self, candidates: Candidates) -> NDArray[np.int64]:
        """Numbers of different units, the worthiest first; at least ``candidates.limit`` of them."""


def rule_names() -> list[str]:
    """Every rule that there is a file for."""
    return sorted(module.name for module in pkgutil.iter_modules(rules.__path__))


def rule_named(name: str, settings: Mapping[str, Any]) -> Rule:
    """Construct a rule.

    Raises:
        ConfigurationError: There is no rule of this name, or it does not take these settings.
    """
    if not isinstance(settings, Mapping):
        raise ConfigurationError(f"{SETTING}.selection_settings must be a mapping of settings; got {settings!r}")
    if name not in rule_names():
        raise ConfigurationError(f"{SETTING}.selection: no rule {name!r}; {nearest(str(name), rule_names())}")
    module = importlib.import_module(f"{rules.__name__}.{name}")
    own = [item for item in vars(module).values() if inspect.isclass(item) and item.__module__ == module.__name__]
    kind: type[Rule] = next(item for item in own if issubclass(item, Rule))
    known = list(inspect.signature(kind).parameters)
    for setting in settings:
        if setting not in known:
            what = nearest(str(setting), known) if known else "it has none"
            raise ConfigurationError(f"{SETTING}.selection_settings: {name!r} has no setting {setting!r}; {what}")
    return kind(**settings)


class Samples(Protocol):
    """Whatever gives samples by row: data, or what is remembered of them."""

    def batch(self, rows: NDArray[np.int64], /) -> Batch:
        """The samples of these rows, in this order."""


def mean_feature(model: Model | None, samples: Samples, rows: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Mean of the model's features, shape (D,), over at most 512 of the rows, evenly spaced; None for no rows.

    Raises:
        ConfigurationError: There is no model, or it has no features.
    """
    if not len(rows):
        return None
    places = np.unique(np.linspace(0, len(rows) - 1, min(_ROWS_OF_A_MEAN, len(rows))).round().astype(np.int64))
    found = features_of(with_ability(model, Ability.FEATURES), samples, rows[places])
    return np.asarray(found.astype(np.float64).mean(0))


def features_of(model: Model, data: Samples, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """The model's features of some rows, in evaluation mode, shape (len(rows), D)."""
    with _evaluating(model), torch.no_grad():
        found = [model.features(data.batch(part)).float().cpu().numpy() for part in _parts(rows)]
    return np.concatenate(found)


def round_robin(groups: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The first of each group, then the second of each, and so on; each group already is in its own order."""
    if not groups:
        return np.empty(0, dtype=np.int64)
    turn = np.concatenate([np.arange(len(group)) for group in groups])
    return np.concatenate(list(groups))[np.argsort(turn, kind="stable")]


class _evaluating:  # noqa: N801 - a context manager, used like a function
    """The model's module in evaluation mode; afterwards each of its modules is as it was."""

    def __init__(self, model: Model) -> None:
        self._modules = list(model.module.modules())
        self._modes = [module.training for module in self._modules]

    def __enter__(self) -> None:
        for module in self._modules:
            module.training = False

    def __exit__(self, *_: object) -> None:
        for module, mode in zip(self._modules, self._modes, strict=True):
            module.training = mode


def _parts(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    return (rows[start : start + _ROWS_AT_ONCE] for start in range(0, len(rows), _ROWS_AT_ONCE))


def _ends_of_episodes(units: Units) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the episode of each unit begins and ends in ``units.rows``."""
    _, first, number = np.unique(units.episodes, return_index=True, return_inverse=True)
    begins = units.starts[first]  # units lie episode by episode, in ascending order of their number
    ends = np.append(begins[1:], len(units.rows))
    return begins[number], ends[number]
