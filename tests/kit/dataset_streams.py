"""Small runs over recorded datasets, and what refuses them."""

from pathlib import Path

import pytest
from sentences import length

from vla_cl.config.compose import compose
from vla_cl.run import root as run
from vla_cl.run.check import check
from vla_cl.types import ConfigurationError

CONF = Path(__file__).parents[1] / "conf"
SMALL = ["policy=tiny", "training.steps=2", "training.batch_size=4", "device=cpu", "threads=1"]
POINT = ["plugins=[toy_world]", "suite=point", "evaluation.episodes=2", "evaluation.replan_every=2",
         "evaluation.workers=1", "evaluation.videos=0"]  # fmt: skip


def settings(cache, folder, *overrides, datasets=None):
    composed = compose([*SMALL, f"cache_dir={cache}", f"output_dir={folder}", *overrides], folders=[CONF])
    if datasets is not None:
        composed["stream"]["datasets"] = [str(root) for root in datasets]
    return composed


def train(cache, folder, *overrides, datasets=None):
    return run.train(settings(cache, folder, *overrides, datasets=datasets))


def refusal(chosen):
    with pytest.raises(ConfigurationError) as caught:
        check(chosen)
    assert length(str(caught.value)) <= 300
    return str(caught.value)
