"""The first continual run: three skills from demonstrations recorded on the spot, with and without replay."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from vla_cl.config.compose import compose
from vla_cl.report import write_report
from vla_cl.report.seed_groups import SHOWN, compare
from vla_cl.run.root import train
from vla_cl.trust.reading import read_json_object
from vla_cl.types import ConfigurationError

METHODS = ("sequential", "er")


def main(overrides: Sequence[str], folders: Sequence[Path] = ()) -> Path:
    """Run the demo and write its report.

    Args:
        overrides: Settings that differ from ``conf/experiment/demo.yaml``.
        folders: Further configuration folders.

    Returns:
        The report.
    """
    began = time.perf_counter()
    root = free_folder(Path("outputs"))
    runs = []
    for method in METHODS:
        print(f"\n== {method}: results go to {root / method}", flush=True)
        runs.append(train(compose(
            ["experiment=demo", f"method={method}", f"name={method}", f"output_dir={root / method}", *overrides],
            folders=folders,
        )))  # fmt: skip
    report = write_report(runs, root / "report.html")
    print(f"\n{_results(runs)}")
    print(f"the demo took {(time.perf_counter() - began) / 60:.1f} minutes; open its report:")
    return report


def _results(runs: Sequence[Path]) -> str:
    """One row for each method."""
    try:
        table = compare(runs, SHOWN[:2])
    except ConfigurationError as error:
        return f"no table of results: {error}"
    return f"success at the end ({SHOWN[0]}) and forgetting ({SHOWN[1]}), with 95 % intervals:\n{table}\n"


def free_folder(parent: Path) -> Path:
    """``demo``, or the first ``demo-N`` that is not finished: an interrupted demo continues, a finished one is kept."""
    number = 1
    while True:
        folder = parent / ("demo" if number == 1 else f"demo-{number}")
        if not all(_finished(folder / method) for method in METHODS):
            return folder
        number += 1


def _finished(run: Path) -> bool:
    summary = run / "run.json"
    if not summary.is_file():
        return False
    return read_json_object(summary, "the summary of the demo", "move the folder away").get("status") == "finished"
