"""Measurements against goals; ratios are interleaved turns on one machine, after an equality gate.

``startup``: time until ``vla-cl --help`` has printed. ``training``: samples per second against ``lerobot-train``'s own
loop. ``learning``: success of joint training on six tasks. ``rollout``: simulation and evaluation against
``lerobot-eval`` and against the suites' own steps and resets. ``methods``: what each continual-learning method costs
against what theory says, and against avalanche-lib. ``preflight``: looking into a dataset of 10^6 frames.
``coverage``: how often the intervals of the metrics hold the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vla_cl.trust.text import harmless
from vla_cl.types import ConfigurationError

WHAT = ("startup", "training", "learning", "rollout", "methods", "preflight", "coverage")
WITHOUT_SETTINGS = ("startup", "preflight", "coverage")
"""What is measured in one way only."""


def main(what: str, overrides: Sequence[str], folders: Sequence[Path] = ()) -> tuple[Path, bool]:
    """Measure, print, and store ``outputs/bench/<what>.json``, or the file that ``output=`` names.

    Args:
        what: One of `WHAT`.
        overrides: Hydra overrides.
        folders: Further folders of yaml files.

    Returns:
        The file, and whether the goals are reached.

    Raises:
        ConfigurationError: A setting does not exist, or the measurement has none.
    """
    if what == "methods":
        from vla_cl.bench import rollout
        from vla_cl.bench.method_rows import rows

        return rollout.main(overrides, folders, rows(), what)
    if what == "rollout":
        from vla_cl.bench import rollout

        return rollout.main(overrides, folders)
    from vla_cl.bench import coverage, learning, preflight, startup, training
    from vla_cl.files import write_json
    from vla_cl.run.folder import machine, versions

    measures = {
        "startup": startup.startup,
        "training": training.training,
        "learning": learning.learning,
        "preflight": preflight.preflight,
        "coverage": coverage.coverage,
    }
    path, others = _output(what, overrides)
    result = measures[what](others, folders)
    result |= {"machine": machine("cpu"), "versions": versions()}
    write_json(path, result)
    for key, value in result.items():
        if key not in ("versions", "machine", "conditions"):
            print(f"{key:28s} {value}")
    print(f"stored in {path}")
    return path, bool(result["holds"])


def _output(what: str, overrides: Sequence[str]) -> tuple[Path, list[str]]:
    """Where results are stored, and the overrides that are about something else."""
    from vla_cl.config.compose import compose
    from vla_cl.settings.overrides import split

    others = [item for item in overrides if split(item)[1] != "output"]
    if others and what in WITHOUT_SETTINGS:
        raise ConfigurationError(f"bench {what} has no setting but output=FILE; leave {harmless(others[0], 80)!r} out")
    settings = compose([item for item in overrides if item not in others], root="bench")
    return Path(settings["output"] or Path("outputs") / "bench" / f"{what}.json"), others
