"""A method's memory may be described in full, in place of a number of samples."""

import numpy as np
import pytest
from tiny_model import TinyData, TinyModel, experience

from vla_cl.methods.agem import AveragedGradientEpisodicMemory
from vla_cl.methods.er import ExperienceReplay
from vla_cl.methods.gem import GradientEpisodicMemory
from vla_cl.methods.mir import MaximallyInterferedRetrieval
from vla_cl.types import ConfigurationError

KINDS = (ExperienceReplay, MaximallyInterferedRetrieval, AveragedGradientEpisodicMemory, GradientEpisodicMemory)


@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_in_bytes_is_kept_over_tasks(kind):
    method = kind(memory={"budget": 200, "selection": "herding", "unit": "frame"})
    method.attach(TinyModel(), 0)
    for index in range(3):
        method.end_task(experience(index), TinyData(seed=index))
        assert 0 < method.memory_bytes() <= 200
    kept = method.memory.everything()
    assert np.unique(kept[:, 0]).tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_setting_is_answered_with_the_nearest(kind):
    with pytest.raises(ConfigurationError, match=r"'budgte'.*budget"):
        kind(memory={"budgte": 200})
