"""A tiny policy of each LeRobot type that can be built without a network, with a batch to learn from and a way to act.

What LeRobot would fetch from the hub (a language model's configuration, a tokenizer) is made here instead.
"""

from contextlib import contextmanager
from types import SimpleNamespace
from unittest.mock import patch

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import get_policy_class
from lerobot.policies.utils import populate_queues
from transformers import BatchEncoding

from vla_cl.models.policy_config import register_own_policies

SIDE, STATE, ACTION, ROWS, WORDS = 64, 3, 2, 2, 5
CAMERAS = ("observation.images.front", "observation.images.wrist")
QUEUED = ("vqbet", "multi_task_dit")


def features(cameras=CAMERAS[:1]):
    inputs = {name: PolicyFeature(FeatureType.VISUAL, (3, SIDE, SIDE)) for name in cameras}
    inputs["observation.state"] = PolicyFeature(FeatureType.STATE, (STATE,))
    return {
        "input_features": inputs,
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (ACTION,))},
        "device": "cpu",
    }


def _text(**changes):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return {**sizes, "num_key_value_heads": 2, "vocab_size": 32, "pad_token_id": 0, **changes}


def _vision(**changes):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return {**sizes, "image_size": SIDE, "patch_size": 16, **changes}


@contextmanager
def _nothing():
    yield {}


@contextmanager
def _smolvla():
    from transformers import SmolVLMConfig

    config = SmolVLMConfig(
        vision_config={"model_type": "smolvlm_vision", **_vision()},
        text_config={"model_type": "llama", "head_dim": 8, **_text()},
        scale_factor=2,
        image_token_id=1,
        pad_token_id=0,
    )
    tokenizer = SimpleNamespace(fake_image_token_id=2, global_image_token_id=3)
    where = "lerobot.policies.smolvla.smolvlm_with_expert."
    with (
        patch(where + "AutoConfig.from_pretrained", return_value=config),
        patch(where + "AutoProcessor.from_pretrained", return_value=SimpleNamespace(tokenizer=tokenizer)),
    ):
        yield {}


@contextmanager
def _pi(kind):
    from lerobot.policies.pi_gemma import PaliGemmaForConditionalGenerationWithPiGemma
    from transformers import GemmaConfig, PaliGemmaConfig

    def paligemma():
        return PaliGemmaConfig(vision_config={"model_type": "siglip_vision_model", **_vision()})

    def network(config):  # LeRobot sets these sizes to the full ones
        config.vision_config.intermediate_size = config.vision_config.projection_dim = 16
        config.text_config.vocab_size = 32
        return PaliGemmaForConditionalGenerationWithPiGemma(config=config)

    def expert(**sizes):
        return GemmaConfig(**{**sizes, "vocab_size": 32})

    where = f"lerobot.policies.{kind}.modeling_{kind}."
    sizes = SimpleNamespace(width=16, depth=2, mlp_dim=16, num_heads=8, num_kv_heads=1, head_dim=8)
    with (
        patch(where + "get_gemma_config", return_value=sizes),
        patch(where + "CONFIG_MAPPING", {"paligemma": paligemma, "gemma": expert}),
        patch(where + "PaliGemmaForConditionalGenerationWithPiGemma", network),
    ):
        yield {}


