"""The pre-flight: everything that can be refused is refused before a demonstration is recorded or a step is learnt.

``vla-cl check`` runs it alone; ``vla-cl train`` begins with it. Settings first, then the data, then what must fit
together: data and data, data and suite, data and policy, method and policy, and the room on the disks.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vla_cl.config.compose import Settings, build, checked_arguments, nearest
from vla_cl.config.plugins import import_plugins
from vla_cl.data.action_groups import chosen_groups
from vla_cl.data.hub import bytes_to_fetch, hub_folder
from vla_cl.interfaces import Method
from vla_cl.rollout.compatibility import check_interface, other_picture_sizes, require_fit, skipped_rollouts
from vla_cl.rollout.evaluation import EvaluationSettings
from vla_cl.rollout.suite_check import check_suite
from vla_cl.run.arrangements import require_no_future_tasks, require_second_task
from vla_cl.run.data_check import Examined, examine
from vla_cl.run.location import policy_name
from vla_cl.run.method_check import is_of_a_plugin, require_continuable
from vla_cl.run.stream_sources import Sources, hold_out_of, sources
from vla_cl.run.tracking import check_trackers
from vla_cl.trust.text import short
from vla_cl.types import ConfigurationError

if TYPE_CHECKING:
    from vla_cl.data.preflight import DatasetReport
    from vla_cl.models.chosen import PolicySettings
    from vla_cl.training.learning import TrainingSettings

_DEFAULT_POLICY = "nano_vla"
NORMALISATIONS = ("first_task", "checkpoint")


@dataclass(frozen=True)
class Checked:
    """The parts of a run that passed.

    Attributes:
        found: Suite, stream and data.
        evaluation: How tasks are rolled out.
        training: Steps, batch size, learning rate.
        method: The continual-learning method.
        policy: Which policy, its device chosen.
        reports: What was found in each dataset; empty where demonstrations are collected.
        notes: One sentence for whatever somebody should know before the run starts.
    """

    found: Sources
    evaluation: EvaluationSettings
    training: TrainingSettings
    method: Method
    policy: PolicySettings
    reports: tuple[DatasetReport, ...]
    notes: tuple[str, ...]

    def say(self) -> None:
        """Print what somebody should know before the run starts, one line each."""
        for note in self.notes:
            print(note, file=sys.stderr)


def check(settings: Settings) -> Checked:
    """Look at everything that a run will need; writes nothing and records nothing.

    Raises:
        ConfigurationError: The first thing that is wrong.
    """
    evaluation = light_settings(settings)
    import_plugins(settings["plugins"])
    found = sources(settings, metadata_only=True)
    if found.remote:
        _check_before_download(settings, found, evaluation)
        found = sources(settings)
    return _passed(settings, examine(settings, found), evaluation)


def _passed(settings: Settings, examined: Examined, evaluation: EvaluationSettings) -> Checked:
    """The parts of a run whose data are these.

    Raises:
        ConfigurationError: The first thing that is wrong.
    """
    found = examined.found
    training, method = heavy_settings(settings)
    output, cache = output_folder(settings), Path(settings["cache_dir"])
    for setting, folder in (("output_dir", output), ("cache_dir", cache)):
        require_writable(folder, setting)
        require_outside(folder, found.roots, setting)
    kept = hold_out_of(settings) is not None
    known = (
        other_picture_sizes(examined.spec, found.suite.spec) if found.evaluable else skipped_rollouts(found.suite, kept)
    )
    notes = [*examined.notes, *([known] if known else []), *_known_before(settings, method)]
    _check_held_out(examined, settings)
    _check_room(examined, cache, settings)
    require_second_task(settings["arrangement"], method)
    require_no_future_tasks(found.stream.independent, evaluation.future_tasks)
    method.require_length(1 if found.stream.independent else len(found.stream))
    policy = _policy(settings, examined, method, evaluation)
    _require_attachable(method, policy, settings["train_seed"])
    _check_memory(method, examined, settings, policy)
    if found.evaluable or found.recorded is None:
        look_at_suite(found)
    if (untried := require_continuable(method)) is not None:
        notes.append(untried)
    return Checked(found, evaluation, training, method, policy, examined.reports, (*notes, *policy.notes))


def look_at_suite(found: Sources) -> None:
    """Refuse a plug-in's suite whose first episode is not what it declares; ours have tests.

    Raises:
        ConfigurationError: As of `vla_cl.rollout.suite_check.check_suite`.
    """
    suite = found.own_suite
    if is_of_a_plugin(suite):
        known = {task.id for task in suite.tasks()}
        task = next(task for task in found.stream.tasks if task.id in known)
        check_suite(suite, task, demonstrated=found.recorded is None)


def _check_before_download(settings: Settings, found: Sources, evaluation: EvaluationSettings) -> None:
    """Refuse what settings and metadata tell already, before data or videos come from the hub.

    Raises:
        ConfigurationError: The first thing that is wrong.
    """
    from vla_cl.data.declared import tell_sizes
    from vla_cl.data.preflight import require_room_to_fetch

    reports: tuple[DatasetReport, ...] = ()
    if tell_sizes(dataset.root for dataset in found.remote):
        reports = _passed(settings, examine(settings, found), evaluation).reports
    else:  # what pictures they hold is only seen in them
        heavy_settings(settings)
    missing = [size for dataset in found.remote if (size := bytes_to_fetch(dataset)) != 0]
    if missing:
        cache = Path(settings["cache_dir"]) / "frames"
        require_room_to_fetch(sum(size or 0 for size in missing), hub_folder(), reports, cache)


def light_settings(settings: Settings) -> EvaluationSettings:
    """What can be told without a file and without torch."""
    if settings["normalisation"] not in NORMALISATIONS:
        hint = nearest(settings["normalisation"], NORMALISATIONS)
        raise ConfigurationError(f"unknown normalisation {settings['normalisation']!r}; {hint}")
    require_threads(settings["threads"])
    return EvaluationSettings(**checked_arguments(EvaluationSettings, settings["evaluation"]))


def heavy_settings(settings: Settings) -> tuple[TrainingSettings, Method]:
    """What torch is imported for."""
    from vla_cl.training.learning import TrainingSettings

    training = TrainingSettings(**checked_arguments(TrainingSettings, settings["training"]))
    method = build(settings["method"], Method, settings["plugins"])
    check_trackers(settings["tracking"]["trackers"])
    return training, method


def _policy(settings: Settings, examined: Examined, method: Method, evaluation: EvaluationSettings) -> PolicySettings:
    """The policy's settings, if it can be made and fits data, suite and method."""
    from vla_cl.models.planned import possible_abilities, warm_spec
    from vla_cl.run.policy_settings import policy_settings

    found, data = examined.found, examined.spec
    told = [task.instruction for task in found.stream.tasks]
    policy = policy_settings(settings, data, bool(found.evaluable), told)
    spec = replace(data, any_size=policy.any_size)
    if policy.warm_start is not None:
        spec = warm_spec(Path(policy.warm_start), spec)
        require_fit(spec, data, f"warm_start={short(policy.warm_start)}")
    if missing := sorted(method.needs - possible_abilities(policy.kind)):
        raise ConfigurationError(
            f"method {method.name!r} needs a model with {' and '.join(missing)}, which policy {policy.kind!r} does not "
            "declare; docs/methods.md lists what works with it, docs/plugins.md how a policy of your own declares it"
        )
    if found.evaluable:  # how many actions it gives has been compared already
        check_interface(spec, found.suite.spec, 1, 1, evaluation.check_render_profile)
    return policy


