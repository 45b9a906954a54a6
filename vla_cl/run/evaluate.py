"""``vla-cl evaluate``: roll a policy out, lose nothing, write table, summary, videos and, if asked for, a dataset.

Every finished episode is journalled at once (`vla_cl.rollout.journal`), so the same command given again continues
where a killed one stopped, and its table has the same rows as that of an undisturbed one. ``MANIFEST.json`` is written
last: where it fits what lies there, the evaluation is finished; else what is lacking or damaged is made anew from the
journal, and what the journal does not say is rolled out again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from vla_cl.config.compose import Settings, build, checked_arguments, nearest
from vla_cl.config.plugins import import_plugins
from vla_cl.data.streams import named_tasks
from vla_cl.evaluation.table import TrialTable
from vla_cl.files import remove_leftovers, remove_leftovers_of, set_aside, write_json
from vla_cl.interfaces import Method, Policy, Suite
from vla_cl.rollout.compatibility import check_interface, require_rate
from vla_cl.rollout.engine import CALL_SIZE
from vla_cl.rollout.evaluation import EvaluationSettings, make_engine, requests, roll_out, save_video
from vla_cl.rollout.evaluator import trial_of
from vla_cl.rollout.journal import LOCK, Entry, Journal, check_same_evaluation
from vla_cl.rollout.progress import ProgressBar
from vla_cl.rollout.random_policy import RandomPolicy
from vla_cl.rollout.recording import RecordingSuite, piece_is_whole, piece_path, remove_pieces, write_recorded
from vla_cl.rollout.summary import ERRORS, describe, read_summary, summarise, write_errors
from vla_cl.rollout.table import EPISODES
from vla_cl.run.candidate import Candidate, find_candidate, require_served
from vla_cl.run.folder import machine, versions
from vla_cl.run.location import RANDOM, find_run, policy_name, tasks_of_run
from vla_cl.run.root import use_threads
from vla_cl.run.stream_sources import under_policy_names
from vla_cl.storage.locks import remove_stale
from vla_cl.storage.manifest import MANIFEST, damaged_files, verify_manifest, write_manifest
from vla_cl.storage.names import VIDEOS
from vla_cl.trust.reading import as_plain
from vla_cl.trust.text import short
from vla_cl.types import ConfigurationError, Episode, EpisodeRequest, Outcome, Split, Task

_NO_EXPERIENCE = -1


@dataclass(frozen=True)
class _Plan:
    """What is evaluated, and where it is written."""

    suite: Suite
    tasks: tuple[Task, ...]
    split: Split
    settings: EvaluationSettings
    record: bool
    retry_errors: bool
    folder: Path

    @property
    def requests(self) -> list[EpisodeRequest]:
        return requests(self.suite, self.tasks, self.settings, self.split)

    @property
    def dataset(self) -> Path:
        return self.folder / "dataset"

    @property
    def pieces(self) -> Path:
        return self.folder / ".recorded"

    @property
    def summary(self) -> Path:
        return self.folder / "summary.json"


def evaluate(location: str, settings: Settings) -> Path:
    """Roll a policy out and write the episode table, a summary and videos; an interrupted evaluation continues.

    Args:
        location: A run's folder (its newest checkpoint), a checkpoint, a LeRobot policy folder, a name on the hub, or
            ``random``.
        settings: Composed from ``conf/evaluate.yaml``; `vla_cl.run.location.compose_evaluation` adds a run's suite.

    Returns:
        The folder with the results.

    Raises:
        ConfigurationError: The policy cannot be loaded or does not fit the suite, or the folder holds another
            evaluation.
    """
    plan = _plan(location, settings)
    use_threads(settings["threads"])
    candidate = find_candidate(location, settings, plan.suite, plan.settings.replan_every)
    identity = _identity(plan, candidate)
    check_same_evaluation(plan.folder, identity, location)
    if _is_finished(plan) and not _has_errors_to_retry(plan):
        print(f"{plan.folder} holds this evaluation, finished; nothing is rolled out again")
        remove_stale(plan.folder / LOCK)
    else:
        policy, method = candidate.load()
        chosen = plan.settings
        spec = plan.suite.spec
        check_interface(policy.spec, spec, chosen.replan_every, policy.chunk_size, chosen.check_render_profile)
        if settings["check_fps"]:
            require_rate(policy.spec, spec)
        if method is not None:
            require_served(method, plan.tasks)
        with Journal(plan.folder, identity, location) as journal:
            _clear(plan)
            _roll_out(plan, policy, method, journal)
            _write_results(plan, candidate, journal)
            write_manifest(plan.folder)
    print(describe(read_summary(plan.summary), plan.folder))
    return plan.folder


def _plan(location: str, settings: Settings) -> _Plan:
    import_plugins(settings["plugins"])
    own = build(settings["suite"], Suite, settings["plugins"])
    _require_tasks(own, location)
    suite = under_policy_names(own, settings.get("cameras"), None if location == RANDOM else location)
    chosen = EvaluationSettings(**checked_arguments(EvaluationSettings, settings["evaluation"]))
    available = suite.tasks()
    names = settings["tasks"] or tasks_of_run(location, available)
    tasks = named_tasks(names, available) or available
    if settings["split"] not in get_args(Split):
        raise ConfigurationError(f"unknown split {settings['split']!r}; {nearest(settings['split'], get_args(Split))}")
    for name in ("record", "retry_errors"):
        if not isinstance(settings[name], bool):
            raise ConfigurationError(f"{name} must be true or false; got {settings[name]!r}")
    folder = Path(
        settings["output_dir"] or Path("outputs") / f"evaluate-{settings['suite']['name']}-{policy_name(location)}"
    )
    chosen_tasks = tuple(dict.fromkeys(tasks))
    return _Plan(suite, chosen_tasks, settings["split"], chosen, settings["record"], settings["retry_errors"], folder)


def _require_tasks(suite: Suite, location: str) -> None:
    """Refuse a suite without tasks, before a policy is loaded."""
    if suite.tasks():
        return
    run = find_run(location)
    which = f"the run {short(run.root)} learnt without a suite" if run else f"the suite {suite.name!r} has no tasks"
    raise ConfigurationError(
        f"{which}, so there is nothing to roll the policy out in; name a simulator's suite, for example suite=metaworld"
    )


def _has_errors_to_retry(plan: _Plan) -> bool:
    """Whether a finished evaluation has crashed episodes that are to be rolled out again.

    Raises:
        ConfigurationError: Its dataset is written already, and no episode can be added to it.
    """
    if not plan.retry_errors:
        return False
    if not any(task["errors"] for task in read_summary(plan.summary)["tasks"].values()):
        return False
    if plan.record:
        raise ConfigurationError(
            f"retry_errors=true cannot add episodes to the dataset already written in {plan.dataset}; "
            "give output_dir=<a new folder>"
        )
    return True


def _identity(plan: _Plan, candidate: Candidate) -> dict[str, object]:
    """All that decides the rows of the table, as plain data (JSON)."""
    kind = type(plan.suite)
    identity = {
        "format": 1,
        "policy": candidate.identity,
        "suite": {
            "name": plan.suite.name,
            "class": f"{kind.__module__}:{kind.__qualname__}",
            "fingerprint": plan.suite.fingerprint(),
            "spec": asdict(plan.suite.spec),
        },
        "tasks": {task.id: f"{task.instruction!r}, {task.max_steps} env steps" for task in plan.tasks},
        "split": plan.split,
        **{name: getattr(plan.settings, name) for name in ("episodes", "replan_every", "videos", "max_attempts")},
        "call_size": CALL_SIZE,
        "record": plan.record,
        "device": candidate.device.partition(":")[0],
        "versions": versions(),
    }
    plain: dict[str, object] = as_plain(identity)
    return plain


def _roll_out(plan: _Plan, policy: Policy, method: Method | None, journal: Journal) -> None:
    """Roll out what is missing; every episode is in the journal as soon as it is finished."""
    wanted = [request for request in plan.requests if not _is_done(plan, journal.find(request))]
    if not wanted:
        return
    if len(wanted) < len(plan.requests):
        print(f"continuing: {len(plan.requests) - len(wanted)} of {len(plan.requests)} episodes are done")
    suite = RecordingSuite(plan.suite, plan.pieces) if plan.record else plan.suite
    started = time.monotonic()
    with (
        make_engine(suite, plan.settings) as engine,
        _threads_for(policy),
        ProgressBar(len(wanted), shown=True) as bar,
    ):

        def keep(episode: Episode) -> None:
            video = save_video(episode, plan.folder, engine.film_fps)
            journal.append(episode, video, time.monotonic() - started)
            bar.advance(episode)

        roll_out(engine, policy, wanted, method, keep)


def _is_finished(plan: _Plan) -> bool:
    """Whether every result is there, as it was written."""
    if not plan.summary.is_file():
        return False
    try:
        verify_manifest(plan.folder, "the evaluation", "it is made anew", only_listed=False)
    except ConfigurationError as error:
        print(f"writing the results anew from the journal: {str(error).partition(';')[0]}")
        return False
    return True


def _clear(plan: _Plan) -> None:
    """Remove what is damaged, and what a kill left half written; nobody else writes now."""
    for folder in (plan.folder, plan.folder / VIDEOS, plan.pieces):
        remove_leftovers(folder, alone=True)
    for path in damaged_files(plan.folder):
        if path.parent == plan.folder / VIDEOS:
            path.unlink()
    remove_leftovers_of(plan.dataset)
    if plan.dataset.exists():
        try:
            verify_manifest(plan.dataset, "the dataset", "")
        except ConfigurationError as error:
            aside = set_aside(plan.dataset)
            print(f"recording again: {str(error).partition(';')[0]}; it is now {aside.name}")
    for path in (plan.folder / MANIFEST, plan.summary):  # not finished any more, should this be killed
        path.unlink(missing_ok=True)


def _threads_for(policy: Policy) -> contextlib.AbstractContextManager[None]:
    if isinstance(policy, RandomPolicy):  # and torch need not be imported
        return contextlib.nullcontext()
    from vla_cl.rollout.evaluation import one_thread

    return one_thread()


def _is_done(plan: _Plan, entry: Entry | None) -> bool:
    """Whether an episode is in the journal, and its film and recording are still there."""
    if entry is None or (entry.video is not None and not (plan.folder / entry.video).is_file()):
        return False
    if plan.retry_errors and entry.episode.outcome is Outcome.ERROR and not (plan.record and plan.dataset.exists()):
        return False
    if not plan.record or plan.dataset.exists() or entry.episode.outcome is Outcome.ERROR:
        return True
    (task,) = (task for task in plan.tasks if task.id == entry.episode.task)
    state = entry.episode.initial_state
    return piece_is_whole(piece_path(plan.pieces, task.id, state), task, state, plan.suite.spec)


def _write_results(plan: _Plan, candidate: Candidate, journal: Journal) -> None:
    """Table, tracebacks, dataset, and the summary."""
    entries = [entry for request in plan.requests if (entry := journal.find(request)) is not None]
    write_table(plan.folder / "episodes.parquet", entries, plan.suite.spec.render_profile)
    (plan.folder / ERRORS).unlink(missing_ok=True)  # those of episodes rolled out again since
    write_errors(plan.folder, entries)
    if plan.record and not plan.dataset.exists():
        episodes = [entry.episode for entry in entries]
        write_recorded(plan.dataset, plan.suite, plan.tasks, episodes, plan.pieces, candidate.location)
    remove_pieces(plan.pieces)
    summary = {
        "format": 1,
        "policy": candidate.location,
        "passed_over": list(candidate.passed_over),
        "suite": plan.suite.name,
        "split": plan.split,
        "render_profile": plan.suite.spec.render_profile,
        **summarise(entries),
        "versions": versions(),
        "machine": machine(candidate.device),
    }
    write_json(plan.summary, summary)


def write_table(path: Path, entries: Sequence[Entry], render_profile: str | None) -> None:
    """Write ``episodes.parquet``, in the order given; no experience of a stream stands behind it, so that is -1."""
    table = TrialTable(EPISODES)
    for entry in entries:
        trial = trial_of(entry.episode, render_profile, entry.video)
        table.append(trial, experience=_NO_EXPERIENCE, step=0, split=entry.episode.split)
    table.write(path)
