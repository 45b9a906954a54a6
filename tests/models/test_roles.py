"""The tables of roles against what forward passes use and what changes the output."""

import fnmatch
import re

import numpy as np
import pytest
import torch
from tiny_policies import CAMERAS, FIELDS, predict, tiny_policy, training_batch
from torch import nn
from use_of_parameters import Used, stir, without_influence

from vla_cl.models.family_roles import LANGUAGE_ORDER, UNET, language_roles
from vla_cl.models.policy_roles import POLICY_ROLES
from vla_cl.models.policy_types import USABLE
from vla_cl.models.roles import RolePatterns
from vla_cl.testbeds import BEDS
from vla_cl.types import ConfigurationError, Draw

VARIANTS = [
    *((kind, {}) for kind in FIELDS),
    ("nano_vla", {"objective": "flow_matching"}),
    ("act", {"use_vae": False}),
    ("act", {"pre_norm": True}),
    ("diffusion", {"use_separate_rgb_encoder_per_camera": True}),
    ("vqbet", {"sequentially_select": True}),
    ("multi_task_dit", {"use_separate_rgb_encoder_per_camera": True, "use_rope": False,
                        "use_positional_encoding": True}),
    ("smolvla", {"self_attn_every_n_layers": -1, "attention_mode": "self_attn"}),
]  # fmt: skip


def built(kind, changes):
    two = kind == "xvla" or "use_separate_rgb_encoder_per_camera" in changes
    return tiny_policy(kind, CAMERAS if two else CAMERAS[:1], **changes)


def made(kind, changes):
    """A policy that has learnt its codes, if it has any, a batch, and its roles."""
    policy = built(kind, changes)
    stir(policy)
    batch = training_batch(policy)
    policy.train()
    if kind == "vqbet":
        for _ in range(2):
            policy.forward(dict(batch))
        policy.train()
    return policy, batch, POLICY_ROLES[kind].told_of(policy, kind)


def named(variant):
    return "-".join([variant[0], *variant[1]])


@pytest.fixture(scope="module", params=VARIANTS, ids=named)
def policy(request):
    return made(*request.param)


def test_every_usable_type_has_roles():
    assert set(POLICY_ROLES) == set(USABLE) == set(FIELDS)


def test_each_parameter_has_a_place(policy):
    network, _, roles = policy
    assert sorted(roles.forward) == sorted(name for name, _ in network.named_parameters())


def test_the_order_is_that_of_first_use(policy):
    network, batch, roles = policy
    network.train()
    with Used(network) as used:
        network.forward(dict(batch))
    declared, found = [name for name in roles.forward if name in used.first], used.first
    if network.config.type == "act" and network.config.pre_norm:  # normalisation comes first in each layer, not last
        declared, found = ([name for name in names if ".norm" not in name] for names in (declared, found))
    assert declared == found


def test_the_output_layer_is_what_learns_and_is_used_last(policy):
    network, batch, roles = policy
    network.train()
    with Used(network) as used:
        loss = network.forward(dict(batch))[0]
    loss.backward()
    learning = [name for name in used.last if network.get_parameter(name).grad is not None]
    network.zero_grad()
    assert set(learning[-len(roles.outputs) :]) == roles.outputs


def test_what_is_idle_does_not_change_the_actions_and_every_other_layer_does(policy):
    network, batch, roles = policy
    groups = {"idle": sorted(roles.idle)}
    for name, _ in network.named_parameters():
        # By layer, since one bias alone may have no influence (of a score in front of a softmax); ResNets by stage.
        layer = re.sub(r"(\.backbone\.\w+).*", r"\1", name.rpartition(".")[0])
        groups.setdefault(layer, []).extend([name] if name not in roles.idle else [])
    used = {layer: names for layer, names in groups.items() if names or layer == "idle"}
    assert without_influence(network, used, lambda: predict(network, batch)) == ["idle"]


UNTRIED = {
    "model.encoder_env_state_input_proj.*",  # ACT with the state of the world
    "model.action_head.single_action_proj.*",  # EVO-1 with chunks of one action
    "model.embedder.model.vision_tower.layernorm.*",  # EVO-1's picture encoder without mean pooling
}


