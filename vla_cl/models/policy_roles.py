"""The roles of the parameters of each LeRobot policy type, read in the code of LeRobot 0.6.1.

Tests build a tiny policy of each type and compare the table with what its forward passes use, and with what changes its
actions. Where a setting changes the order inside a layer (normalisation first or last in ACT) or which layers of two
towers run together (SmolVLA with fewer layers in the expert than in the language model), the order is that of the
default.
"""

from __future__ import annotations

from collections.abc import Mapping

from vla_cl.models.roles import LAST, RolePatterns

_SIGLIP = (
    "layer_norm1",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.out_proj",
    "layer_norm2",
    "mlp",
)
_DECODER = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")


def _layers(prefix: str, parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{prefix}.#.{part}.*" for part in parts)


def _together(tower: str, expert: str) -> tuple[str, ...]:
    """Two towers of decoder layers that attend to each other, layer by layer."""
    towers = (tower, expert)
    before = [f"{one}.#.{part}.*" for one in towers for part in ("input_layernorm", "self_attn.[qkv]_proj")]
    behind = ("self_attn.o_proj", "post_attention_layernorm", "mlp")
    return (*before, *(f"{one}.#.{part}.*" for one in towers for part in behind))


def _without_followers(tower: str) -> tuple[str, ...]:
    """What of a tower comes behind the last keys and values that the expert reads."""
    behind = ("self_attn.q_proj", "self_attn.o_proj", "post_attention_layernorm", "mlp")
    return (*(f"{tower}.layers.{LAST}.{part}.*" for part in behind), f"{tower}.norm.*")


def _clip_vision(prefix: str) -> tuple[str, ...]:
    embeddings = ("patch_embedding.*", "class_embedding", "position_embedding.*")
    return (
        *(f"{prefix}.embeddings.{part}" for part in embeddings),
        f"{prefix}.pre_layrnorm.*",
        *_layers(f"{prefix}.encoder.layers", _SIGLIP),
        f"{prefix}.post_layernorm.*",
    )


_SMOLVLM, _SMOL_EXPERT = "model.vlm_with_expert.vlm.model", "model.vlm_with_expert.lm_expert"
_SMOL_TEXT = f"{_SMOLVLM}.text_model"
_PALIGEMMA = "model.paligemma_with_expert.paligemma.model"
_GEMMA, _PI_EXPERT = f"{_PALIGEMMA}.language_model", "model.paligemma_with_expert.gemma_expert.model"
_PI_VISION = f"{_PALIGEMMA}.vision_tower.vision_model"
_DIT_READS = "observation_encoder.text_encoder"
_CLIP = f"{_DIT_READS}.text_encoder.text_model"
_QWEN = "model.vlm_backbone.model"
_INTERN, _EVO_HEAD = "model.embedder.model", "model.action_head"
_FLORENCE = "model.vlm"

_PI = RolePatterns(
    forward=(
        f"{_PI_VISION}.embeddings.*",
        _layers(f"{_PI_VISION}.encoder.layers", _SIGLIP),
        f"{_PI_VISION}.post_layernorm.*",
        f"{_PI_VISION}.head.*",
        f"{_PALIGEMMA}.multi_modal_projector.*",
        f"{_GEMMA}.embed_tokens.*",
        "model.state_proj.*",
        "model.action_in_proj.*",
        "model.*time_mlp_in.*",
        "model.*time_mlp_out.*",
        _together(f"{_GEMMA}.layers", f"{_PI_EXPERT}.layers"),
        f"{_GEMMA}.norm.*",
        f"{_PI_EXPERT}.norm.*",
        "model.paligemma_with_expert.*.lm_head.*",
        "model.action_out_proj.*",
    ),
    outputs=("model.action_out_proj.*",),
    idle=("model.paligemma_with_expert.*.lm_head.*", f"{_PI_VISION}.head.*", *_without_followers(_GEMMA)),
)

POLICY_ROLES: Mapping[str, RolePatterns] = {
    "nano_vla": RolePatterns(
        forward=(
            "instruction_encoder.*",
            "vision_encoder.stem.*",
            "vision_encoder.fine.*",
            "vision_encoder.coarse.*",
            "vision_encoder.residual.*",
            "vision_encoder.coarse_scores.*",
            "vision_encoder.fine_scores.*",
            "vision_encoder.squeeze.*",
            "vision_encoder.keypoints.*",
            "state_encoder.*",
            "trunk.*",
            "head.*",
        ),
        outputs=("head.weight", "head.bias", f"head.layers.{LAST}.*"),
    ),
    "act": RolePatterns(
        forward=(
            "model.vae_encoder_cls_embed.*",
            "model.vae_encoder_robot_state_input_proj.*",
            "model.vae_encoder_action_input_proj.*",
            _layers("model.vae_encoder.layers", ("self_attn", "norm1", "linear1", "linear2", "norm2")),
            "model.vae_encoder.norm.*",
            "model.vae_encoder_latent_output_proj.*",
            "model.encoder_latent_input_proj.*",
            "model.encoder_1d_feature_pos_embed.*",
            "model.encoder_robot_state_input_proj.*",
            "model.encoder_env_state_input_proj.*",
            "model.backbone.*",
            "model.encoder_img_feat_input_proj.*",
            _layers("model.encoder.layers", ("self_attn", "norm1", "linear1", "linear2", "norm2")),
            "model.encoder.norm.*",
            "model.decoder_pos_embed.*",
            _layers(
                "model.decoder.layers",
                ("self_attn", "norm1", "multihead_attn", "norm2", "linear1", "linear2", "norm3"),
            ),
            "model.decoder.norm.*",
            "model.action_head.*",
        ),
        outputs=("model.action_head.*",),
        # The encoder reads the actions that are learnt; when acting, the latent is zero.
        idle=("model.vae_encoder*", "model.encoder_latent_input_proj.weight"),
    ),
    "diffusion": RolePatterns(
        forward=(
            "diffusion.rgb_encoder.*",
            "diffusion.unet.diffusion_step_encoder.*",
            "diffusion.unet.down_modules.*",
            "diffusion.unet.mid_modules.*",
            "diffusion.unet.up_modules.*",
            "diffusion.unet.final_conv.*",
        ),
        outputs=(f"diffusion.unet.final_conv.{LAST}.*",),
    ),
    "vqbet": RolePatterns(
        forward=(
            "vqbet.rgb_encoder.*",
            "vqbet.rgb_feature_projector.*",
            "vqbet.state_projector.*",
            "vqbet.action_token",
            "vqbet.policy.transformer.wte.*",
            "vqbet.policy.transformer.wpe.*",
            "vqbet.policy.transformer.h.*",
            "vqbet.policy.transformer.ln_f.*",
            "vqbet.policy.lm_head.*",
            "vqbet.action_head.map_to_cbet_preds_offset.*",
            "vqbet.action_head.map_to_cbet_preds_*",
            "vqbet.action_head.vqvae_model.decoder.*",
            "vqbet.action_head.vqvae_model.encoder.*",
        ),
        # The code and the offset; the decoder of codes, behind them, is learnt before them and then stands still.
        outputs=("vqbet.action_head.map_to_cbet_preds_*",),
        idle=("vqbet.action_head.vqvae_model.encoder.*",),
    ),
    "multi_task_dit": RolePatterns(
        forward=(
            _clip_vision("observation_encoder.vision_encoder.model.vision_model"),
            _clip_vision("observation_encoder.vision_encoders.#.model.vision_model"),
            f"{_CLIP}.embeddings.token_embedding.*",
            f"{_CLIP}.embeddings.position_embedding.*",
            _layers(f"{_CLIP}.encoder.layers", _SIGLIP),
            f"{_CLIP}.final_layer_norm.*",
            f"{_DIT_READS}.projection.*",
            "noise_predictor.time_mlp.*",
            "noise_predictor.input_proj.*",
            "noise_predictor.pos_embedding",
            _layers("noise_predictor.transformer_blocks", ("adaLN_modulation", "*attn", "mlp")),
            "noise_predictor.output_proj.*",
        ),
        outputs=("noise_predictor.output_proj.*",),
        idle=("observation_encoder.vision_encoder*.post_layernorm.*",),
    ),
    "smolvla": RolePatterns(
        forward=(
            f"{_SMOLVLM}.vision_model.embeddings.*",
            _layers(f"{_SMOLVLM}.vision_model.encoder.layers", _SIGLIP),
            f"{_SMOLVLM}.vision_model.post_layernorm.*",
            f"{_SMOLVLM}.connector.*",
            f"{_SMOL_TEXT}.embed_tokens.*",
            "model.state_proj.*",
            "model.action_in_proj.*",
            "model.action_time_mlp_in.*",
            "model.action_time_mlp_out.*",
            _together(f"{_SMOL_TEXT}.layers", f"{_SMOL_EXPERT}.layers"),
            f"{_SMOL_TEXT}.norm.*",
            f"{_SMOL_EXPERT}.norm.*",
            "model.vlm_with_expert.*lm_head.*",
            "model.action_out_proj.*",
        ),
        outputs=("model.action_out_proj.*",),
        idle=("model.vlm_with_expert.*lm_head.*", *_without_followers(_SMOL_TEXT)),
    ),
    "pi0": _PI,
    "pi05": _PI,
    "eo1": RolePatterns(
        forward=(
            f"{_QWEN}.language_model.embed_tokens.*",
            "model.state_proj.*",
            "model.action_in_proj.*",
            "model.action_time_mlp_in.*",
            "model.action_time_mlp_out.*",
            f"{_QWEN}.visual.patch_embed.*",
            _layers(f"{_QWEN}.visual.blocks", ("norm1", "attn", "norm2", "mlp")),
            f"{_QWEN}.visual.merger.*",
            _layers(f"{_QWEN}.language_model.layers", _DECODER),
            f"{_QWEN}.language_model.norm.*",
            "model.vlm_backbone.lm_head.*",
            "model.action_out_proj.*",
        ),
        outputs=("model.action_out_proj.*",),
        idle=("model.vlm_backbone.lm_head.*",),
    ),
    "evo1": RolePatterns(
        forward=(
            f"{_INTERN}.language_model.embed_tokens.*",
            f"{_INTERN}.vision_tower.embeddings.patch_embeddings.*",
            f"{_INTERN}.vision_tower.embeddings.*",
            (
                f"{_INTERN}.vision_tower.encoder.layer.#.layernorm_before.*",
                f"{_INTERN}.vision_tower.encoder.layer.#.attention.*",
                f"{_INTERN}.vision_tower.encoder.layer.#.lambda_1",
                f"{_INTERN}.vision_tower.encoder.layer.#.layernorm_after.*",
                f"{_INTERN}.vision_tower.encoder.layer.#.mlp.*",
                f"{_INTERN}.vision_tower.encoder.layer.#.lambda_2",
            ),
            f"{_INTERN}.vision_tower.layernorm.*",
            f"{_INTERN}.multi_modal_projector.*",
            _layers(f"{_INTERN}.language_model.layers", _DECODER),
            f"{_INTERN}.language_model.norm.*",
            f"{_EVO_HEAD}.state_encoder.*",
            f"{_EVO_HEAD}.action_encoder.*",
            f"{_EVO_HEAD}.single_action_proj.*",
            _layers(f"{_EVO_HEAD}.transformer_blocks", ("norm1", "attn", "norm2", "ff")),
            f"{_EVO_HEAD}.norm_out.*",
            f"{_EVO_HEAD}.seq_pool_proj.*",
            f"{_EVO_HEAD}.mlp_head.*",
        ),
        outputs=(f"{_EVO_HEAD}.mlp_head.fc2.*",),
    ),
    "xvla": RolePatterns(
        forward=(
            f"{_FLORENCE}.vision_tower.convs.0.conv.*",
            (
                f"{_FLORENCE}.vision_tower.convs.#.norm.*",
                f"{_FLORENCE}.vision_tower.convs.#.conv.*",
                f"{_FLORENCE}.vision_tower.blocks.#.*",
            ),
            f"{_FLORENCE}.multi_modal_projector.image_position_embed.column_embeddings.*",
            f"{_FLORENCE}.multi_modal_projector.image_position_embed.*",
            f"{_FLORENCE}.multi_modal_projector.image_projection.*",
            f"{_FLORENCE}.multi_modal_projector.*",
            f"{_FLORENCE}.language_model.shared.*",
            f"{_FLORENCE}.language_model.encoder.embed_*",
            f"{_FLORENCE}.language_model.encoder.layernorm_embedding.*",
            _layers(
                f"{_FLORENCE}.language_model.encoder.layers",
                (
                    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj",
                    "self_attn_layer_norm", "fc1", "fc2", "final_layer_norm",
                ),
            ),
            "model.transformer.action_encoder.*",
            "model.transformer.vlm_proj.*",
            "model.transformer.aux_visual_proj.*",
            "model.transformer.pos_emb",
            "model.transformer.soft_prompt_hub.*",
            _layers("model.transformer.blocks", ("norm1", "attn", "norm2", "mlp")),
            "model.transformer.norm.*",
            "model.transformer.action_decoder.*",
        ),
        outputs=("model.transformer.action_decoder.*",),
    ),
}  # fmt: skip
"""Policy type to its roles. A type that is not here has none: methods that go by roles then want patterns of names."""
