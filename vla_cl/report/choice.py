"""Which of the paths that a command was given are runs: ``outputs/*`` matches other things, too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vla_cl.trust.reading import read_json_object
from vla_cl.trust.text import short
from vla_cl.types import ConfigurationError

RUN = "run.json"


def runs_among(paths: Sequence[Path], finished: bool = False) -> tuple[list[Path], list[str]]:
    """The runs, and a sentence for each path that exists and is none.

    A path that does not exist stays, and so does the only path: both may be mistyped, which is for `load_runs` to say.

    Args:
        paths: As given.
        finished: Whether runs that go on are passed over, too.

    Raises:
        ConfigurationError: Of several paths, none is a run.
    """
    if len(paths) == 1:
        return list(paths), []
    runs = [path for path in paths if not path.exists() or (path / RUN).is_file()]
    skipped = [f"skipped {short(path)}: {_what(path)}" for path in paths if path not in runs]
    if paths and not runs:
        raise ConfigurationError(f"none of {len(paths)} paths is a run; {skipped[0]}; give folders that have a {RUN}")
    if finished:
        going_on = [path for path in runs if _goes_on(path)]
        runs = [path for path in runs if path not in going_on] or runs
        skipped += [f"skipped {short(path)}: it is not finished" for path in going_on if path not in runs]
    return runs, skipped


def _goes_on(path: Path) -> bool:
    summary = path / RUN
    if not summary.is_file():
        return False
    return read_json_object(summary, "the summary of the run", "leave it out").get("status") != "finished"


def _what(path: Path) -> str:
    """What a path is that is no run."""
    if not path.is_dir():
        return "a file, not the folder of a run"
    if (path / "evaluation.json").is_file():
        return "an evaluation, not a run"
    inside = sorted(folder.parent.name for folder in path.glob(f"*/{RUN}"))
    if inside:
        return f"it holds runs ({', '.join(inside[:3])}{', ...' if len(inside) > 3 else ''}); give {short(path)}/*"
    return f"it has no {RUN}, so it is not a run, or one that was refused or has not begun"
