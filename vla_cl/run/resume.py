"""``vla-cl resume RUN``: the settings of a run, from its ``config.yaml``, so it goes on without its command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vla_cl.config.compose import Settings, compose, nearest
from vla_cl.run.folder import CONFIG, MAY_DIFFER, read_settings
from vla_cl.settings.checks import checked
from vla_cl.settings.overrides import typed_values
from vla_cl.settings.rules import shown
from vla_cl.settings.speed import is_among
from vla_cl.storage.manifest import require_readable_run
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError

_PLUGINS = "plugins"


def settings_of_run(run: Path, overrides: Sequence[str] = ()) -> Settings:
    """What the command that began a run was composed to.

    Args:
        run: Its folder.
        overrides: Settings that say where and how fast; others must be those of the run.

    Returns:
        As of `vla_cl.config.compose.compose`; ``output_dir`` is the run's folder.

    Raises:
        ConfigurationError: The folder is no run, its settings are damaged or of an unknown format, an override would
            change what is learnt, or the run's packages are not listed under ``plugins``: its own list does not count.
    """
    if not (run / CONFIG).is_file():
        raise ConfigurationError(f"{short(run)} is no run (it has no {CONFIG}); give a folder that vla-cl train wrote")
    require_readable_run(run)
    saved, default = read_settings(run / CONFIG), compose([])
    # the run of a family has only the settings that it reads; the others are the defaults, which change nothing
    if "class" not in saved.get("method", {}):
        raise ConfigurationError(
            f"the run {short(run)} was made from Python, by `learn_stream`; give the same call again to continue it"
        )
    whole = {**default, **saved}
    if isinstance(saved.get("evaluation"), Mapping):
        whole["evaluation"] = {**default["evaluation"], **saved["evaluation"]}
    wanted = typed_values(overrides)
    _require_trusted(saved.get(_PLUGINS), wanted.pop(_PLUGINS, None), run)
    for name, value in wanted.items():
        _put(whole, name, value, run)
    whole["output_dir"] = str(run)
    return checked(whole, "config")


def _require_trusted(saved: object, given: object, run: Path) -> None:
    """Import nothing because a file says so: the user lists the packages."""
    needed = [str(item) for item in saved] if isinstance(saved, list) else []
    if needed and given != needed:
        listed = harmless(",".join(needed), 80)
        raise ConfigurationError(
            f"the run {short(run, 90)} uses code of {listed}; if you trust it, add plugins=[{listed}]"
        )
    if not needed and given:
        raise ConfigurationError(f"the run {short(run, 90)} uses no plugins; leave plugins out")


def _put(settings: dict[str, Any], name: str, value: object, run: Path) -> None:
    """Set a value that says where or how fast; refuse any other that the run has not."""
    *groups, key = name.split(".")
    holder: Any = settings
    for group in groups:
        holder = holder.get(group) if isinstance(holder, Mapping) else None
    if not isinstance(holder, dict) or key not in holder:
        raise ConfigurationError(f"the run has no setting {name!r}; {nearest(name, _names(settings))}")
    if name == "output_dir":
        raise ConfigurationError(f"the run continues in its own folder, {short(run, 90)}; leave output_dir out")
    before = holder[key]
    if isinstance(before, Mapping):  # a choice, as in method=er
        before = before.get("name", before.get("type"))
    elif is_among(name, MAY_DIFFER):
        holder[key] = value
        return
    if value != before:
        raise ConfigurationError(
            f"{name} is {shown(before)} in the run {short(run, 90)} and cannot become {shown(value)}; leave it out, or "
            "begin another run with vla-cl train"
        )


def _names(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in settings.items():
        found.append(f"{prefix}{key}")
        if isinstance(value, Mapping):
            found += _names(value, f"{prefix}{key}.")
    return found
