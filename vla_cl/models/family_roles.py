"""The roles of the parameters of language models, by architecture, and of diffusers' UNet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vla_cl.models.roles import RolePatterns, in_order
from vla_cl.types import ConfigurationError, Roles


def _decoder(
    prefix: str, first: tuple[str, ...], parts: tuple[str, ...], norm: str
) -> tuple[str | tuple[str, ...], ...]:
    """Embeddings, layers, the last normalisation, the output."""
    numbered = tuple(f"{prefix}.#.{part}.*" for part in parts)
    return (*first, numbered, norm, "model.decoder.project_out.*", "lm_head.*", "embed_out.*")


def _llama(attention: tuple[str, ...]) -> tuple[str | tuple[str, ...], ...]:
    parts = (
        "input_layernorm", *(f"self_attn.{part}" for part in (*attention, "o_proj")), "post_attention_layernorm",
        "pre_feedforward_layernorm", "mlp", "post_feedforward_layernorm",
    )  # fmt: skip
    return _decoder("model.layers", ("model.embed_tokens.*",), parts, "model.norm.*")


_LLAMA = _llama(("q_proj", "q_norm", "k_proj", "k_norm", "v_proj", "qkv_proj"))
_GEMMA3 = _llama(("q_proj", "k_proj", "v_proj", "q_norm", "k_norm"))

LANGUAGE_ORDER: Mapping[str, tuple[str | tuple[str, ...], ...]] = {
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma", "gemma2", "phi3"), _LLAMA
    ),
    "gemma3_text": _GEMMA3,
    "gpt2": _decoder(
        "transformer.h",
        ("transformer.wte.*", "transformer.wpe.*"),
        ("ln_1", "attn", "ln_2", "mlp"),
        "transformer.ln_f.*",
    ),
    "gpt_neox": _decoder(
        "gpt_neox.layers",
        ("gpt_neox.embed_in.*",),
        ("input_layernorm", "attention", "post_attention_layernorm", "mlp"),
        "gpt_neox.final_layer_norm.*",
    ),
    "opt": _decoder(
        "model.decoder.layers",
        ("model.decoder.embed_tokens.*", "model.decoder.embed_positions.*", "model.decoder.project_in.*"),
        (
            "self_attn_layer_norm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj",
            "final_layer_norm", "fc1", "fc2",
        ),
        "model.decoder.final_layer_norm.*",
    ),
}  # fmt: skip
"""transformers' ``model_type`` to the stages of its forward pass; see `vla_cl.models.roles.RolePatterns`."""

UNET = RolePatterns(
    forward=(
        "time_embedding.*",
        "class_embedding.*",
        "conv_in.*",
        ("down_blocks.#.resnets.#.*", "down_blocks.#.attentions.#.*", "down_blocks.#.downsamplers.*"),
        ("mid_block.resnets.#.*", "mid_block.attentions.#.*"),
        ("up_blocks.#.resnets.#.*", "up_blocks.#.attentions.#.*", "up_blocks.#.upsamplers.*"),
        "conv_norm_out.*",
        "conv_out.*",
    ),
    outputs=("conv_out.*",),
)
"""diffusers' ``UNet2DModel``."""


def language_roles(model: Any, owner: str) -> Roles | None:  # noqa: ANN401 - transformers' models are untyped
    """The roles of a causal language model; None for an architecture that `LANGUAGE_ORDER` does not know.

    The output layer is what transformers' ``get_output_embeddings`` gives; tied to the input's embeddings, its weight
    has their name.

    Raises:
        ConfigurationError: It has parameters that its architecture usually has not, or no output layer.
    """
    order = LANGUAGE_ORDER.get(model.config.model_type)
    if order is None:
        return None
    layer = model.get_output_embeddings()
    if layer is None:
        raise ConfigurationError(f"{owner} has no output layer; take a causal language model")
    parts = {id(parameter) for parameter in layer.parameters()}
    outputs = frozenset(name for name, parameter in model.named_parameters() if id(parameter) in parts)
    return Roles(in_order([name for name, _ in model.named_parameters()], order, owner), outputs)
