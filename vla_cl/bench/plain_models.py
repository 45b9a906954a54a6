"""A small vision transformer and a perceptron in plain torch, and tasks: what both sides learn beside avalanche.

Needs torch alone, since the peer's own environment imports it too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH, LAYERS, PATCH, SIDE, CLASSES = 256, 6, 4, 32, 10


class PlainVit(nn.Module):
    """4.8 million parameters; pictures (B, 3, 32, 32) to logits (B, 10)."""

    def __init__(self, quick: bool) -> None:
        super().__init__()
        layers = 1 if quick else LAYERS
        self.patches = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)
        self.place = nn.Parameter(0.02 * torch.randn(1, (SIDE // PATCH) ** 2, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits, shape (B, 10)."""
        tokens = self.patches(pictures).flatten(2).transpose(1, 2) + self.place
        logits: Tensor = self.head(self.layers(tokens).mean(1))
        return logits


def perceptron(quick: bool) -> nn.Module:
    """3.7 million parameters in three linear layers: a gradient of few samples costs little more than reading them."""
    wide, narrow = (64, 32) if quick else (1024, 512)
    layers = nn.Linear(3 * SIDE**2, wide), nn.ReLU(), nn.Linear(wide, narrow), nn.ReLU(), nn.Linear(narrow, CLASSES)
    return nn.Sequential(nn.Flatten(), *layers)


def made(quick: bool, kind: str = "transformer") -> nn.Module:
    """The same weights in every process; ``kind`` is ``transformer`` or ``perceptron``."""
    torch.manual_seed(0)
    return perceptron(quick) if kind == "perceptron" else PlainVit(quick)


def samples(task: int, count: int) -> tuple[Tensor, Tensor]:
    """Random pictures of a task, all of one class, the same in every process: another class, an opposing gradient."""
    generator = torch.Generator().manual_seed(1000 + task)
    pictures = torch.randn(count, 3, SIDE, SIDE, generator=generator)
    return pictures, torch.full((count,), task % CLASSES)


def contradicted(labels: Tensor) -> Tensor:
    """Other labels for the same pictures, so that what is learnt now goes against what was learnt before."""
    return (labels + CLASSES // 2) % CLASSES


def past(model: nn.Module, task: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Importances and anchors that a past task left, by parameter name, the same in every process."""
    generator = torch.Generator().manual_seed(2000 + task)
    importances, anchors = {}, {}
    for name, parameter in model.named_parameters():
        importances[name] = torch.rand(parameter.shape, generator=generator)
        anchors[name] = parameter.detach() + 0.01 * torch.randn(parameter.shape, generator=generator)
    return importances, anchors
