"""NanoVLA: a few million parameters that see, read and act; trains in minutes on a CPU."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor, nn
from torch.nn import functional

from vla_cl.interfaces import GivesFeatures, GivesKeyedDraws, GivesModalities, SharesComputation
from vla_cl.policies.nano_vla import augmentation
from vla_cl.policies.nano_vla.configuration_nano_vla import NanoVLAConfig
from vla_cl.policies.nano_vla.networks import InstructionEncoder, VelocityHead, VisionEncoder
from vla_cl.policies.nano_vla.tokenizer import distinct, tokenize
from vla_cl.types import ConfigurationError

STATE_EMBEDDING_SIZE = 64


class NanoVLAPolicy(
    PreTrainedPolicy,  # type: ignore[misc]
    GivesModalities,
    GivesKeyedDraws,
    GivesFeatures,
    SharesComputation,
):
    """Images, proprioception and an instruction to a chunk of actions.

    Non-obvious behaviour: in training mode images are augmented and, where it pays, computed in bfloat16;
    `forward_pass` and `features` follow the same mode, so a teacher that shall see a student's augmentation has to be
    in training mode too (there is no dropout and no running statistic). All randomness that is not given comes from
    torch's global generator. In evaluation mode predictions are not random, and a sample's result does not depend on
    the rest of its batch.
    """

    config_class = NanoVLAConfig
    name = "nano_vla"

    def __init__(self, config: NanoVLAConfig, dataset_stats: Any = None, dataset_meta: Any = None) -> None:  # noqa: ANN401
        """Build an untrained policy.

        Args:
            config: Settings, with input and output features filled in.
            dataset_stats: Ignored: normalising is the processors' work. LeRobot's factory passes it.
            dataset_meta: Ignored, as above.

        Raises:
            ConfigurationError: The features lack a camera or an action.
        """
        super().__init__(config)
        config.validate_features()
        self.config = config
        self.cameras = list(config.image_features)
        self.action_size: int = config.action_feature.shape[0]
        state_size: int = config.robot_state_feature.shape[0] if config.robot_state_feature else 0
        hidden = config.hidden_size
        self.instruction_encoder = InstructionEncoder(config.condition_size)
        self.vision_encoder = VisionEncoder(
            config.image_size, config.vision_channels, config.num_keypoints, config.condition_size
        )
        joined = config.condition_size + len(self.cameras) * self.vision_encoder.output_size
        self.state_encoder: nn.Module | None = None
        if state_size:
            self.state_encoder = nn.Sequential(
                nn.Linear(state_size, STATE_EMBEDDING_SIZE),
                nn.ReLU(),
                nn.Linear(STATE_EMBEDDING_SIZE, STATE_EMBEDDING_SIZE),
            )
            joined += STATE_EMBEDDING_SIZE
        self.trunk = nn.Sequential(
            nn.Linear(joined, hidden), nn.LayerNorm(hidden), nn.ReLU(),
            nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.ReLU(),
        )  # fmt: skip
        self.share_instructions = True  # False: each sample has its own pass through the encoder, for its own gradient
        self.head: nn.Module
        if config.objective == "regression":
            self.head = nn.Linear(hidden, config.chunk_size * self.action_size)
        else:
            self.head = VelocityHead(hidden, config.chunk_size, self.action_size)
        self.reset()

    def get_optim_params(self) -> list[nn.Parameter]:
        """Every parameter, in one group."""
        return list(self.parameters())

    def reset(self) -> None:
        """Forget the actions not yet executed; to be called at the start of an episode."""
        self._queue: deque[Tensor] = deque()

    def forward(
        self,
        batch: dict[str, Any],
        reduction: Literal["mean", "none"] = "mean",
        noise: Tensor | None = None,
        time: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """Compute the training loss.

        Args:
            batch: LeRobot's flat dictionary after the pre-processor, with ``action`` (B, chunk_size, A) and, if the
                chunk may reach beyond the episode, ``action_is_pad`` (B, chunk_size).
            reduction: ``none`` gives one value per sample, the mean over its actions that are not padding.
            noise: As in `forward_pass`.
            time: As in `forward_pass`.

        Returns:
            A scalar or (B,), and values to log.
        """
        losses = self.forward_pass(batch, noise, time)["losses"]
        mean = losses.mean()
        return (losses if reduction == "none" else mean), {"loss": mean.item()}

    def forward_pass(
        self, batch: dict[str, Any], noise: Tensor | None = None, time: Tensor | None = None
    ) -> dict[str, Tensor]:
        """All that methods of continual learning compare, from one pass.

        Args:
            batch: As in `forward`.
            noise: Where flow matching starts, (B, chunk_size, A); drawn from torch's generator if not given.
            time: Where on the way from noise to actions the velocity is asked for, (B,) in 0..1; drawn if not given.

        Returns:
            ``losses`` (B,); ``outputs`` (B, chunk_size, A): normalised actions, or the velocity at that noise and time;
            and what was perceived before it was joined: ``text``, ``vision`` (cameras behind each other) and ``state``.
        """
        perceived = self._perceive(batch)
        context: Tensor = self.trunk(torch.cat([*perceived.values()], dim=1))
        actions: Tensor = batch[ACTION]
        if self.config.objective == "regression":
            output, target = self._regress(context), actions
        else:
            noise = torch.randn_like(actions) if noise is None else noise
            time = torch.rand(len(actions), device=actions.device, dtype=actions.dtype) if time is None else time
            between = torch.lerp(noise, actions, time[:, None, None])
            output, target = self.head(context, between, time), actions - noise
        error = output - target
        errors = (error.abs() if self.config.objective == "regression" else error.square()).mean(-1)
        padding = batch.get("action_is_pad")
        valid = torch.ones_like(errors) if padding is None else (~padding).to(errors.dtype)
        losses = (errors * valid).sum(1) / valid.sum(1).clamp(min=1)
        return {"losses": losses, "outputs": output, **perceived}

    @property
    def modalities(self) -> tuple[str, ...]:
        """What `forward_pass` gives beside losses and outputs, in its order."""
        return ("text", "vision") if self.state_encoder is None else ("text", "vision", "state")

    @property
    def fixed_outputs(self) -> bool:
        """Whether training outputs depend on the sample alone: no noise, no augmentation."""
        config = self.config
        augmented = (config.state_noise, config.shift_pixels, config.brightness, config.contrast, config.color)
        return config.objective == "regression" and not any((*augmented, config.shade))

    def draw(self, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """``noise`` and ``time`` for `forward`, each sample's from its own generator (of the CPU)."""
        if self.config.objective == "regression":
            return {}
        shape = (self.config.chunk_size, self.action_size)
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        return {"noise": noise, "time": torch.cat([torch.rand(1, generator=generator) for generator in generators])}

    @contextlib.contextmanager
    def independent_samples(self) -> Iterator[None]:
        """An instruction is encoded once for all samples that have it; inside, once for each."""
        before, self.share_instructions = self.share_instructions, False
        try:
            yield
        finally:
            self.share_instructions = before

    def features(self, batch: dict[str, Any]) -> Tensor:
        """Join all that is perceived, (B, hidden_size), non-negative."""
        features: Tensor = self.trunk(torch.cat([*self._perceive(batch).values()], dim=1))
        return features

    def _perceive(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Embeddings of instruction, pictures and state, each (B, size), in the order in which they are joined."""
        condition = self._encode_instructions(batch)
        device = condition.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self._use_bfloat16(device)):
            seen = [self.vision_encoder(self._image(batch, camera), condition) for camera in self.cameras]
        perceived = {"text": condition, "vision": torch.cat(seen, dim=1)}
        if self.state_encoder is not None:
            # The logarithm tames values far outside of what the statistics have seen, as another task's may be.
            state = torch.asinh(batch[OBS_STATE])
            if self.training and self.config.state_noise > 0:
                state = state + self.config.state_noise * torch.randn_like(state)
            perceived["state"] = self.state_encoder(state)
        return perceived

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Any], noise: Tensor | None = None, **_: object) -> Tensor:
        """Predict a chunk of actions; puts the policy into evaluation mode.

        Args:
            batch: Observations after the pre-processor, B samples.
            noise: Where flow matching starts, (B, chunk_size, A); zeros, the noise's mean, if not given.

        Returns:
            Normalised actions, (B, chunk_size, A).
        """
        self.eval()
        context = self.features(batch)
        if self.config.objective == "regression":
            return self._regress(context)
        actions = context.new_zeros(len(context), self.config.chunk_size, self.action_size) if noise is None else noise
        for step in range(self.config.num_flow_steps):
            time = context.new_full((len(context),), step / self.config.num_flow_steps)
            actions = actions + self.head(context, actions, time) / self.config.num_flow_steps
        return actions

    @torch.no_grad()
    def select_action(self, batch: dict[str, Any], **keywords: Any) -> Tensor:  # noqa: ANN401
        """Give the next normalised action, (B, A); predicts a new chunk after every ``n_action_steps`` actions."""
        if not self._queue:
            chunk = self.predict_action_chunk(batch, **keywords)
            self._queue.extend(chunk[:, : self.config.n_action_steps].unbind(1))
        return self._queue.popleft()

    def _regress(self, context: Tensor) -> Tensor:
        actions: Tensor = self.head(context).unflatten(1, (self.config.chunk_size, self.action_size))
        return actions

    def _encode_instructions(self, batch: dict[str, Any]) -> Tensor:
        """Encode each different instruction once, then hand it to its samples: (B, condition_size)."""
        if "task" not in batch:
            raise ConfigurationError(
                "nano_vla needs an instruction for every sample under the key task, "
                f"but the batch has {sorted(batch)}; add a list of sentences"
            )
        device = next(self.parameters()).device
        if not self.share_instructions:
            tokens = tokenize(batch["task"], self.config.max_instruction_bytes).to(device)
            own: Tensor = self.instruction_encoder(tokens)
            return own
        instructions, rows = distinct(batch["task"])
        tokens = tokenize(instructions, self.config.max_instruction_bytes).to(device)
        if self.training:
            embeddings: Tensor = self.instruction_encoder(tokens)
        else:  # one at a time: their number is an accident of the batch, and products of another size round differently
            embeddings = torch.cat([self.instruction_encoder(tokens[n : n + 1]) for n in range(len(tokens))])
        return embeddings[torch.tensor(rows, device=device)]

    def _image(self, batch: dict[str, Any], camera: str) -> Tensor:
        """Resize, augment in training, scale to [-2, 2]: float32 (B, 3, image_size, image_size)."""
        config = self.config
        images: Tensor = batch[camera]
        if images.shape[-2:] != (config.image_size, config.image_size):
            images = resize(images, config.image_size)
        if self.training and config.shift_pixels:
            images = augmentation.shift(images, config.shift_pixels)  # before the conversion: bytes move faster
        images = as_float(images)
        if self.training and (config.brightness or config.contrast or config.color):
            images = augmentation.relight(images, config.brightness, config.contrast, config.color)
        if self.training and config.shade:
            images = augmentation.shade(images, config.shade)
        return images * 4 - 2

    def _use_bfloat16(self, device: str) -> bool:
        return self.training and self.config.mixed_precision and has_bfloat16(device)


def as_float(images: Tensor) -> Tensor:
    """uint8 in [0, 255] to float32 in [0, 1]; floats stay as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def resize(images: Tensor, size: int) -> Tensor:
    """Make images square with ``size`` pixels a side: float (B, 3, size, size).

    Shrinking averages over the area that a new pixel covers, so that small things fade instead of disappearing.
    """
    images = as_float(images)
    if min(images.shape[-2:]) >= size:
        return functional.interpolate(images, (size, size), mode="area")
    return functional.interpolate(images, (size, size), mode="bilinear", antialias=True)


def has_bfloat16(device: str) -> bool:
    """Whether a kind of device computes faster in bfloat16 than in float32."""
    if device == "cpu":
        return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    return device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
