"""Settings of NanoVLA."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import NormalizationMode
from lerobot.optim.optimizers import AdamWConfig
from lerobot.optim.schedulers import CosineDecayWithWarmupSchedulerConfig

from vla_cl.types import ConfigurationError

OBJECTIVES = ("regression", "flow_matching")
CHANNEL_GROUP = 8
"""Group normalisation splits channels into groups of this many."""


@PreTrainedConfig.register_subclass("nano_vla")
@dataclass
class NanoVLAConfig(PreTrainedConfig):  # type: ignore[misc]
    """Settings of NanoVLA; the defaults are tuned on Meta-World with one camera of 96 pixels.

    Attributes:
        chunk_size: Actions predicted at once.
        n_action_steps: Actions of a chunk that `select_action` executes before the next prediction.
        normalization_mapping: How LeRobot's processors normalise each kind of feature. Images stay in [0, 1].
        image_size: Side of the square picture the network sees, in pixels; other sizes are resized inside the policy.
        max_instruction_bytes: Instructions are cut or padded to this many UTF-8 bytes.
        objective: ``regression`` (absolute error of the chunk) or ``flow_matching`` (Lipman et al. 2023).
        num_flow_steps: Euler steps from noise to actions; flow matching only.
        vision_channels: Channels of the three stages of the vision encoder, at 1/2, 1/4 and 1/8 of the image size.
        num_keypoints: Image positions that the vision encoder reports (Levine et al. 2016, spatial softmax).
        condition_size: Length of the instruction's embedding.
        hidden_size: Width of the layers that join vision, state and instruction.
        state_noise: Standard deviation of the noise on the normalised state in training; 0 turns it off. In
            demonstrations the hand's position tells where it is heading, so a policy can carry on instead of looking.
        shift_pixels: Training images are moved by up to this many pixels. More than one contradicts the proprioception,
            and small targets are then found less precisely.
        brightness: Largest value added to all pixels of a training image, which lie in [0, 1]; 0 turns it off.
        contrast: Largest relative change of contrast; 0 turns it off.
        color: Largest relative change of one colour channel; 0 turns it off.
        shade: Largest darkening by random smooth shadows, between 0 and 1; 0 turns it off.
        mixed_precision: Compute the vision encoder's training pass in bfloat16 if the machine has instructions for it
            (twice as fast on such CPUs). Weights, optimizer and inference stay in float32.
        discover_packages_path: The package that registers this policy. LeRobot 0.6.1 hands the option
            ``--policy.discover_packages_path``, which tells it that package, on to the configuration of the checkpoint.
        optimizer_lr: Peak learning rate.
        optimizer_weight_decay: AdamW's weight decay.
        optimizer_grad_clip_norm: Largest norm of the gradient.
        scheduler_warmup_steps: Steps until the peak learning rate.
        scheduler_decay_steps: Steps until the final learning rate; LeRobot shrinks both for shorter training.
        scheduler_decay_lr: Final learning rate.
    """

    chunk_size: int = 16
    n_action_steps: int = 8
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            "VISUAL": NormalizationMode.IDENTITY,
            "STATE": NormalizationMode.MEAN_STD,
            "ACTION": NormalizationMode.MIN_MAX,
        }
    )
    image_size: int = 96
    max_instruction_bytes: int = 96
    objective: str = "regression"
    num_flow_steps: int = 8

    vision_channels: list[int] = field(default_factory=lambda: [32, 64, 128])
    num_keypoints: int = 32
    condition_size: int = 64
    hidden_size: int = 512

    state_noise: float = 0.3
    shift_pixels: int = 1
    brightness: float = 0.1
    contrast: float = 0.1
    color: float = 0.05
    shade: float = 0.0
    mixed_precision: bool = True

    discover_packages_path: str | None = "vla_cl.policies"

    optimizer_lr: float = 1e-3
    optimizer_weight_decay: float = 1e-4
    optimizer_grad_clip_norm: float = 1.0
    scheduler_warmup_steps: int = 100
    scheduler_decay_steps: int = 5000
    scheduler_decay_lr: float = 1e-5

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: A value is not among those allowed.
        """
        super().__post_init__()
        if self.objective not in OBJECTIVES:
            near = difflib.get_close_matches(self.objective, OBJECTIVES, n=1, cutoff=0.0)[0]
            raise ConfigurationError(
                f"nano_vla's objective must be one of {', '.join(OBJECTIVES)}, but it is {self.objective!r}; "
                f"did you mean {near!r}?"
            )
        if self.n_obs_steps != 1:
            raise ConfigurationError(
                f"nano_vla sees one observation at a time, but n_obs_steps={self.n_obs_steps}; set it to 1"
            )
        if not 1 <= self.n_action_steps <= self.chunk_size:
            raise ConfigurationError(
                f"n_action_steps must lie between 1 and chunk_size={self.chunk_size}, but it is {self.n_action_steps}; "
                "execute fewer actions or predict more"
            )
        if len(self.vision_channels) != 3 or any(count < 1 or count % CHANNEL_GROUP for count in self.vision_channels):
            raise ConfigurationError(
                f"vision_channels must be three multiples of {CHANNEL_GROUP}, but it is {self.vision_channels}; "
                "write for example [32, 64, 128]"
            )

    def validate_features(self) -> None:
        """Check that there is something to see and something to do.

        Raises:
            ConfigurationError: No camera, a camera without three channels, or no action.
        """
        if not self.image_features:
            raise ConfigurationError(
                "nano_vla needs at least one camera (observation.image or observation.images.<name>), "
                f"but the inputs are {sorted(self.input_features or {})}; choose data with images"
            )
        for key, feature in self.image_features.items():
            if len(feature.shape) != 3 or feature.shape[0] != 3:
                raise ConfigurationError(
                    f"nano_vla expects images of shape (3, height, width), but {key} has {tuple(feature.shape)}; "
                    "declare RGB cameras channels first"
                )
        if self.action_feature is None:
            raise ConfigurationError(
                f"nano_vla needs an action to predict, but the outputs are {sorted(self.output_features or {})}; "
                "declare a feature named action"
            )

    @property
    def observation_delta_indices(self) -> None:
        """Only the present observation."""
        return

    @property
    def action_delta_indices(self) -> list[int]:
        """The actions of a chunk, counted from the present frame."""
        return list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        """No rewards."""
        return

    def get_optimizer_preset(self) -> AdamWConfig:
        """AdamW with the settings above."""
        return AdamWConfig(
            lr=self.optimizer_lr,
            weight_decay=self.optimizer_weight_decay,
            grad_clip_norm=self.optimizer_grad_clip_norm,
        )

    def get_scheduler_preset(self) -> CosineDecayWithWarmupSchedulerConfig:
        """Linear warm-up, then half a cosine."""
        return CosineDecayWithWarmupSchedulerConfig(
            num_warmup_steps=self.scheduler_warmup_steps,
            num_decay_steps=self.scheduler_decay_steps,
            peak_lr=self.optimizer_lr,
            decay_lr=self.scheduler_decay_lr,
        )
