"""Whether a change leaves every number of a run as it was, bit for bit: ``python tests/golden/golden_runs.py``.

A change of structure must not change a weight. Run this in a checkout before the change and in one after it, on the
same machine (another processor adds in another order), and compare::

    python tests/golden/golden_runs.py write /tmp/before.json       # in the old checkout, with its PYTHONPATH
    python tests/golden/golden_runs.py compare /tmp/before.json     # in the new one

``--metaworld`` adds ``metaworld_demo`` with ten steps per task (three minutes more).
"""

import argparse
import contextlib
import hashlib
import io
import json
import shutil
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parents[1]
for folder in (TESTS.parent, TESTS, TESTS / "kit"):
    sys.path.insert(0, str(folder))

POINT = ["plugins=[toy_world]", "suite=point", "stream=points", "policy=tiny", "demonstrations.episodes=3",
         "demonstrations.workers=1", "training.steps=6", "training.batch_size=4", "evaluation.episodes=3",
         "evaluation.replan_every=2", "evaluation.workers=1", "device=cpu", "threads=1"]  # fmt: skip
CURVE = ["evaluation.curve_points=2", "evaluation.curve_episodes=2", "evaluation.untrained=true"]
METAWORLD = ["stream=metaworld_demo", "demonstrations.episodes=2", "training.steps=10", "training.batch_size=8",
             "evaluation.episodes=2", "evaluation.videos=0", "policy.image_size=64", "suite.image_size=64",
             "device=cpu", "threads=1"]  # fmt: skip

RUNS = {
    "sequential": [*POINT, "method=sequential", *CURVE],
    "er": [*POINT, "method=er", "method.samples_per_task=5", *CURVE, "evaluation.future_tasks=true"],
    "er_trajectories": [*POINT, "method=er", "method.memory={samples_per_task: 40, keep: copy, unit: trajectory}"],
    "ewc": [*POINT, "method=ewc", *CURVE],
    "packnet": [*POINT, "method=packnet", *CURVE],
    "lwf": [*POINT, "method=lwf"],
    "der_pp": [*POINT, "method=der_pp", "method.samples_per_task=5"],
    "joint": [*POINT, "method=sequential", "arrangement=joint", *CURVE],
    "independent": [*POINT, "method=sequential", "arrangement=independent", *CURVE],
    "packnet_independent": [*POINT, "method=packnet", "arrangement=independent"],
}
SIMULATED = {
    "metaworld_sequential": [*METAWORLD, "method=sequential"],
    "metaworld_er": [*METAWORLD, "method=er", *CURVE],
}
_WALL_CLOCK = ("seconds",)


def results(folder):
    """Hashes of the last checkpoint's weights and the method's state, the matrix, and the table without its times."""
    import pandas as pd

    checkpoints = sorted((folder / "checkpoints").glob("[0-9]*"))
    weights = {}
    for checkpoint in checkpoints:
        for path in sorted(checkpoint.rglob("*.safetensors")):
            weights[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    matrix = json.loads((folder / "matrix.json").read_text())
    table = pd.read_parquet(folder / "episodes.parquet").drop(columns=list(_WALL_CLOCK))
    return {
        "weights": weights,
        "matrix": {key: value for key, value in sorted(matrix.items()) if key not in ("run", "seal")},
        "table": json.loads(table.to_json(orient="records")),
    }


def every_run(simulated):
    """Name to results of each run, in a folder of its own."""
    from vla_cl.config.compose import compose
    from vla_cl.run import root as run

    root = Path(tempfile.mkdtemp(prefix="golden"))
    found = {}
    for name, overrides in {**RUNS, **(SIMULATED if simulated else {})}.items():
        settings = [*overrides, f"cache_dir={root / 'cache'}", f"output_dir={root / name}"]
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            found[name] = results(run.train(compose(settings, folders=[TESTS / "conf"])))
        print(name, flush=True)
    shutil.rmtree(root)
    return found


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("write", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--metaworld", action="store_true")
    given = parser.parse_args()
    found = json.loads(json.dumps(every_run(given.metaworld)))
    if given.what == "write":
        given.file.write_text(json.dumps(found))
        return
    before = json.loads(given.file.read_text())
    different = [f"{name}: {part}" for name in found for part in found[name] if before[name][part] != found[name][part]]
    print("\n".join(different) or f"{len(found)} runs, each as before, bit for bit")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
