"""``vla-cl evaluate``: roll a policy out, lose nothing, write table, summary, videos and, if asked for, a dataset.

Every finished episode is journalled at once (`vla_cl.rollout.journal`), so the same command given again continues
where a killed one stopped, and its table has the same rows as that of an undisturbed one. ``summary.json`` is written
last: where it lies, the evaluation is finished.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from vla_cl.compose import Settings, build, checked_arguments, nearest
from vla_cl.data.streams import named_tasks
from vla_cl.files import sha256, write_json
from vla_cl.interfaces import Policy, Suite
from vla_cl.rollout.compatibility import check_interface
from vla_cl.rollout.engine import CALL_SIZE
from vla_cl.rollout.evaluation import EvaluationSettings, make_engine, requests, save_video
from vla_cl.rollout.journal import Entry, Journal, check_same_evaluation
from vla_cl.rollout.progress import ProgressBar
from vla_cl.rollout.random_policy import RandomPolicy
from vla_cl.rollout.recording import RecordingSuite, piece_path, remove_pieces, write_recorded
from vla_cl.rollout.summary import ERRORS, describe, summarise, write_errors
from vla_cl.rollout.table import EpisodeTable
from vla_cl.run import use_threads
from vla_cl.run_folder import machine, versions
from vla_cl.types import ConfigurationError, Episode, EpisodeRequest, Outcome, Split, Task

if TYPE_CHECKING:
    from vla_cl.models.vla import VlaModel

RANDOM = "random"
"""Given instead of a policy: `RandomPolicy`. A folder of this name is written ``./random``."""

_POLICY_FILES = ("*.json", "*.safetensors", "*.model", "*.txt")
_NOT_OF_THE_POLICY = ("train_config.json",)
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


@dataclass(frozen=True)
class _Candidate:
    """A policy that may not be needed, because everything is done: what identifies it, and how to load it."""

    location: str
    identity: Mapping[str, object]
    device: str
    load: Callable[[], Policy]


def evaluate(location: str, settings: Settings) -> Path:
    """Roll a policy out and write the episode table, a summary and videos; an interrupted evaluation continues.

    Args:
        location: A run's folder (its newest checkpoint), a checkpoint, a LeRobot policy folder, a name on the hub, or
            ``random``.
        settings: Composed from ``conf/evaluate.yaml``.

    Returns:
        The folder with the results.

    Raises:
        ConfigurationError: The policy cannot be loaded or does not fit the suite, or the folder holds another
            evaluation.
    """
    plan = _plan(location, settings)
    use_threads(settings["threads"])
    candidate = _candidate(location, settings, plan)
    identity = _identity(plan, candidate)
    check_same_evaluation(plan.folder, identity)
    if plan.summary.is_file() and not _has_errors_to_retry(plan):
        print(f"{plan.folder} holds this evaluation, finished; nothing is rolled out again")
    else:
        policy = candidate.load()
        chosen = plan.settings
        spec = plan.suite.spec
        check_interface(policy.spec, spec, chosen.replan_every, policy.chunk_size, chosen.check_render_profile)
        with Journal(plan.folder, identity) as journal:
            _remove_half_written(plan.folder)
            plan.summary.unlink(missing_ok=True)  # not finished any more, should this be killed
            _roll_out(plan, policy, journal)
            _write_results(plan, candidate, journal)
    print(describe(json.loads(plan.summary.read_text()), plan.folder))
    return plan.folder


def _plan(location: str, settings: Settings) -> _Plan:
    suite = build(settings["suite"], Suite, settings["plugins"])
    chosen = EvaluationSettings(**checked_arguments(EvaluationSettings, settings["evaluation"]))
    available = suite.tasks()
    names = settings["tasks"] or (_tasks_of_run(Path(location), available) if location != RANDOM else [])
    tasks = named_tasks(names, available) or available
    if settings["split"] not in get_args(Split):
        raise ConfigurationError(f"unknown split {settings['split']!r}; {nearest(settings['split'], get_args(Split))}")
    for name in ("record", "retry_errors"):
        if not isinstance(settings[name], bool):
            raise ConfigurationError(f"{name} must be true or false; got {settings[name]!r}")
    folder = Path(settings["output_dir"] or Path("outputs") / f"evaluate-{settings['suite']['name']}")
    chosen_tasks = tuple(dict.fromkeys(tasks))
    return _Plan(suite, chosen_tasks, settings["split"], chosen, settings["record"], settings["retry_errors"], folder)


def _has_errors_to_retry(plan: _Plan) -> bool:
    """Whether a finished evaluation has crashed episodes that are to be rolled out again.

    Raises:
        ConfigurationError: Its dataset is written already, and no episode can be added to it.
    """
    if not plan.retry_errors:
        return False
    tasks = json.loads(plan.summary.read_text())["tasks"].values()
    if not any(task["errors"] for task in tasks):
        return False
    if plan.record:
        raise ConfigurationError(
            f"retry_errors=true cannot add episodes to the dataset already written in {plan.dataset}; "
            "give output_dir=<a new folder>"
        )
    return True


def _candidate(location: str, settings: Settings, plan: _Plan) -> _Candidate:
    if location == RANDOM:
        given = {"suite": plan.suite.spec, **settings["random"]}
        given["chunk_size"] = given["chunk_size"] or plan.settings.replan_every
        policy = RandomPolicy(**checked_arguments(RandomPolicy, given))
        return _Candidate(location, {RANDOM: {"seed": given["seed"]}}, "none", lambda: policy)
    folder = policy_folder(location)
    from vla_cl.continual import choose_device

    device = choose_device(settings["device"])
    files = {path.name: sha256(path) for pattern in _POLICY_FILES for path in sorted(folder.glob(pattern))}
    known = {name: value for name, value in files.items() if name not in _NOT_OF_THE_POLICY}
    return _Candidate(location, {"files": known}, device, lambda: _load(folder, device))


def _load(folder: Path, device: str) -> VlaModel:
    """A LeRobot policy that can be rolled out.

    Raises:
        ConfigurationError: It cannot be loaded, or it needs earlier observations.
    """
    from vla_cl.models.vla import VlaModel, horizon

    model = VlaModel.load(folder, device)
    config = model.policy.config
    frames = horizon(config).observations or (0,)
    if frames != (0,):
        raise ConfigurationError(
            f"policy {config.type!r} looks at {len(frames)} frames at once, but rollouts render only when a decision "
            "is due; evaluate a policy that was trained with n_obs_steps=1"
        )
    return model


def _identity(plan: _Plan, candidate: _Candidate) -> dict[str, object]:
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
    plain: dict[str, object] = json.loads(json.dumps(identity))
    return plain


def _roll_out(plan: _Plan, policy: Policy, journal: Journal) -> None:
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

        engine.run(policy, wanted, progress=keep)


def _remove_half_written(folder: Path) -> None:
    """Remove what a kill left of files that were being written (`vla_cl.files.replacing`); nobody else writes now."""
    for parent in (folder, folder / "videos"):
        for path in parent.glob(".*"):
            if path.is_file() and re.fullmatch(r"\.[0-9a-f]{32}\.\w+", path.name):
                path.unlink()


def _threads_for(policy: Policy) -> contextlib.AbstractContextManager[None]:
    if isinstance(policy, RandomPolicy):  # and torch need not be imported
        return contextlib.nullcontext()
    from vla_cl.continual import one_thread

    return one_thread()


def _is_done(plan: _Plan, entry: Entry | None) -> bool:
    """Whether an episode is in the journal, and its film and recording are still there."""
    if entry is None or (entry.video is not None and not (plan.folder / entry.video).is_file()):
        return False
    if plan.retry_errors and entry.episode.outcome is Outcome.ERROR and not (plan.record and plan.dataset.exists()):
        return False
    if not plan.record or plan.dataset.exists() or entry.episode.outcome is Outcome.ERROR:
        return True
    return piece_path(plan.pieces, entry.episode.task, entry.episode.initial_state).is_file()


def _write_results(plan: _Plan, candidate: _Candidate, journal: Journal) -> None:
    """Table, tracebacks, dataset, and last the summary, which says that the evaluation is finished."""
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
    table = EpisodeTable()
    for entry in entries:
        where = {"experience": _NO_EXPERIENCE, "step": 0}
        table.append(entry.episode, **where, render_profile=render_profile, video=entry.video)
    table.write(path)


def policy_folder(location: str) -> Path:
    """The folder that LeRobot loads: of a run the newest checkpoint's, of a checkpoint its ``pretrained_model``.

    A policy on the hub is downloaded into the hub's cache, unless it lies there.

    Raises:
        ConfigurationError: The run has no checkpoint yet, or neither the disk nor the hub has such a policy.
    """
    path = Path(location)
    if (path / "pretrained_model").is_dir():
        return path / "pretrained_model"
    if (path / "config.yaml").is_file() or (path / "checkpoints").is_dir():
        from vla_cl import checkpoint

        newest = checkpoint.newest(path / "checkpoints")
        if newest is None:
            raise ConfigurationError(f"the run {path} has no whole checkpoint yet; let it learn its first task")
        return newest / "pretrained_model"
    if path.exists() and not (path / "config.json").is_file():
        raise ConfigurationError(f"{path} holds no policy: expected a run, a checkpoint, or a folder with config.json")
    return path if path.exists() else _from_hub(location)


def _from_hub(name: str) -> Path:
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise ConfigurationError(
            f"{name!r} is neither a folder here nor a hub name like user/policy; or say {RANDOM!r} to act at random"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(_POLICY_FILES), ignore_patterns=["*/*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(
            f"{name!r} is no folder here and cannot be had from the hub ({reason}); check the name, the connection "
            "and, for a private policy, `hf auth login`"
        ) from error


def _tasks_of_run(folder: Path, available: Sequence[Task]) -> list[str]:
    """The tasks that the run around a policy was about, as far as this suite has them."""
    known = {task.id for task in available}
    for candidate in (folder, *folder.parents[:3]):
        if (candidate / "run.json").is_file():
            tasks: list[dict[str, Any]] = json.loads((candidate / "run.json").read_text())["tasks"]
            return [task["id"] for task in tasks if task["id"] in known]
    return []
