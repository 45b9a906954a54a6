"""Robot policies: LeRobot datasets, LeRobot policies, rollouts in a suite."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vla_cl.data.action_groups import chosen_groups, told_groups
from vla_cl.data.dataset_folder import ACTION, DatasetFolder, spec_of
from vla_cl.data.frames import Frames, spec_of_all
from vla_cl.data.normalisation import frozen_statistics
from vla_cl.data.reused_memory import reused_frames
from vla_cl.data.run_data import require_unchanged
from vla_cl.data.source import Source
from vla_cl.evaluation.held_out_episodes import HeldOutEpisodes, HeldOutSettings
from vla_cl.interfaces import Data, Evaluator, Family, Model, Suite
from vla_cl.models.chosen import PolicySettings
from vla_cl.models.normalised_range import FARTHEST, farthest
from vla_cl.models.stored_policy import CONVENTIONS
from vla_cl.models.vla import VlaModel, horizon, policy_config
from vla_cl.models.warm_start import fit_to_data
from vla_cl.rollout.compatibility import require_fit
from vla_cl.rollout.evaluation import EvaluationSettings
from vla_cl.rollout.evaluator import RolloutEvaluator
from vla_cl.types import Experience, Stream, Task


class RobotFamily(Family):
    """A policy that learns a stream of demonstrations.

    Args:
        suite: Where tasks are rolled out.
        stream: What is learnt, in order.
        sources: The data of each task id.
        policy: Which policy.
        evaluation: How tasks are rolled out.
        frame_cache: Folder for decoded pictures.
        folder: The run's: films go there, and what it says of its datasets is compared with them.
        held_out: How episodes that are kept from training are scored on, if some are.
    """

    name = "robot"

    def __init__(
        self,
        suite: Suite,
        stream: Stream,
        sources: Mapping[str, Sequence[Source]],
        policy: PolicySettings,
        evaluation: EvaluationSettings,
        frame_cache: Path,
        folder: Path,
        held_out: HeldOutSettings | None = None,
    ) -> None:
        self._suite = suite
        self._stream = stream
        self._sources = sources
        self._policy = policy
        self._evaluation = evaluation
        self._frame_cache = frame_cache
        self._folder = folder
        self._held_out = held_out
        self._loaded: dict[int, Frames] = {}
        self._passed_over: tuple[str, ...] = ()

    def tasks(self) -> Sequence[Task]:
        """Those of the stream; what the suite has besides has no data here."""
        return self._stream.tasks

    def new_model(self, first: Experience, seed: int) -> VlaModel:
        """The warm start, or new weights; normalised by the first experience's data."""
        spec = spec_of_all(self._sources_of(first))
        if self._policy.warm_start is not None:
            return self._warm_start(first)
        config = policy_config(self._policy.kind, self._policy.fields, spec, self._policy.device)
        frames = self._frames(first, config)
        conventions = {name: getattr(spec, name) for name in CONVENTIONS} | {"fps": self._rate(first)}
        return VlaModel.new(config, frozen_statistics(frames), seed, **conventions)

    def load_model(self, folder: Path) -> VlaModel:
        """A policy in LeRobot's layout."""
        return VlaModel.load(folder, self._policy.device)

    def data(self, experience: Experience, model: Model) -> Data:
        """Frames with the policy's chunks; what the model does not know of its conventions is taken from them."""
        policy = _vla(model)
        frames = self._frames(experience, policy.policy.config)
        require_fit(policy.spec, frames.spec, "the policy")
        policy.complete_conventions(frames.spec)
        self._say_if_far_outside(policy, frames, experience)
        return frames

    def reused_data(self, folder: Path, model: Model) -> Data:
        """The dataset that ``vla-cl memory RUN --export`` wrote."""
        policy = _vla(model)
        window = horizon(policy.policy.config)
        frames = reused_frames(folder, self._frame_cache, window.actions, window.observations)
        require_fit(policy.spec, frames.spec, "the policy")
        return frames

    def evaluator(self) -> Evaluator:
        """Rollouts; held-out episodes where the suite has none of the tasks."""
        rollouts = RolloutEvaluator(self._suite, self._stream, self._evaluation, self._folder)
        if self._held_out is not None and rollouts.why_nothing() is not None:
            return self._held_out_episodes(self._held_out)
        return rollouts

    def further_evaluators(self) -> Sequence[Evaluator]:
        """Held-out episodes, where tasks are rolled out as well."""
        rolled_out = isinstance(self.evaluator(), RolloutEvaluator)
        return (self._held_out_episodes(self._held_out),) if self._held_out is not None and rolled_out else ()

    def _held_out_episodes(self, settings: HeldOutSettings) -> Evaluator:
        sources = {task.id: self._sources[task.id] for task in self._stream.tasks}
        first = next(iter(sources.values()))[0]
        size = spec_of(first).action_size
        if settings.groups is not None:
            groups = chosen_groups(size, settings.groups)
        else:
            groups = told_groups(size, DatasetFolder(first.root).joints.get(ACTION))
        return HeldOutEpisodes(sources, groups, settings.frames, self._frame_cache)

    def identity(self) -> Mapping[str, object]:
        """The suite, and the content of all datasets: normalization and held-out episodes come from them."""
        roots = dict.fromkeys(source.root for listed in self._sources.values() for source in listed)
        return {"suite": self._suite.fingerprint(), "datasets": [DatasetFolder(root).identity for root in roots]}

    def facts(self) -> Mapping[str, object]:
        """Policy, suite and the look of its pictures."""
        return {
            "policy": self._policy.kind,
            "suite": self._suite.name,
            "render_profile": self._suite.spec.render_profile,
        }

    def passed_over(self) -> tuple[str, ...]:
        """Damaged checkpoints of the warm start's run."""
        return self._passed_over

    def _say_if_far_outside(self, policy: VlaModel, frames: Frames, experience: Experience) -> None:
        """The normalization is frozen: a number that rested in the first experience may be far outside later."""
        place, reach = farthest(policy.postprocessor, frames.actions)
        if reach > FARTHEST:
            names = DatasetFolder(self._sources_of(experience)[0].root).joints.get(ACTION, ())
            name = f" ({names[place]!r})" if place < len(names) else ""
            print(
                f"experience {experience.name!r} has actions whose number {place}{name} reaches {reach:.0f} when "
                "normalized: "
                "it hardly moved in the data that the normalization was made of, and will hardly be learnt; begin with "
                "an experience in which it moves (stream.experiences), or with a policy that knows it "
                "(warm_start and normalisation=checkpoint)",
                file=sys.stderr,
            )

    def _warm_start(self, first: Experience) -> VlaModel:
        named, spec = self._policy.warm_start, spec_of_all(self._sources_of(first))
        assert named is not None
        self._passed_over = self._policy.passed_over
        adapt = partial(fit_to_data, fields=self._policy.fields, spec=spec, where=named)
        model = VlaModel.load(named, self._policy.device, adapt)
        require_fit(model.spec, spec, f"checkpoint {named}")
        model.complete_conventions(spec)
        model.fps = self._rate(first)  # whatever it learnt before
        if self._policy.normalisation == "checkpoint":
            model.require_statistics()
        else:
            model.normalise_with(frozen_statistics(self._frames(first, model.policy.config)))
        return model

    def _rate(self, first: Experience) -> float | None:
        """Actions per second of all that the model will learn; None if its datasets have several rates."""
        learnt = (first,) if self._stream.independent else self._stream.experiences
        return spec_of_all([source for experience in learnt for source in self._sources_of(experience)]).fps

    def _frames(self, experience: Experience, config: Any) -> Frames:  # noqa: ANN401 - LeRobot's
        """Of one experience, read once."""
        if experience.index not in self._loaded:
            window, sources = horizon(config), self._sources_of(experience)
            frames = Frames(sources, self._frame_cache, window.actions, window.observations)
            require_unchanged(self._folder, [source.root for source in sources])  # after all of them has been read
            self._loaded[experience.index] = frames
        return self._loaded[experience.index]

    def _sources_of(self, experience: Experience) -> list[Source]:
        return [source for task in experience.tasks for source in self._sources[task.id]]


def _vla(model: Model) -> VlaModel:
    if not isinstance(model, VlaModel):
        raise TypeError(f"a robot's model is a VlaModel, not {type(model).__name__}")
    return model
