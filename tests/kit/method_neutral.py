"""For the contract tests: the settings of every method, and those under which it has nothing to edit."""

from method_presets import method_presets

VARIANTS = {
    "agem_of_steps": ("agem", {"project": "step"}),
    "gem_of_steps": ("gem", {"project": "step", "eps": 0.0}),
    "ogd_of_steps": ("ogd_loss", {"project": "step"}),
}
"""Settings that change when a method acts; they must keep what the presets keep."""


def method_settings():
    """Method name to its settings, as the command line would give them."""
    found = method_presets()
    return found | {name: {**found[of], **changes} for name, (of, changes) in VARIANTS.items()}


NEUTRAL = {
    "sequential": {},
    "agem": {"share": 0.0},
    "agem_of_steps": {"share": 0.0},
    "agem_libero": {"share": 0.0},
    "cama": {"share": 0.0},
    "der": {"share": 0.0},
    "der_pp": {"alpha": 0.0, "beta": 0.0},
    "er": {"share": 0.0},
    "er_coin_flip": {"share": 0.0},
    "er_libero": {"share": 0.0},
    "er_replaced": {"share": 0.0},
    "ewc": {"strength": 0.0},
    "generative_distillation": {"share": 0.0},
    "generative_replay": {"share": 0.0},
    "hft": {"frozen_share": 0.0},
    "l2": {"strength": 0.0},
    "l2_sp": {"strength": 0.0},
    "lamol": {"share": 0.0},
    "layer_freezing": {"first_share": 0.0},
    "lwf": {"strength": 0.0},
    "m2distill": {"strength": 0.0, "outputs_strength": 0.0},
    "mas": {"strength": 0.0},
    "mir": {"share": 0.0},
    "mofo": {"alpha": 1.0},
    "ogd": {"vectors_per_task": 0},
    "ogd_loss": {"vectors_per_task": 0},
    "ogd_of_steps": {"vectors_per_task": 0},
    "osft": {"effective_rank": 0.0},
    "osft_peft": {"effective_rank": 0.0},
    "retain": {"share": 1.0},
    "si": {"strength": 0.0},
    "slca": {"slow_share": 1.0},
    "weight_merging": {"share": 1.0},
}
"""With these a method does what sequential fine-tuning does, bit for bit, in the second task too."""

PROCESS_BOUND = {"cama"}
"""Methods that refuse to learn in several processes, each with a sentence that says why."""