def _require_attachable(method: Method, policy: PolicySettings, train_seed: int) -> None:
    """Let the method meet the policy's network, which has names and sizes but no weights yet.

    Raises:
        ConfigurationError: They do not fit: a pattern matches no parameter, too few weights for all tasks.
    """
    if policy.network is None:
        return
    from vla_cl.models.vla import VlaModel

    copy.deepcopy(method).attach(VlaModel(policy.network, None, None), train_seed)


def _check_memory(method: Method, examined: Examined, settings: Settings, policy: PolicySettings) -> None:
    """The method's memory must be able to keep something of every experience."""
    from vla_cl.data.memory_sizes import check_memory
    from vla_cl.methods.remembering import RememberingMethod

    if not isinstance(method, RememberingMethod):
        return
    found = examined.found
    shortest = int(settings["demonstrations"]["hold"]) + 1  # frames that are kept after a success, and the one before
    beside = method.bytes_beside_a_sample(policy.chunk * examined.spec.action_size)
    data = found.stream, found.recorded, examined.reports, examined.spec
    check_memory(method.memory, *data, shortest, beside, policy.histories)


def _check_held_out(examined: Examined, settings: Settings) -> None:
    """Of demonstrations that are yet to be recorded enough must be left; groups must be within an action.

    Of recorded datasets `vla_cl.run.data_check` has looked at the episodes themselves.
    """
    kept = hold_out_of(settings)
    if kept is None:
        return
    episodes = int(settings["demonstrations"]["episodes"])
    if examined.found.recorded is None:
        kept.count_of(episodes, f"demonstrations.episodes={episodes}")
    groups = (settings.get("data") or {}).get("action_groups")
    if groups is not None:
        chosen_groups(examined.spec.action_size, groups)


