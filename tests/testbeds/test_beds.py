import numpy as np
import pytest
import torch
from whole_bed import learnt_stream

from vla_cl.methods.sequential import Sequential
from vla_cl.metrics import load_matrix
from vla_cl.testbeds import BEDS
from vla_cl.types import Ability, Draw


@pytest.fixture(params=BEDS, scope="module")
def bed(request):
    return BEDS[request.param]()


def test_data_and_weights_are_always_the_same(bed):
    again = BEDS[bed.name]()
    ours, theirs = bed.make_model(3).module.state_dict(), again.make_model(3).module.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for mine, other in zip(bed.data, again.data, strict=True):
        rows = np.array([4, 0])
        first, second = mine.batch(rows), other.batch(rows)
        for key, value in first.items():
            assert torch.equal(value, second[key]) if isinstance(value, torch.Tensor) else value == second[key]
    assert not torch.equal(next(bed.make_model(0).module.parameters()), next(bed.make_model(1).module.parameters()))


def test_what_the_models_say_they_can_is_so(bed):
    model = bed.make_model(0)
    batch = bed.data[0].batch(np.arange(4))
    model.module.train()
    if Ability.FIXED_OUTPUTS in model.abilities:
        assert torch.equal(model.outputs(batch, Draw(0)), model.outputs(batch, Draw(1)))
    else:
        assert not torch.equal(model.outputs(batch, Draw(0)), model.outputs(batch, Draw(1)))
    assert model.modalities == tuple(model.forward_pass(batch, Draw(0)).modalities)
    assert bool(model.modalities) == (Ability.MODALITIES in model.abilities)
    assert len(model.loss(batch, Draw(0)).unique()) == 4
    assert model.features(batch).shape[0] == 4


def losses_of(bed, folder, training):
    """Plain fine-tuning: the matrix of held-out losses."""
    return load_matrix(learnt_stream(bed.name, Sequential(), folder, training, untrained=True))


def test_three_tasks_are_scored_after_each(bed, tmp_path):
    losses = losses_of(bed, tmp_path / "run", bed.tiny).scores
    assert losses.shape == (3, 3)
    assert np.isfinite(losses).all()
    assert np.array_equal(losses, losses_of(bed, tmp_path / "again", bed.tiny).scores)


@pytest.mark.slow
def test_every_task_is_learnt_and_then_forgotten(bed, tmp_path):
    matrix = losses_of(bed, tmp_path / "run", bed.training)
    losses = matrix.scores
    for task in range(3):
        assert losses[task, task] < 0.35 * matrix.baseline[task]
    for task in range(2):
        assert losses[2, task] > 1.3 * losses[task, task]
