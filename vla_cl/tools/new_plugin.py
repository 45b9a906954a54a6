"""``vla-cl new NAME``: a project with a method, a suite, a stream and a policy that runs at once."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from pathlib import Path

from vla_cl.files import replacing_folder
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError

TEMPLATE = Path(__file__).parent / "plugin_template"
"""Its files, each with `SUFFIX` behind its name; docs/plugins.md shows the same."""

SUFFIX = ".template"
_NAME = "my_plugin"
_LONGEST = 40


def write(name: str, folder: Path) -> Path:
    """Write the project ``<folder>/<name>``.

    Args:
        name: Of the project, its package and its policy.
        folder: What it goes into.

    Returns:
        Its folder.

    Raises:
        ConfigurationError: The name cannot be a package's or is taken, or the folder exists.
    """
    _require_name(name)
    target = folder / name
    if target.exists():
        raise ConfigurationError(f"{short(target)} exists already; give another name, or --folder")
    with replacing_folder(target) as project:
        for file in sorted(TEMPLATE.rglob(f"*{SUFFIX}")):
            place = project / _named(str(file.relative_to(TEMPLATE)).removesuffix(SUFFIX), name)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(_named(file.read_text(encoding="utf-8"), name), encoding="utf-8")
    return target


def next_steps(project: Path) -> str:
    """What to type now."""
    name = project.name
    return "\n".join(
        (
            f"{project} holds a method, a suite, a stream, a policy and their test; go on with",
            f"  cd {project} && pip install -e . --no-deps    # or: export PYTHONPATH=$PWD",
            f"  vla-cl train --conf {name}/conf plugins={name} stream=reach_3 method=anchored policy={name} "
            "demonstrations.hold=2",
        )
    )


def _require_name(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name) or len(name) > _LONGEST:
        raise ConfigurationError(
            f"a plug-in's name is that of a Python package: small letters, digits and _, at most {_LONGEST}; got "
            f"{harmless(repr(name), 60)}"
        )
    if name in sys.stdlib_module_names or importlib.util.find_spec(name) is not None:
        raise ConfigurationError(f"there is a Python module {name!r} already; give another name")


def _named(text: str, name: str) -> str:
    """The template's text under another name: of packages, of the project, of classes."""
    words = "".join(word.capitalize() for word in name.split("_"))
    return text.replace("MyPlugin", words).replace("my-plugin", name.replace("_", "-")).replace(_NAME, name)
