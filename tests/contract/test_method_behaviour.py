"""What papers say of each method holds on the test beds: it forgets less than sequential fine-tuning.

Forgetting is the rise of a task's held-out loss from just after it was learnt to the end of the stream, averaged over
tasks and seeds. Methods of which that is not true on beds this small (half fine-tuning, MoFO, layer freezing, the slow
learner, OGD, OSFT: their gain is measured on large pretrained models) are not listed, nor is generative replay of
digits, whose pictures from ten denoising steps teach nothing.
"""

from __future__ import annotations

import numpy as np
import pytest
from method_neutral import method_settings

from vla_cl.compose import build
from vla_cl.interfaces import Method
from vla_cl.testbeds import BEDS

pytestmark = pytest.mark.slow

SEEDS = (0, 1)
LARGEST_SHARE = {
    "policy_regression": {
        "agem": 0.8,
        "cama": 0.3,
        "der": 0.5,
        "der_pp": 0.3,
        "er": 0.1,
        "er_coin_flip": 0.7,
        "er_replaced": 0.3,
        "ewc": 0.97,
        "ewc_separate": 0.95,
        "gem": 0.3,
        "lwf": 0.8,
        "m2distill": 0.7,
        "mas": 0.97,
        "mir": 0.3,
        "packnet": 0.0,
        "packnet_libero": 0.0,
        "si": 0.95,
        "weight_merging": 0.8,
    },
    "language": {
        "agem": 0.9,
        "cama": 0.1,
        "der": 0.3,
        "der_pp": 0.1,
        "er": 0.1,
        "er_replaced": 0.1,
        "ewc": 0.8,
        "gem": 0.1,
        "generative_distillation": 0.1,
        "generative_replay": 0.3,
        "lamol": 0.1,
        "lwf": 0.4,
        "mas": 0.1,
        "mir": 0.1,
        "packnet": 0.0,
        "si": 0.4,
        "weight_merging": 0.8,
    },
    "diffusion": {
        "der_pp": 0.3,
        "er": 0.1,
        "er_replaced": 0.2,
        "ewc": 0.4,
        "gem": 0.3,
        "generative_distillation": 0.3,
        "lwf": 0.7,
        "mas": 0.5,
        "packnet": 0.0,
    },
}
"""Bed to method to the share of sequential fine-tuning's forgetting that it may have at most."""


def forgetting(bed, settings):
    found = []
    for seed in SEEDS:
        losses = bed.run(build(settings, Method), seed)
        found += [losses[-1, task] - losses[task, task] for task in range(len(losses) - 1)]
    return float(np.mean(found))


@pytest.fixture(params=LARGEST_SHARE, scope="module")
def bed(request):
    return BEDS[request.param]()


@pytest.fixture(scope="module")
def of_sequential(bed):
    return forgetting(bed, method_settings()["sequential"])


@pytest.mark.parametrize("name", sorted(set().union(*LARGEST_SHARE.values())))
def test_it_forgets_less_than_sequential_fine_tuning(bed, of_sequential, name):
    if name not in LARGEST_SHARE[bed.name]:
        pytest.skip(f"no claim about {name} on {bed.name}")
    assert of_sequential > 0.05
    found = forgetting(bed, method_settings()[name])
    assert found <= LARGEST_SHARE[bed.name][name] * of_sequential, f"{found:.3f} of {of_sequential:.3f}"
