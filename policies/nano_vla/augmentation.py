"""Small random changes of training images, drawn per sample from torch's global generator."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def shift(images: Tensor, pixels: int) -> Tensor:
    """Move every image by up to ``pixels`` in both directions, repeating its border (Yarats et al. 2021, DrQ).

    Args:
        images: (B, C, H, W), any type.
        pixels: Largest shift.

    Returns:
        Images of the same shape and type.
    """
    count, _, height, width = images.shape
    offsets = torch.randint(0, 2 * pixels + 1, (count, 2)).tolist()
    padded = pad_border(images, pixels)
    moved = [padded[row, :, top : top + height, left : left + width] for row, (top, left) in enumerate(offsets)]
    return torch.stack(moved)


def pad_border(images: Tensor, pixels: int) -> Tensor:
    """Repeat the outermost rows and columns; unlike `functional.pad` also for uint8."""
    height, width = images.shape[-2:]
    rows = torch.arange(-pixels, height + pixels, device=images.device).clamp(0, height - 1)
    columns = torch.arange(-pixels, width + pixels, device=images.device).clamp(0, width - 1)
    return images.index_select(-2, rows).index_select(-1, columns)


def relight(images: Tensor, brightness: float, contrast: float, color: float) -> Tensor:
    """Change brightness, contrast and the balance of the colour channels.

    Args:
        images: Float (B, 3, H, W) in [0, 1].
        brightness: Largest value added to an image.
        contrast: Largest relative change of the distance from mid-grey.
        color: Largest relative change of a single channel.

    Returns:
        Images of the same shape; values may leave [0, 1] a little.
    """
    count = len(images)
    gain = (1 + contrast * symmetric(count, 1, images)) * (1 + color * symmetric(count, 3, images))
    offset = 0.5 * (1 - gain) + brightness * symmetric(count, 1, images)
    return images * gain + offset


def shade(images: Tensor, strength: float) -> Tensor:
    """Darken smooth random regions, as shadows do, by at most ``strength``."""
    field = torch.rand(len(images), 1, 5, 5, device=images.device, dtype=images.dtype)
    field = functional.interpolate(field, images.shape[-2:], mode="bilinear", align_corners=True)
    amount = strength * torch.rand(len(images), 1, 1, 1, device=images.device, dtype=images.dtype)
    return images * (1 - amount * torch.sigmoid(12 * (field - 0.6)))


def symmetric(count: int, channels: int, like: Tensor) -> Tensor:
    """Uniform values in [-1, 1], one per sample and channel, shape (count, channels, 1, 1)."""
    return 2 * torch.rand(count, channels, 1, 1, device=like.device, dtype=like.dtype) - 1