def _qwen():
    text = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}
    return {
        "text_config": {**_text(), "rope_parameters": text},
        "vision_config": {
            "depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16,
            "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        "image_token_id": 1, "vision_start_token_id": 2, "vision_end_token_id": 3, "tie_word_embeddings": False,
    }  # fmt: skip


def _florence():
    return {
        "vision_config": {
            "depths": [1, 1], "embed_dim": [8, 16], "num_heads": [2, 2], "num_groups": [2, 2], "projection_dim": 16,
            "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1], "patch_prenorm": [False, True],
            "window_size": 4, "max_position_embeddings": 50, "max_temporal_embeddings": 4,
        },
        "text_config": {
            "d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": 32,
            "max_position_embeddings": 400, "pad_token_id": 0,
        },
    }  # fmt: skip


FIELDS = {
    "nano_vla": {
        "image_size": 16, "chunk_size": 4, "n_action_steps": 4, "vision_channels": [8, 8, 8], "num_keypoints": 4,
        "condition_size": 16, "hidden_size": 16, "max_instruction_bytes": 16, "mixed_precision": False,
    },
    "act": {"dim_model": 16, "n_heads": 2, "dim_feedforward": 16, "n_encoder_layers": 2, "n_decoder_layers": 2,
            "n_vae_encoder_layers": 2, "chunk_size": 6, "n_action_steps": 6, "pretrained_backbone_weights": None},
    "diffusion": {"down_dims": [8, 16], "horizon": 8, "n_action_steps": 4, "num_train_timesteps": 2, "n_obs_steps": 1,
                  "clip_sample": False,
                  "crop_shape": None, "pretrained_backbone_weights": None, "use_group_norm": False},
    "vqbet": {"gpt_n_layer": 2, "gpt_n_head": 2, "gpt_hidden_dim": 16, "gpt_input_dim": 16, "gpt_output_dim": 16,
              "n_vqvae_training_steps": 2, "crop_shape": None, "pretrained_backbone_weights": None,
              "use_group_norm": False, "n_obs_steps": 1, "vqvae_embedding_dim": 8, "vqvae_enc_hidden_dim": 8,
              "n_action_pred_token": 3, "action_chunk_size": 4},
    "multi_task_dit": {"n_obs_steps": 1, "horizon": 8, "n_action_steps": 4, "hidden_dim": 16, "num_layers": 2,
                       "num_heads": 2, "num_train_timesteps": 2, "clip_sample": False,
                       "timestep_embed_dim": 8, "image_crop_shape": None,
                       "vision_encoder_name": "clip", "text_encoder_name": "clip", "image_resize_shape": None},
    "smolvla": {"load_vlm_weights": False, "num_vlm_layers": 0, "num_steps": 2, "chunk_size": 4, "n_action_steps": 4,
                "resize_imgs_with_padding": (SIDE, SIDE), "train_expert_only": False, "freeze_vision_encoder": False},
    "pi0": {"num_inference_steps": 2, "chunk_size": 4, "n_action_steps": 4, "image_resolution": (SIDE, SIDE)},
    "pi05": {"num_inference_steps": 2, "chunk_size": 4, "n_action_steps": 4, "image_resolution": (SIDE, SIDE)},
    "xvla": {"florence_config": _florence(), "hidden_size": 16, "depth": 2, "num_heads": 2, "num_domains": 3,
             "len_soft_prompts": 2, "dim_time": 8, "num_denoising_steps": 2, "chunk_size": 4, "n_action_steps": 4,
             "action_mode": "auto", "max_len_seq": 600},
    "eo1": {"vlm_config": _qwen(), "pretrained_path": "tiny", "chunk_size": 4, "n_action_steps": 4,
            "num_denoise_steps": 2, "dtype": "float32"},
    "evo1": {"image_resolution": (SIDE, SIDE), "vlm_dtype": "float32", "use_flash_attn": False, "embed_dim": 16,
             "hidden_dim": 16, "num_heads": 2, "num_layers": 2, "state_hidden_dim": 16, "chunk_size": 4,
             "n_action_steps": 4, "num_inference_timesteps": 2, "vlm_num_layers": None, "finetune_vlm": True},
}  # fmt: skip


@contextmanager
def _clip():
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

    where = "lerobot.policies.multi_task_dit.modeling_multi_task_dit."
    text = _text(max_position_embeddings=16, eos_token_id=1, bos_token_id=0)
    text.pop("num_key_value_heads")
    with (
        patch(where + "CLIPVisionModel.from_pretrained", lambda name: CLIPVisionModel(CLIPVisionConfig(**_vision()))),
        patch(where + "CLIPTextModel.from_pretrained", lambda name: CLIPTextModel(CLIPTextConfig(**text))),
    ):
        yield {}


class _Words:
    """A tokenizer that knows the pictures' placeholders."""

    def __call__(self, texts, **_):
        from lerobot.policies.evo1.internvl3_embedder import IMG_CONTEXT_TOKEN as SEEN

        rows = [[4, *[1] * text.count(SEEN), 5, 6] for text in texts]
        ids = torch.tensor(rows)
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})

    def convert_tokens_to_ids(self, _):
        return 1


