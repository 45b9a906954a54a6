"""Small models whose noise can be chosen per sample, that can be distilled and can make up samples."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from vla_cl.interfaces import Distillable, Generator
from vla_cl.models.llm import LanguageModel
from vla_cl.types import Ability, ForwardPass


def noise_of(shape, draw):
    """Normal noise, a row from each sample's own seed if there are such, else from the batch's."""
    if draw.sample_seeds is None:
        return torch.randn(shape, generator=torch.Generator().manual_seed(draw.seed))
    rows = [torch.randn(shape[1:], generator=torch.Generator().manual_seed(s)) for s in draw.sample_seeds.tolist()]
    return torch.stack(rows)


class KeyedModel(Distillable, Generator):
    """Predicts y from x and noise in double precision; makes up x around a number that the task's name spells."""

    def __init__(self, seed=0, dropout=0.0):
        torch.manual_seed(seed)
        self._module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(dropout), nn.Linear(4, 2)).double()

    @property
    def module(self):
        return self._module

    @property
    def device(self):
        return torch.device("cpu")

    @property
    def abilities(self):
        return frozenset(
            {Ability.PER_SAMPLE_LOSSES, Ability.OUTPUTS, Ability.KEYED_DRAWS, Ability.GENERATION, Ability.FEATURES}
        )

    def forward_pass(self, batch, draw):
        x = batch["x"].double() + 0.5 * noise_of(batch["x"].shape, draw).double()
        outputs = self._module(x)
        return ForwardPass((outputs - batch["y"]).square().mean(1), outputs)

    def loss(self, batch, draw):
        return self.forward_pass(batch, draw).losses

    def distance(self, student, teacher, batch, temperature=2.0):
        return (student - teacher).square().mean(1)

    def features(self, batch):
        return batch["x"]

    def generate(self, tasks, seed):
        generator = np.random.default_rng(seed)
        scale = float(self._module[0].weight.detach().mean())
        x = torch.from_numpy(generator.standard_normal((len(tasks), 3)).astype(np.float32)) + scale
        y = torch.tensor([[float(len(task))] * 2 for task in tasks])
        return {"x": x, "y": y, "task": list(tasks), "index": torch.arange(len(tasks))}

    def save(self, folder):
        raise NotImplementedError


class KeyedTokens(KeyedModel):
    """Logits (B, L, 2) of the next token; ``tokens`` (B, L) are the inputs, ``labels`` (B, L) what is learnt from."""

    def __init__(self, seed=0):
        super().__init__(seed)
        self._table = nn.Embedding(5, 5).double()
        self._module = nn.Sequential(self._table)

    def forward_pass(self, batch, draw):
        logits = self._table(batch["input_ids"])
        losses = functional.cross_entropy(
            logits[:, :-1].transpose(1, 2), batch["labels"][:, 1:], reduction="none", ignore_index=-100
        )
        learnt = (batch["labels"][:, 1:] != -100).double()
        return ForwardPass((losses * learnt).sum(1) / learnt.sum(1), logits)

    def distance(self, student, teacher, batch, temperature=2.0):
        return torch.full((len(student),), 7.0, dtype=student.dtype)

    squared_error, counted, confidence = LanguageModel.squared_error, LanguageModel.counted, LanguageModel.confidence


def tokens(rows, length, learnt, seed):
    """A batch of token sequences whose last ``learnt`` tokens are learnt from."""
    ids = torch.from_numpy(np.random.default_rng(seed).integers(5, size=(rows, length)))
    labels = ids.clone()
    labels[:, : length - learnt] = -100
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
        "task": ["t"] * rows,
        "index": torch.arange(rows),
    }
