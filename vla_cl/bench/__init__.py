"""Measurements against goals; ratios are interleaved turns on one machine, after an equality gate.

``startup``: time until ``vla-cl --help`` has printed. ``training``: samples per second against ``lerobot-train``'s own
loop. ``learning``: success of joint training on six tasks. ``rollout``: simulation and evaluation against
``lerobot-eval`` and against the suites' own steps and resets. ``methods``: what each continual-learning method costs
against what theory says, and against avalanche-lib. ``preflight``: looking into a dataset of 10^6 frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

WHAT = ("startup", "training", "learning", "rollout", "methods", "preflight")


def main(what: str, overrides: Sequence[str], folders: Sequence[Path] = ()) -> int:
    """Measure, print, and store ``outputs/bench/<what>.json``.

    Args:
        what: One of `WHAT`.
        overrides: Hydra overrides.
        folders: Further folders of yaml files.

    Returns:
        0 if the goals are reached, else 1.
    """
    if what == "methods":
        from vla_cl.bench import rollout
        from vla_cl.bench.method_rows import rows

        return rollout.main(overrides, folders, rows(), what)
    if what == "rollout":
        from vla_cl.bench import rollout

        return rollout.main(overrides, folders)
    from vla_cl.bench import learning, preflight, startup, training
    from vla_cl.files import write_json
    from vla_cl.run_folder import machine, versions

    measures = {
        "startup": startup.startup,
        "training": training.training,
        "learning": learning.learning,
        "preflight": preflight.preflight,
    }
    measure = measures[what]
    result = measure(overrides, folders)
    result |= {"machine": machine("cpu"), "versions": versions()}
    path = Path("outputs") / "bench" / f"{what}.json"
    write_json(path, result)
    for key, value in result.items():
        if key not in ("versions", "machine"):
            print(f"{key:28s} {value}")
    print(f"stored in {path}")
    return 0 if result["holds"] else 1