@contextmanager
def _internvl():
    from transformers import InternVLConfig, InternVLModel

    config = InternVLConfig(
        vision_config={"model_type": "internvl_vision", **_vision(image_size=[SIDE, SIDE], patch_size=[16, 16])},
        text_config={"model_type": "qwen2", **_text()},
        image_token_id=1,
        image_seq_length=4,
        downsample_ratio=0.5,
    )
    where = "lerobot.policies.evo1.internvl3_embedder."
    with (
        patch(where + "AutoTokenizer.from_pretrained", return_value=_Words()),
        patch(where + "AutoModel.from_pretrained", lambda *_, **__: InternVLModel(config)),
    ):
        yield {}


STAND_INS = {
    "evo1": _internvl,
    "smolvla": _smolvla, "pi0": lambda: _pi("pi0"), "pi05": lambda: _pi("pi05"), "multi_task_dit": _clip,
}  # fmt: skip


def tiny_policy(kind, cameras=CAMERAS[:1], **changes):
    """A policy with fresh weights from a fixed seed."""
    register_own_policies()
    with STAND_INS.get(kind, _nothing)() as made, torch.random.fork_rng():
        torch.manual_seed(0)
        chosen = get_policy_class(kind)
        config = chosen.config_class(**features(cameras), **{**FIELDS[kind], **made, **changes})
        return chosen(config)


def training_batch(policy, seed=0, rows=ROWS):
    """What `forward` of the policy takes."""
    generator = torch.Generator().manual_seed(seed)
    config = policy.config
    steps = len(config.action_delta_indices)
    window = (1,) if config.type in ("diffusion", "vqbet", "multi_task_dit") else ()
    batch = {name: torch.rand(rows, *window, 3, SIDE, SIDE, generator=generator) for name in config.image_features}
    batch["observation.state"] = torch.randn(rows, *window, STATE, generator=generator)
    batch["action"] = torch.randn(rows, steps, ACTION, generator=generator)
    batch["action_is_pad"] = torch.zeros(rows, steps, dtype=torch.bool)
    batch["task"] = ["pick it up"] * rows
    batch["observation.language.tokens"] = torch.randint(4, 30, (rows, WORDS), generator=generator)
    batch["observation.language.tokens"][:, -1] = 1  # the end, which CLIP looks for
    batch["observation.language.attention_mask"] = torch.ones(rows, WORDS, dtype=torch.bool)
    if config.type == "eo1":
        batch |= _sequence(rows)
    return batch


def _sequence(rows):
    """EO-1's tokens: a picture, the state, the instruction, a place for each action."""
    picture, state, action = 16, 7, 8
    ids = torch.tensor([[2, *[1] * picture, 3, state, 5, *[action] * 4]] * rows)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(rows * 4 * picture, 3 * 2 * 14 * 14),
        "image_grid_thw": torch.tensor([[1, 8, 8]] * rows),
        "mm_token_type_ids": (ids == 1).int(),
        "state_token_id": state,
        "action_token_id": action,
    }


def predict(policy, batch):
    """A chunk of actions, as in a rollout, with the global generator's noise from a fixed seed."""
    seen = {key: value for key, value in batch.items() if key not in ("action", "action_is_pad")}
    policy.eval()
    policy.reset()
    if policy.config.type in QUEUED:
        seen = {k: v[:, 0] if k.startswith("observation.") and "language" not in k else v for k, v in seen.items()}
        seen["observation.images"] = torch.stack([seen[key] for key in policy.config.image_features], dim=-4)
        policy._queues = populate_queues(policy._queues, seen)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        return policy.predict_action_chunk(seen)
