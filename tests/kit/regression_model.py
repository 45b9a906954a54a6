"""A model with outputs, small enough to check by hand: two layers, squared error."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from vla_cl.interfaces import Data, Distillable
from vla_cl.models.llm import drawn_tokens
from vla_cl.types import Ability, ForwardPass


class RegressionModel(Distillable):
    def __init__(self, seed=0, dtype=torch.float32):
        torch.manual_seed(seed)
        self._module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)

    @property
    def module(self):
        return self._module

    @property
    def device(self):
        return torch.device("cpu")

    @property
    def abilities(self):
        return frozenset({Ability.PER_SAMPLE_LOSSES, Ability.OUTPUTS})

    def forward_pass(self, batch, draw):
        dtype = self._module[0].weight.dtype
        outputs = self._module(batch["x"].to(dtype))
        return ForwardPass((outputs - batch["y"].to(dtype)).square().mean(1), outputs)

    def loss(self, batch, draw):
        return self.forward_pass(batch, draw).losses

    def distance(self, student, teacher, batch, temperature=2.0):
        return (student - teacher).square().mean(1)

    def features(self, batch):
        return batch["x"]

    def save(self, folder):
        raise NotImplementedError


class TokenModel(RegressionModel):
    """Its two outputs are logits of one token."""

    def forward_pass(self, batch, draw):
        outputs = self._module(batch["x"].to(self._module[0].weight.dtype))[:, None]
        return ForwardPass(functional.cross_entropy(outputs[:, 0], batch["y"].argmax(1), reduction="none"), outputs)

    def distance(self, student, teacher, batch, temperature=2.0):
        wanted = (teacher / temperature).log_softmax(-1)
        given = (student / temperature).log_softmax(-1)
        return temperature**2 * (wanted.exp() * (wanted - given)).sum(-1).mean(1)

    def drawn_targets(self, outputs, batch, seeds):
        return drawn_tokens(outputs, seeds)


class Columns(Data):
    """Samples that are given as one batch."""

    bytes_per_sample = 20

    def __init__(self, columns):
        self.samples = columns

    def __len__(self):
        return len(self.samples["task"])

    @property
    def episode_of_row(self):
        return np.arange(len(self))

    def batch(self, rows):
        return {
            name: [column[row] for row in rows.tolist()] if isinstance(column, list) else column[rows]
            for name, column in self.samples.items()
        }


def with_padding(batch, count):
    """Token sequences with padding behind them that nobody learns from."""
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    return {k: functional.pad(v, (0, count), value=fill[k]) if k in fill else v for k, v in batch.items()}
