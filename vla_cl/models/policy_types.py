"""What is known of LeRobot's policy types, and which of them cannot be used here and why. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping

REFUSED: Mapping[str, str] = {
    "fastwam": "it learns from pictures of the future with a video model of 5 billion weights; nobody has tried it",
    "gaussian_actor": "it predicts single actions of reinforcement learning, no chunks",
    "groot": "it needs NVIDIA's whole checkpoint with code and processors of its own; nobody has tried it",
    "lingbot_va": "it learns from pictures of the future with a video model of 5 billion weights; nobody has tried it",
    "molmoact2": "it needs the whole checkpoint allenai/MolmoAct2 with processors of its own; nobody has tried it",
    "pi0_fast": "its action tokenizer is code from the hub, and no code from data is run; take pi0 or pi05",
    "tdmpc": "it learns from rewards, which demonstrations do not have",
    "vla_jepa": "it learns from pictures of the future, which rollouts do not have",
    "wall_x": "it needs the whole checkpoint x-square-robot/wall-oss-flow; nobody has tried it",
}
"""Types that are refused, with the reason."""

USABLE = (
    "nano_vla", "act", "diffusion", "vqbet", "multi_task_dit", "smolvla", "pi0", "pi05", "eo1", "evo1", "xvla",
)  # fmt: skip
"""Types with a yaml in ``conf/policy``. Tests learn and roll out small ones of nano_vla, act, diffusion and vqbet; of
the others, whose weights lie on the hub, they make the configuration."""

PACKAGES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "smolvla": (("num2words", "lerobot[smolvla]"),),
    "eo1": (("qwen_vl_utils", "lerobot[eo1]"),),
}
"""Modules beyond LeRobot's own requirements, and the package that brings each."""

HUB_FIELDS: Mapping[str, tuple[str, ...]] = {
    "smolvla": ("vlm_model_name",),
    "multi_task_dit": ("vision_encoder_name", "text_encoder_name"),
    "eo1": ("vlm_base",),
    "evo1": ("vlm_model_name",),
    "xvla": ("tokenizer_name",),
}
"""Fields that name something on the hub that the policy is built from."""

HUB_NAMES: Mapping[str, tuple[str, ...]] = {
    "pi0": ("google/paligemma-3b-pt-224",),
    "pi05": ("google/paligemma-3b-pt-224",),
}
"""What LeRobot fetches from the hub under a fixed name; PaliGemma's licence must be accepted there."""

BACKBONE_FIELD = "pretrained_backbone_weights"
WITH_BACKBONE = frozenset({"act", "diffusion", "vqbet"})
"""Types whose ResNet begins from torchvision's weights, unless `BACKBONE_FIELD` is null."""

BUILT_WITHOUT_WEIGHTS = frozenset({"nano_vla", "act", "diffusion", "vqbet"})
"""Types that can be built on torch's ``meta`` device in a second, which tries every field."""

PADDED = frozenset({"smolvla", "pi0", "pi05", "eo1", "evo1", "xvla"})
"""Types that pad states and actions to ``max_state_dim`` and ``max_action_dim``, so that any smaller size fits."""

RESIZES = frozenset({"nano_vla", "smolvla", "pi0", "pi05", "eo1", "evo1", "xvla"})
"""Types that bring pictures of any size to their own. The others take what they get, and act by it as if it were what
they learnt from."""

RESIZE_FIELD: Mapping[str, str] = {"diffusion": "resize_shape", "multi_task_dit": "image_resize_shape"}
"""Types that resize if a field says to what."""

INSTRUCTION_BYTES: Mapping[str, str] = {"nano_vla": "max_instruction_bytes"}
"""Types that read only the first bytes of an instruction: the field that says how many."""

EMPTY_CAMERAS = frozenset({"smolvla", "pi0", "pi05", "evo1", "xvla"})
"""Types with a field ``empty_cameras``: how many cameras of a checkpoint may be missing."""

EMPTY_CAMERA = "observation.images.empty_camera_"
"""How LeRobot calls a camera that is missing."""

QUEUED = frozenset({"vqbet", "multi_task_dit"})
"""Types that read observations from queues which only ``select_action`` fills."""

CHUNK_FIELDS: Mapping[str, str] = {
    "diffusion": "n_action_steps",
    "multi_task_dit": "n_action_steps",
    "vqbet": "action_chunk_size",
}
"""Types that return fewer actions than they learn from: the field that says how many."""

DETERMINISTIC = frozenset({"nano_vla", "act"})
"""Types whose chunk is a function of the observation. The others draw noise for the whole batch at once, so they are
asked for one observation at a time: their chunks must not depend on who else waits."""

WITHOUT_EFFECT_ON_WEIGHTS = frozenset({
    "n_action_steps", "num_inference_steps", "num_flow_steps", "num_steps", "num_denoising_steps", "num_denoise_steps",
    "num_inference_timesteps", "temporal_ensemble_coeff", "dropout", "kl_weight", "gradient_checkpointing",
    "compile_model", "compile_mode", "freeze_vision_encoder", "freeze_language_encoder", "train_expert_only",
    "train_state_proj", "train_policy_transformer", "train_soft_prompts", "empty_cameras", "state_noise",
    "shift_pixels", "brightness", "contrast", "color", "shade", "mixed_precision", "do_mask_loss_for_padding",
    "crop_is_random", "drop_n_last_frames", "use_amp", "pad_language_to", "use_cache", "attn_implementation",
})  # fmt: skip
"""Fields that a run may set otherwise than the checkpoint that it starts from, besides those of optimizers."""

OF_THE_RUN: Mapping[str, str] = {
    "device": "set device=",
    "input_features": "it follows from the data",
    "output_features": "it follows from the data",
    "pretrained_path": "set warm_start=",
    "pretrained_revision": "set warm_start= to a folder",
    "push_to_hub": "nothing is uploaded",
    "repo_id": "nothing is uploaded",
    "private": "nothing is uploaded",
    "tags": "nothing is uploaded",
    "license": "nothing is uploaded",
    "use_peft": "adapters are not supported yet",
}
"""Fields of every policy that are not the user's, and what to do instead."""
