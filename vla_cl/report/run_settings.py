"""The settings of a run by dotted name, and which of them make it a run of something else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from vla_cl.report.load import RunRecord
from vla_cl.settings.speed import WHERE_AND_HOW_FAST, is_among
from vla_cl.trust.text import harmless, short
from vla_cl.trust.yaml_files import parse_yaml

_NOT_COMPARED = ("train_seed", "evaluation.videos", *WHERE_AND_HOW_FAST)
"""Settings that may differ between the seeds of one method: the seed, where things lie, and what computes."""


def is_compared(setting: str, besides: Sequence[str] = ()) -> bool:
    """Whether runs with another value of a setting, by its dotted name, are runs of something else.

    Args:
        setting: Its name.
        besides: Further settings, or groups of them, that may differ.
    """
    return not is_among(setting, (*_NOT_COMPARED, *besides))


def flat_settings(run: RunRecord) -> dict[str, str]:
    """The settings of a run by dotted name; none without a ``config.yaml``.

    Raises:
        ConfigurationError: Its ``config.yaml`` is not valid YAML.
    """
    return dict(_flatten(_parse(run), ""))


def _parse(run: RunRecord) -> object:
    if not run.config:
        return None
    return parse_yaml(run.config, short(run.folder / "config.yaml"), "restore it or move it away")


def _flatten(value: object, prefix: str) -> Iterator[tuple[str, str]]:
    """``{"train": {"steps": 5}}`` gives ``("train.steps", "5")``."""
    if not isinstance(value, Mapping):
        if prefix:
            yield harmless(prefix), harmless(str(value), 10_000)
        return
    for key, inner in value.items():
        yield from _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
