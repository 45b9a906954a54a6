"""``vla-cl evaluate`` on the toy suite that can be troubled, and small policies of several types to give to it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from vla_cl.cli.main import main
from vla_cl.models.vla import VlaModel, policy_config
from vla_cl.types import InterfaceSpec

CONF = Path(__file__).parents[1] / "conf"
SETTINGS = ["plugins=[troubled_suite]", "suite=troubled", "evaluation.episodes=3", "evaluation.replan_every=2",
            "evaluation.workers=2", "evaluation.slots_per_worker=2", "device=cpu"]  # fmt: skip
SPEC = InterfaceSpec({"observation.image": (16, 16)}, state_size=2, action_size=2)
ACT = {"chunk_size": 4, "n_action_steps": 2, "dim_model": 16, "n_heads": 2, "dim_feedforward": 16, "latent_dim": 4,
       "n_encoder_layers": 1, "n_vae_encoder_layers": 1, "pretrained_backbone_weights": None}  # fmt: skip
DIFFUSION = {"horizon": 8, "n_action_steps": 4, "down_dims": [8, 16], "num_train_timesteps": 4, "crop_shape": None,
             "pretrained_backbone_weights": None, "diffusion_step_embed_dim": 8, "use_group_norm": True,
             "spatial_softmax_num_keypoints": 4}  # fmt: skip
NANO = {"image_size": 16, "chunk_size": 4, "n_action_steps": 2}
POLICIES = {
    "nano_vla": ("nano_vla", NANO),
    "act": ("act", ACT),
    "diffusion": ("diffusion", DIFFUSION | {"n_obs_steps": 1}),
    "history": ("diffusion", DIFFUSION | {"n_obs_steps": 2}),
}


def evaluate(folder, *overrides, policy="random"):
    return main(["evaluate", "--conf", str(CONF), str(policy), *SETTINGS, f"output_dir={folder}", *overrides])


def rows(folder):
    """The table without the time that the episodes took."""
    return pd.read_parquet(folder / "episodes.parquet").drop(columns="seconds")


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def new_policy(name, seed=0):
    kind, settings = POLICIES[name]
    ranges = {"mean": np.zeros(2), "std": np.ones(2), "min": -np.ones(2), "max": np.ones(2)}
    pictures = {key: np.full((3, 1, 1), value) for key, value in (("mean", 0.5), ("std", 0.5), ("min", 0), ("max", 1))}
    statistics = {key: {n: v.astype(np.float32) for n, v in ranges.items()} for key in ("action", "observation.state")}
    statistics["observation.image"] = {n: v.astype(np.float32) for n, v in pictures.items()}
    return VlaModel.new(policy_config(kind, settings, SPEC, "cpu"), statistics, init_seed=seed)


def save_policy(name, folder, seed=0):
    new_policy(name, seed).save(folder)
    return folder
