"""Any LeRobot policy as a `Policy`: losses per sample, chunks for rollouts, a folder that stock LeRobot loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.policies.utils import populate_queues
from lerobot.utils.constants import OBS_IMAGES
from numpy.typing import NDArray
from torch import Tensor, nn

from vla_cl.interfaces import (
    Distillable,
    GivesFeatures,
    GivesKeyedDraws,
    GivesModalities,
    GivesOutputs,
    Policy,
    SharesComputation,
)
from vla_cl.models.planned import declared_abilities
from vla_cl.models.policy_config import (
    horizon,
    policy_config,
    predicted_actions,
    register_own_policies,
    resizes,
)
from vla_cl.models.policy_roles import POLICY_ROLES
from vla_cl.models.policy_types import DETERMINISTIC, EMPTY_CAMERA, QUEUED
from vla_cl.models.randomness import evaluating, keyed, seeded, settle
from vla_cl.models.stored_policy import CONVENTIONS, load_policy, load_weights, require_statistics, write_note
from vla_cl.random_numbers import Purpose, number
from vla_cl.trust.hub import fetch_policy
from vla_cl.trust.policies import check_policy_folder
from vla_cl.types import (
    METHOD_KEY,
    Ability,
    Batch,
    ConfigurationError,
    Draw,
    ForwardPass,
    InterfaceSpec,
    Observation,
    Roles,
)

__all__ = ["CONVENTIONS", "VlaModel", "horizon", "policy_config"]


class VlaModel(Policy, Distillable):
    """A LeRobot policy with its processors.

    Args:
        policy: The network.
        preprocessor: Normalises a batch (LeRobot's pipeline).
        postprocessor: Turns normalised actions into the suite's units.
        render_profile: Look of the pictures that it was trained on, if known.
        control_mode: What the actions meant that it was trained on, if known.
        image_orientation: How the pictures were turned that it was trained on, if known.
        fps: Actions per second that it was trained on, if known.
    """

    def __init__(
        self,
        policy: PreTrainedPolicy,
        preprocessor: Any,  # noqa: ANN401 - LeRobot's pipelines are generic over untyped dictionaries
        postprocessor: Any,  # noqa: ANN401
        render_profile: str | None = None,
        control_mode: str | None = None,
        image_orientation: str | None = None,
        fps: float | None = None,
    ) -> None:
        self.policy = policy
        self.preprocessor = preprocessor
        self.postprocessor = postprocessor
        self.render_profile = render_profile
        self.control_mode = control_mode
        self.image_orientation = image_orientation
        self.fps = fps
        self._declared = declared_abilities(type(policy))
        self._per_sample_losses = Ability.PER_SAMPLE_LOSSES in self._declared
        self._deterministic = policy.config.type in DETERMINISTIC

    @classmethod
    def new(
        cls,
        config: PreTrainedConfig,
        statistics: Mapping[str, Mapping[str, NDArray[Any]]],
        init_seed: int,
        render_profile: str | None = None,
        control_mode: str | None = None,
        image_orientation: str | None = None,
        fps: float | None = None,
    ) -> VlaModel:
        """A policy with fresh weights, or those of ``config.pretrained_path``, and frozen normalisation."""
        with seeded(number(init_seed, Purpose.INITIAL_WEIGHTS), torch.device(config.device)):
            policy = cls._started(config)
        policy.to(config.device)
        tensors = {key: {name: torch.as_tensor(v) for name, v in item.items()} for key, item in statistics.items()}
        preprocessor, postprocessor = make_pre_post_processors(config, dataset_stats=tensors)
        return cls(policy, preprocessor, postprocessor, render_profile, control_mode, image_orientation, fps)

    @staticmethod
    def _started(config: PreTrainedConfig) -> PreTrainedPolicy:
        """A policy with new weights, or with those that ``config.pretrained_path`` names."""
        if not config.pretrained_path:
            policy: PreTrainedPolicy = get_policy_class(config.type)(config)
            return policy
        place = Path(config.pretrained_path)
        folder = place if place.exists() else fetch_policy(str(config.pretrained_path))
        return load_weights(check_policy_folder(folder, pipelines=False), config)

    @classmethod
    def load(cls, folder: Path | str, device: str, adapt: Callable[[PreTrainedConfig], None] | None = None) -> VlaModel:
        """A checkpoint in LeRobot's layout: a folder with ``config.json``, weights and processors, or a hub name.

        Args:
            folder: Where it lies.
            device: Torch device.
            adapt: Changes the configuration before the network is built (`vla_cl.models.warm_start.fit_to_data`).

        Raises:
            ConfigurationError: It is no policy, is not to be trusted, or its weights do not fit its configuration.
        """
        register_own_policies()
        place = Path(folder)
        found = load_policy(place if place.exists() else fetch_policy(str(folder)), device, adapt)
        return cls(found.policy, found.preprocessor, found.postprocessor, **found.conventions)

    @property
    def module(self) -> nn.Module:
        """The LeRobot policy."""
        module: nn.Module = self.policy
        return module

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.module.parameters()).device

    @property
    def spec(self) -> InterfaceSpec:
        """Cameras, state and action sizes from the policy's configuration."""
        inputs = self.policy.config.input_features
        state = inputs.get("observation.state")
        return InterfaceSpec(
            cameras={
                key: (feature.shape[1], feature.shape[2])
                for key, feature in inputs.items()
                if feature.type is FeatureType.VISUAL and not key.startswith(EMPTY_CAMERA)
            },
            state_size=state.shape[0] if state else 0,
            action_size=self.policy.config.action_feature.shape[0],
            render_profile=self.render_profile,
            control_mode=self.control_mode,
            image_orientation=self.image_orientation,
            fps=self.fps,
            any_size=resizes(self.policy.config),
        )

    def complete_conventions(self, data: InterfaceSpec) -> None:
        """Take over from the data what a checkpoint from elsewhere does not say: it is what the policy learns now."""
        for name in CONVENTIONS:
            if getattr(self, name) is None and name != "fps":
                setattr(self, name, getattr(data, name))

    def require_statistics(self) -> None:
        """Refuse to act, or to learn on, where the policy lacks statistics that its normalisation needs.

        Raises:
            ConfigurationError: As of `vla_cl.models.stored_policy.require_statistics`.
        """
        require_statistics(self.policy, self.preprocessor, self.postprocessor)

    @property
    def chunk_size(self) -> int:
        """Actions given at once, from the observation's own step on."""
        return predicted_actions(self.policy.config)

    @property
    def observation_offsets(self) -> Sequence[int]:
        """Frames that it looks at when it acts, relative to the present one."""
        return horizon(self.policy.config).observations or (0,)

    def normalise_with(self, statistics: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
        """Replace the normalisation of a warm start; its weights then see other numbers than they were trained on."""
        tensors = {key: {name: torch.as_tensor(v) for name, v in item.items()} for key, item in statistics.items()}
        self.preprocessor, self.postprocessor = make_pre_post_processors(self.policy.config, dataset_stats=tensors)

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """LeRobot's groups; a group without its own rate gets ``learning_rate``."""
        parameters = self.policy.get_optim_params()
        if isinstance(parameters, dict):  # SmolVLA and others give named_parameters as a dictionary
            parameters = list(parameters.values())
        groups = list(parameters)
        if not groups or not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        kept = [{**group, "params": [p for p in group["params"] if p.requires_grad]} for group in groups]
        return [{"lr": learning_rate, **group} for group in kept if group["params"]]

    @property
    def abilities(self) -> frozenset[Ability]:
        """What its class declares, less what it does not give with its settings."""
        found = self._declared
        if not self.modalities:
            found -= {Ability.MODALITIES}
        if not (isinstance(self.policy, GivesOutputs) and self.policy.fixed_outputs):
            found -= {Ability.FIXED_OUTPUTS}
        return found

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those that the policy declares."""
        return self.policy.modalities if isinstance(self.policy, GivesModalities) else ()

    @property
    def name(self) -> str:
        """LeRobot's name of the policy."""
        return f"policy {self.policy.config.type!r}"

    def roles(self) -> Roles | None:
        """Those of its type, from `vla_cl.models.policy_roles`."""
        patterns = POLICY_ROLES.get(self.policy.config.type)
        return None if patterns is None else patterns.told_of(self.module, self.name)

    def loss(self, batch: Batch, draw: Draw) -> Tensor:
        """One value per sample, shape (B,); for policies that only give the mean, that, repeated."""
        inputs = self._inputs(batch)
        chosen = self._chosen(draw)
        with seeded(draw.seed, self.device):
            options = {"reduction": "none"} if self._per_sample_losses else {}
            losses: Tensor = self.policy.forward(inputs, **options, **chosen)[0]
        return losses if self._per_sample_losses else losses.expand(len(batch["task"]))

    def forward_pass(self, batch: Batch, draw: Draw) -> ForwardPass:
        """What the policy's ``forward_pass`` gives; its outputs are normalised, shape (B, chunk_size, A).

        Raises:
            ConfigurationError: The policy does not declare it.
        """
        if not isinstance(self.policy, GivesOutputs):
            raise self._lacks("forward_pass", GivesOutputs, "distillation")
        inputs = self._inputs(batch)
        chosen = self._chosen(draw)
        with seeded(draw.seed, self.device):
            given = self.policy.forward_pass(inputs, **chosen)
        return ForwardPass(given.pop("losses"), given.pop("outputs"), given)

    def answer_as_teacher(self, student_is_training: bool) -> None:
        """Augmentation and precision as the student's; no dropout, running statistics used and not changed."""
        self.module.train(student_is_training)
        settle(self.module)

    def distance(self, student: Tensor, teacher: Tensor, batch: Batch, temperature: float = 2.0) -> Tensor:
        """Mean squared difference over the actions that are not padding, shape (B,); there is no temperature."""
        squares = (student - teacher).square().mean(2)
        valid: Tensor = (~batch["action_is_pad"]).to(squares)
        return (squares * valid).sum(1) / valid.sum(1).clamp(min=1)

    def independent_samples(self) -> AbstractContextManager[None]:
        """As the policy's, if it shares computation between samples."""
        return self.policy.independent_samples() if isinstance(self.policy, SharesComputation) else nullcontext()

    def uncounted_state(self) -> dict[str, Tensor]:
        """VQ-BeT counts the steps that its codes have learnt in a plain number."""
        if self.policy.config.type != "vqbet":
            return {}
        return {"optimized_steps": torch.tensor(int(self.policy.vqbet.action_head.vqvae_model.optimized_steps))}

    def load_uncounted_state(self, state: Mapping[str, Tensor]) -> None:
        """Count on from there."""
        if state:
            self.policy.vqbet.action_head.vqvae_model.optimized_steps = int(state["optimized_steps"])

    def features(self, batch: Batch) -> Tensor:
        """The policy's embedding of what it sees and is told, shape (B, D).

        Raises:
            ConfigurationError: The policy does not declare it.
        """
        if not isinstance(self.policy, GivesFeatures):
            raise self._lacks("features", GivesFeatures, "routing or selection by features")
        with torch.no_grad(), evaluating(self.module):
            return self.policy.features(self._inputs(batch))

    def act(self, observations: Sequence[Observation]) -> NDArray[np.float32]:
        """A chunk for each observation, in the suite's units, shape (B, chunk_size, A).

        Raises:
            ConfigurationError: The policy needs earlier observations too; only those at decisions are ever rendered.
        """
        history = horizon(self.policy.config).observations or (0,)
        if history != (0,):
            raise ConfigurationError(
                f"policy {self.policy.config.type!r} looks at {len(history)} frames, but rollouts render only when a "
                "decision is due; set policy.n_obs_steps=1"
            )
        if self._deterministic:
            return self._predict(observations)
        return np.concatenate([self._predict([observation]) for observation in observations])

    def chunks(self, batch: Batch) -> NDArray[np.float32]:
        """A chunk for each sample of a batch, in the data's units, shape (B, chunk_size, A).

        As `act`, but from what `vla_cl.data.frames.Frames.batch` gives, so policies that look at several frames can be
        asked too. A sample's chunk does not depend on what else is in the batch.
        """
        keys = [*self.spec.cameras, *(["observation.state"] if self.spec.state_size else [])]
        observed: Batch = {key: batch[key] for key in ("task", *keys)}
        if self._deterministic:
            return self._chunk(observed)
        single = range(len(batch["task"]))
        return np.concatenate([self._chunk({key: value[n : n + 1] for key, value in observed.items()}) for n in single])

    def save(self, folder: Path) -> None:
        """Write the folder that stock ``lerobot-eval`` and ``lerobot-rollout`` load."""
        self.policy.save_pretrained(folder)
        self.preprocessor.save_pretrained(folder)
        self.postprocessor.save_pretrained(folder)
        write_note(folder, {name: getattr(self, name) for name in CONVENTIONS})

    def _predict(self, observations: Sequence[Observation]) -> NDArray[np.float32]:
        batch: Batch = {"task": [observation.instruction for observation in observations]}
        for camera in self.spec.cameras:
            pictures = np.stack([observation.images[camera] for observation in observations])
            batch[camera] = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
        if self.spec.state_size:
            batch["observation.state"] = torch.from_numpy(np.stack([o.state for o in observations]))
        if horizon(self.policy.config).observations is not None:
            batch = {key: value if key == "task" else value.unsqueeze(1) for key, value in batch.items()}
        return self._chunk(batch)

    def _chunk(self, batch: Batch) -> NDArray[np.float32]:
        with torch.inference_mode(), evaluating(self.policy), seeded(number(0, Purpose.ACTING), self.device):
            self.policy.reset()
            chunk = self.policy.predict_action_chunk(self._queued(self._inputs(batch)))
        size, length, dimensions = chunk.shape
        actions = self.postprocessor(chunk.reshape(size * length, dimensions))
        # A policy that pads may cut the actions down to the robot's size only here.
        result: NDArray[np.float32] = actions.reshape(size, length, -1).float().numpy()
        return result[:, : self.chunk_size]

    def _queued(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """What ``select_action`` would do first: for policies that read observations from their queues only."""
        if self.policy.config.type not in QUEUED:
            return inputs
        # One frame after the other, the present one last; the queues add the dimension of time themselves.
        for place in range(len(self.observation_offsets)):
            frames = {key: value[:, place] for key, value in inputs.items() if key.startswith("observation.")}
            frames[OBS_IMAGES] = torch.stack([frames[key] for key in self.policy.config.image_features], dim=-4)
            self.policy._queues = populate_queues(self.policy._queues, frames)
        rest = {key: value for key, value in inputs.items() if key != "action" and key not in frames}
        return {**rest, **frames}

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        """Pictures as floats in 0..1 on the device, everything normalised."""
        ready = {key: value for key, value in batch.items() if key != "index" and not key.startswith(METHOD_KEY)}
        for camera in self.spec.cameras:
            ready[camera] = ready[camera].to(self.device, non_blocking=True).float().div_(255)
        inputs: dict[str, Any] = self.preprocessor(ready)
        return inputs

    def _chosen(self, draw: Draw) -> dict[str, Tensor]:
        """The noise of each sample, if its seed is given; from the CPU's generator, so that it is the same everywhere.

        Raises:
            ConfigurationError: The policy's noise cannot be chosen.
        """
        if draw.sample_seeds is None:
            return {}
        if not isinstance(self.policy, GivesKeyedDraws):
            raise self._lacks("draw", GivesKeyedDraws, "noise chosen per sample")
        chosen = self.policy.draw(keyed(draw.sample_seeds))
        return {name: value.to(self.device) for name, value in chosen.items()}

    def _lacks(self, method: str, declaration: type, purpose: str) -> ConfigurationError:
        return ConfigurationError(
            f"{self.name} does not declare the method {method!r}, which {purpose} needs; use policy=nano_vla, or let "
            f"the policy's class define it and subclass vla_cl.interfaces.{declaration.__name__} (docs/plugins.md)"
        )