def test_every_pattern_matches_a_parameter_of_some_variant():
    unmatched = set()
    for patterns in POLICY_ROLES.values():
        names = set()
        for kind, changes in VARIANTS:
            if POLICY_ROLES[kind] is patterns:
                names |= {name for name, _ in built(kind, changes).named_parameters()}
        for pattern in (*flat(patterns.forward), *patterns.outputs, *patterns.idle):
            loose = pattern.replace("<last>", "*").replace("#", "*")
            if not any(fnmatch.fnmatchcase(name, loose) for name in names):
                unmatched.add(pattern)
    assert unmatched == UNTRIED


def flat(stages):
    return [pattern for stage in stages for pattern in ((stage,) if isinstance(stage, str) else stage)]


def layers(names):
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))


def tiny_language_model(kind, **changes):
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "vocab_size": 20, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 32, "pad_token_id": 0,
    }  # fmt: skip
    other = {"gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
             "opt": {"ffn_dim": 24, "word_embed_proj_dim": 8}}  # fmt: skip
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**sizes, **other.get(kind, {}), "attn_implementation": "eager", **changes})
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", LANGUAGE_ORDER)
def test_language_models(kind, tied):
    model = tiny_language_model(kind, tie_word_embeddings=tied)
    roles = language_roles(model, kind)
    assert sorted(roles.forward) == sorted(name for name, _ in model.named_parameters())
    model.train()
    with Used(model) as used:
        logits = model(input_ids=torch.arange(1, 9)[None]).logits
    assert layers(roles.forward) == layers(used.first)  # Conv1D of GPT-2 takes its bias before its weight
    assert set(used.last[-len(roles.outputs) :]) == roles.outputs
    assert len(roles.outputs) == 1
    assert (used.first[0] in roles.outputs) is tied
    assert logits.shape[-1] == 20
    assert not roles.idle


def test_an_unknown_architecture_tells_nothing():
    model = tiny_language_model("llama")
    model.config.model_type = "other"
    assert language_roles(model, "other") is None


@pytest.mark.parametrize("attention", [False, True])
def test_the_unet(attention):
    from diffusers import UNet2DModel

    kinds = [f"{'Attn' if attention else ''}%sBlock2D" % part for part in ("Down", "Up")]
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=2, block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", kinds[0]), up_block_types=(kinds[1], "UpBlock2D"), norm_num_groups=8,
        num_class_embeds=3,
    )  # fmt: skip
    roles = UNET.told_of(unet, "unet")
    with Used(unet) as used:
        unet(torch.randn(2, 1, 8, 8), torch.tensor([1, 2]), class_labels=torch.tensor([0, 1]))
    assert list(roles.forward) == used.first
    assert set(used.last[-2:]) == roles.outputs == {"conv_out.weight", "conv_out.bias"}
    assert not roles.idle


@pytest.mark.parametrize("name", BEDS)
def test_the_models_of_the_test_beds_tell_their_roles(name):
    bed = BEDS[name]()
    model = bed.make_model(0)
    model.module.train()
    with Used(model.module) as used:
        model.loss(bed.data[0].batch(np.arange(4)), Draw(0))
    roles = model.roles()
    assert list(roles.forward) == used.first
    assert set(used.last[-len(roles.outputs) :]) == roles.outputs


def test_numbers_count_as_numbers_and_stages_of_several_patterns_run_through_them():
    module = nn.Module()
    module.norms = nn.ModuleList([nn.LayerNorm(1, bias=False) for _ in range(11)])
    module.layers = nn.ModuleList([nn.Linear(1, 1, bias=False) for _ in range(11)])
    module.head = nn.Linear(1, 1)
    patterns = RolePatterns((("layers.#.*", "norms.#.*"), "head.*"), ("layers.<last>.*", "head.bias"))
    roles = patterns.told_of(module, "it")
    assert roles.forward == (
        *(f"{kind}.{number}.weight" for number in range(11) for kind in ("layers", "norms")), "head.weight", "head.bias"
    )  # fmt: skip
    assert roles.outputs == {"layers.10.weight", "head.bias"}


def test_a_parameter_without_a_place_and_a_network_without_an_output_are_refused():
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    with pytest.raises(ConfigurationError, match=r"it does not tell where '1.weight' stands.*method.slow of slca"):
        RolePatterns(("0.*",), ("0.*",)).told_of(module, "it")
    with pytest.raises(ConfigurationError, match="it does not tell which layer gives its output"):
        RolePatterns(("*",), ("2.*",)).told_of(module, "it")
