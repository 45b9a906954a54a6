"""Naming parameters of a model by patterns or by role, and keeping some of them from being trained for a while."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from vla_cl.interfaces import Model
from vla_cl.types import ConfigurationError, Roles


def matching(module: nn.Module, patterns: Sequence[str], setting: str) -> dict[str, nn.Parameter]:
    """The parameters whose names match at least one pattern, by name, in the order of ``named_parameters()``.

    Args:
        module: Whose parameters.
        patterns: As of a shell, over the whole name: ``vision_encoder.*`` is everything inside ``vision_encoder``.
        setting: What messages call them, for example ``slow``.

    Raises:
        ConfigurationError: A pattern matches nothing; the message names the nearest patterns that do.
    """
    parameters = dict(module.named_parameters())
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in parameters):
            raise ConfigurationError(
                f"method.{setting}: no parameter matches {pattern!r}; {_nearest(pattern, list(parameters))}"
            )
    return {
        name: parameter
        for name, parameter in parameters.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    }


def checked_patterns(setting: str, given: object) -> list[str] | None:
    """``method.<setting>``: a list of patterns, or None.

    Raises:
        ConfigurationError: It is something else.
    """
    if given is None:
        return None
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(item, str) for item in given):
        raise ConfigurationError(f"method.{setting} must be a list of patterns, like [vision_encoder.*]; got {given!r}")
    return list(given)


def roles_of(model: Model, method: str, instead: str) -> Roles:
    """What the parameters of a model are for.

    Args:
        model: Which tells it, or not.
        method: The name of the method that goes by it.
        instead: What to do where it does not.

    Raises:
        ConfigurationError: It does not tell.
    """
    roles = model.roles()
    if roles is None:
        raise ConfigurationError(
            f"{model.name} does not tell which of its layers come first and which give its output, by which method "
            f"{method!r} goes; {instead}"
        )
    return roles


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


class Freezer:
    """Keeps parameters from being trained and gives them back."""

    def __init__(self) -> None:
        self._frozen: list[nn.Parameter] = []

    def freeze(self, parameters: Iterable[nn.Parameter]) -> None:
        """No gradient for these; those that had none before stay out of it for good."""
        self.thaw()
        self._frozen = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in self._frozen:
            parameter.requires_grad_(False)
            parameter.grad = None

    def thaw(self) -> None:
        """As before `freeze`."""
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._frozen = []


def _nearest(pattern: str, names: Sequence[str]) -> str:
    """The likeliest patterns that match something: parameters, and modules with ``.*`` behind them."""
    modules = {f"{name.rsplit('.', depth)[0]}.*" for name in names for depth in range(1, name.count(".") + 1)}
    known = [*sorted(modules), *names]
    close = difflib.get_close_matches(pattern, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(item) for item in close)}?"
    shown = [*sorted({name.partition(".")[0] + ".*" for name in names if "." in name}), *names][:8]
    return f"parameters are for example {', '.join(repr(item) for item in shown)}"
