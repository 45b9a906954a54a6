"""The packages that ``plugins`` lists are imported, so that what they register is known."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from vla_cl.trust.text import harmless
from vla_cl.types import ConfigurationError

_REGISTERING = "configuration_*.py"
"""Modules in which policies register themselves, as LeRobot names them; they are imported wherever they lie."""

_FAILURES = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, RuntimeError,
             SyntaxError, TypeError, ValueError)  # fmt: skip


def import_plugins(plugins: Sequence[str]) -> None:
    """Import each package, and each of its modules in which a policy registers itself (``configuration_<name>.py``).

    Raises:
        ConfigurationError: One cannot be imported; the message names the package, the file and the line.
    """
    for plugin in plugins:
        found = _imported(plugin, plugin).__spec__
        folders = None if found is None else found.submodule_search_locations  # a plug-in of one file has none
        for folder in map(Path, folders or ()):
            for file in sorted(folder.rglob(_REGISTERING)):
                parts = file.relative_to(folder).with_suffix("").parts
                if all(part.isidentifier() for part in parts):
                    _imported(".".join((plugin, *parts)), plugin)


def _imported(module: str, plugin: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ConfigurationError:
        raise
    except _FAILURES as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = (error.filename, error.lineno) if isinstance(error, SyntaxError) else (last.filename, last.lineno)
        words = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ConfigurationError(
            f"plugins={plugin}: module {module} cannot be imported ({type(error).__name__}: "
            f"{harmless(' '.join(words.split()), 100)}; {harmless(Path(str(where[0])).name, 40)}, line "
            f"{where[1]}); correct it, or run again with --debug"
        ) from error
