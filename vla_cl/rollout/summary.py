"""What an evaluation comes to: ``summary.json`` for machines, a table for the terminal, every traceback in a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vla_cl.files import write_text
from vla_cl.metrics import mean_interval, wilson_interval
from vla_cl.rollout.journal import Entry
from vla_cl.trust.reading import read_json_object, require_entries
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError, Episode, Outcome

ERRORS = "errors.txt"
_ERRORS_SHOWN = 5
_LONGEST_NAME = 60


def summarise(entries: Sequence[Entry]) -> dict[str, Any]:
    """Success by task and on average, with 95 % intervals, and what it cost.

    The interval of the mean is the one that ``vla-cl metrics`` gives `final_average` of the same outcomes:
    tasks count alike, however many episodes are behind each.

    Args:
        entries: Finished episodes; at least one.

    Returns:
        Plain data (JSON). ``seconds`` is the time spent in rollouts, of all sessions together; what a kill destroyed
        (the episodes that were running) is not in it.
    """
    by_task: dict[str, list[Episode]] = {}
    for entry in entries:
        by_task.setdefault(entry.episode.task, []).append(entry.episode)
    tasks = {task: _figures(episodes) for task, episodes in by_task.items()}
    whole = _figures([entry.episode for entry in entries])
    mean = sum(figures["success"] for figures in tasks.values()) / len(tasks)
    rates, counts = zip(*((figures["success"], figures["episodes"]) for figures in tasks.values()), strict=True)
    sessions: dict[int, float] = {}
    for entry in entries:
        sessions[entry.session] = max(entry.elapsed, sessions.get(entry.session, 0.0))
    seconds = max(sum(sessions.values()), 0.001)
    return {
        "mean_success": mean,
        "mean_interval": list(mean_interval(rates, counts)),
        "interval": "score test, 95 %, luck of the episodes only; a task: Wilson, the mean: as in vla-cl metrics",
        **{name: whole[name] for name in ("episodes", "successes", "errors", "env_steps", "decisions")},
        "seconds": round(seconds, 3),
        "sessions": len(sessions),
        "episodes_per_hour": round(whole["episodes"] / seconds * 3600, 1),
        "env_steps_per_second": round(whole["env_steps"] / seconds, 1),
        "tasks": tasks,
        "error_lines": dict(Counter(error_line(entry.episode) for entry in entries if entry.episode.error)),
    }


def read_summary(path: Path) -> dict[str, Any]:
    """What `describe` prints of a finished evaluation.

    Raises:
        ConfigurationError: The file is damaged.
    """
    remedy = "delete it, and the same command writes it anew from the journal"
    content = read_json_object(path, "the summary of the evaluation", remedy)
    number = (int, float)
    kinds: dict[str, type | tuple[type, ...]] = dict.fromkeys(("episodes", "errors", "env_steps"), int)
    whole: dict[str, type | tuple[type, ...]] = dict.fromkeys(
        ("mean_success", "seconds", "episodes_per_hour", "env_steps_per_second"), number
    )
    whole |= {"tasks": dict, "error_lines": dict, "mean_interval": list}
    require_entries(content, kinds | whole, short(path), remedy)
    _require_interval(content["mean_interval"], path, remedy)
    for name, task in content["tasks"].items():
        what = f"task {harmless(name, 40)!r} of {short(path)}"
        require_entries(task, kinds | {"success": number, "interval": list}, what, remedy)
        _require_interval(task["interval"], path, remedy)
    require_entries(content["error_lines"], dict.fromkeys(content["error_lines"], int), short(path), remedy)
    return content


def _require_interval(ends: list[object], path: Path, remedy: str) -> None:
    if len(ends) != 2:
        raise ConfigurationError(f"{short(path)} should give intervals as two numbers; {remedy}")
    require_entries(dict(zip(("low", "high"), ends, strict=True)), dict.fromkeys(("low", "high"), (int, float)),
                    f"an interval of {short(path)}", remedy)  # fmt: skip


def describe(summary: Mapping[str, Any], folder: Path) -> str:
    """The table for the terminal, from what `summarise` gave."""
    tasks: Mapping[str, Mapping[str, Any]] = summary["tasks"]
    label = f"mean of {len(tasks)} tasks" if len(tasks) > 1 else "mean"
    width = max(len(_short(name)) for name in (*tasks, label))
    header = f"{'task':{width}s}  success  95 % interval     episodes  errors  env steps"
    lines = [header, "-" * len(header)]
    lines += [_line(_short(name).ljust(width), figures["success"], figures) for name, figures in tasks.items()]
    overall = {**summary, "interval": summary["mean_interval"]}
    lines += ["-" * len(header), _line(label.ljust(width), summary["mean_success"], overall), ""]
    lines.append(
        f"{_duration(summary['seconds'])} of rollouts: {summary['episodes_per_hour']:,.0f} episodes per hour, "
        f"{summary['env_steps_per_second']:,.0f} env steps per second"
    )
    lines += [harmless(str(sentence), 300) for sentence in summary.get("passed_over") or ()]
    lines += _described_errors(summary["error_lines"], folder)
    return "\n".join(lines)


def write_errors(folder: Path, entries: Sequence[Entry]) -> None:
    """Write the whole traceback of every crashed episode to ``errors.txt``; nothing if none crashed."""
    crashed = [entry.episode for entry in entries if entry.episode.error]
    if crashed:
        blocks = [
            f"===== {episode.task}, initial state {episode.initial_state} ({episode.split})\n{episode.error}"
            for episode in crashed
        ]
        write_text(folder / ERRORS, "\n\n".join(block.rstrip() for block in blocks) + "\n")


def error_line(episode: Episode) -> str:
    """What went wrong, in one line: of a traceback the line that names the exception, else the first."""
    lines = (episode.error or "").strip().splitlines() or ["unknown"]
    if not lines[0].startswith("Traceback"):
        return lines[0]
    return next((line for line in lines[1:] if line and not line[0].isspace()), lines[-1])


def _figures(episodes: Sequence[Episode]) -> dict[str, Any]:
    outcomes = Counter(episode.outcome for episode in episodes)
    successes = outcomes[Outcome.SUCCESS]
    return {
        "success": successes / len(episodes),
        "interval": list(wilson_interval(successes, len(episodes))),
        "episodes": len(episodes),
        "successes": successes,
        "errors": outcomes[Outcome.ERROR],
        "env_steps": sum(episode.env_steps for episode in episodes),
        "decisions": sum(episode.decisions for episode in episodes),
    }


def _line(label: str, success: float, figures: Mapping[str, Any]) -> str:
    low, high = figures["interval"]
    interval = f"[{low:.1%}, {high:.1%}]"
    return (
        f"{label}  {success:7.1%}  {interval:16s}  {figures['episodes']:8,d}  {figures['errors'] or '-':>6}  "
        f"{figures['env_steps']:9,d}"
    )


def _short(name: str) -> str:
    """A name that fits on a line: LIBERO's are whole sentences, which differ at both ends."""
    name, half = harmless(name), (_LONGEST_NAME - 3) // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[:half]}...{name[-half:]}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _described_errors(lines: Mapping[str, int], folder: Path) -> list[str]:
    if not lines:
        return []
    ordered = sorted(lines.items(), key=lambda item: -item[1])
    shown = [f"  {count} x {harmless(line)}" for line, count in ordered[:_ERRORS_SHOWN]]
    if len(ordered) > _ERRORS_SHOWN:
        shown.append(f"  and {len(ordered) - _ERRORS_SHOWN} more")
    return ["", f"{sum(lines.values())} episodes crashed; they count as no success:", *shown,
            f"  the whole tracebacks: {folder / ERRORS}"]  # fmt: skip