def _known_before(settings: Settings, method: Method) -> list[str]:
    """A sentence where held-out episodes may not be new to what the run begins with."""
    begun = [
        name
        for name, given in (("warm_start", settings["warm_start"]), ("method.memory.reuse", method.reuses))
        if given
    ]
    if hold_out_of(settings) is None or not begun:
        return []
    return [
        f"{' and '.join(begun)} may have learnt from the episodes that data.held_out keeps from training: scores on "
        "them are those of new episodes only if it has not"
    ]


def _check_room(examined: Examined, cache: Path, settings: Settings) -> None:
    """Decoded pictures of all tasks must fit on the cache's disk."""
    from vla_cl.data.preflight import require_room

    found = examined.found
    if found.recorded is not None:
        if not found.remote:  # otherwise `_check_before_download` asks for both
            require_room(examined.reports, cache / "frames")
        return
    options = settings["demonstrations"]
    pixels = sum(height * width for height, width in found.suite.spec.cameras.values())
    # every demonstration has at least the frames that are kept after its success
    least = len(found.stream.tasks) * int(options["episodes"]) * (int(options["hold"]) + 1) * 3 * pixels
    require_room([], cache, least)


def output_folder(settings: Settings) -> Path:
    """Where a run's results go."""
    return Path(settings["output_dir"] or Path("outputs") / run_name(settings))


def run_name(settings: Settings) -> str:
    """The name given, or one made from stream, policy, method, arrangement and seed.

    The policy is told where it is not the default one, a warm start by its own name; the plain references go without
    the method.
    """
    if settings["name"]:
        return str(settings["name"])
    method, arrangement = settings["method"]["name"], settings["arrangement"]
    if arrangement == "sequential":
        what = method
    else:
        what = arrangement if method == "sequential" else f"{method}-{arrangement}"
    parts = (settings["stream"]["name"], _policy_word(settings), what, f"seed{settings['train_seed']}")
    return "-".join(part for part in parts if part)


def _policy_word(settings: Settings) -> str:
    """What a run's name says of its policy; nothing of the default one, or where a family brings its models."""
    if settings.get("family", {}).get("name", "robot") != "robot":
        return ""
    if settings.get("warm_start") is not None:
        return f"from-{policy_name(settings['warm_start'])}"
    kind = str(settings["policy"]["type"])
    return "" if kind == _DEFAULT_POLICY else kind


def require_outside(folder: Path, datasets: Sequence[Path], setting: str) -> None:
    """Refuse a folder inside a dataset: what is written there would be taken for a part of it.

    Raises:
        ConfigurationError: It is one; the message names the dataset.
    """
    for root in datasets:
        if folder.resolve().is_relative_to(root.resolve()):
            raise ConfigurationError(
                f"{setting}={short(folder)} lies inside the dataset {short(root)}, which must stay as it is; give "
                f"another {setting}"
            )


def require_writable(folder: Path, setting: str) -> None:
    """Refuse a folder that cannot be made or written to; leaves nothing behind.

    Raises:
        ConfigurationError: It, or what would hold it, is a file or may not be written.
    """
    where = folder.absolute()
    try:
        while not where.exists():
            where = where.parent
        if not where.is_dir():
            raise ConfigurationError(
                f"{setting}={short(folder)} cannot be a folder: {short(where)} is a file; give another {setting}"
            )
        with tempfile.TemporaryFile(dir=where):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"{setting}={short(folder)} cannot be written ({error.strerror or error}); give another {setting}"
        ) from error


def require_threads(count: object) -> None:
    """Refuse what is no number of threads.

    Raises:
        ConfigurationError: It is negative, or no number.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise ConfigurationError(f"threads must be 0 (torch's choice) or more; got {count!r}")


def use_threads(count: int) -> None:
    """Torch threads; 0 leaves torch's choice.

    Raises:
        ConfigurationError: The number is negative.
    """
    require_threads(count)
    if count:
        import torch

        torch.set_num_threads(count)
