"""The parts of NanoVLA.

Group and layer normalisation only, so that the samples of a batch never influence each other. Shapes in signatures are
checked when the tests run (pytest's ``--jaxtyping-packages``) and cost nothing otherwise.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from vla_cl.policies.nano_vla.tokenizer import PAD, VOCABULARY_SIZE

NORM_GROUPS = 8
APPEARANCE_SIZE = 8
"""Numbers that tell what is seen at a keypoint, beside its row and column."""


class InstructionEncoder(nn.Module):
    """Bytes to one vector: embedding, one convolution over five bytes, mean, two layers."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY_SIZE, size, padding_idx=PAD)
        self.convolution = nn.Conv1d(size, size, kernel_size=5, padding=2)
        self.output = nn.Sequential(
            nn.LayerNorm(size), nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size), nn.LayerNorm(size)
        )

    def forward(self, tokens: Int[Tensor, "count bytes"]) -> Float[Tensor, "count size"]:
        """Embed instructions.

        Args:
            tokens: int64 (N, max_instruction_bytes).

        Returns:
            (N, size); what stands behind an instruction's end has no influence.
        """
        valid = (tokens != PAD).unsqueeze(-1).to(self.embedding.weight.dtype)
        features = self.embedding(tokens) * valid
        features = functional.relu(self.convolution(features.transpose(1, 2)).transpose(1, 2)) * valid
        output: Tensor = self.output(features.sum(1) / valid.sum(1).clamp(min=1))
        return output


class ModulatedConvolution(nn.Module):
    """Convolution, normalisation, gain and offset from the instruction (FiLM, Perez et al. 2018), rectifier."""

    def __init__(self, inputs: int, outputs: int, stride: int, condition_size: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm = nn.GroupNorm(NORM_GROUPS, outputs, affine=False)
        self.modulation = nn.Linear(condition_size, 2 * outputs)
        # Small but not zero: different instructions see different features from the first step on.
        nn.init.normal_(self.modulation.weight, std=0.05)
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self, image: Float[Tensor, "batch inputs height width"], condition: Float[Tensor, "batch size"]
    ) -> Float[Tensor, "batch outputs new_height new_width"]:
        """(B, inputs, H, W) and (B, condition_size) to (B, outputs, H / stride, W / stride)."""
        features = self.norm(self.convolution(image))
        gain, offset = self.modulation(condition).to(features.dtype)[:, :, None, None].chunk(2, dim=1)
        return functional.relu(torch.addcmul(offset, features, 1 + gain))


class Keypoints(nn.Module):
    """Where each keypoint is and what is seen there (spatial softmax, Levine et al. 2016)."""

    def __init__(self, count: int, channels: int, side: int) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.zeros(count))
        self.appearance = nn.Parameter(torch.randn(count, channels, APPEARANCE_SIZE) / channels**0.5)
        axis = torch.linspace(-1, 1, side)
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).reshape(-1, 2)
        self.register_buffer("grid", grid, persistent=False)
        self.grid: Tensor

    def forward(
        self, scores: Float[Tensor, "batch keypoints places"], features: Float[Tensor, "batch channels places"]
    ) -> Float[Tensor, "batch features"]:
        """Attend.

        Args:
            scores: How well each place fits each keypoint, (B, count, places).
            features: What is at each place, (B, channels, places).

        Returns:
            (B, count * (2 + APPEARANCE_SIZE)).
        """
        attention = (scores * self.sharpness.exp()[:, None]).softmax(-1)
        positions = attention @ self.grid
        seen = torch.einsum("bkc,kcn->bkn", attention @ features.transpose(1, 2), self.appearance)
        return torch.cat([positions.flatten(1), seen.flatten(1)], dim=1)


class VisionEncoder(nn.Module):
    """Picture and instruction to a vector that holds both positions and appearance.

    Three stages halve the resolution. Keypoints are found on the second, fine map, helped by the third: small targets
    need the resolution, telling what they are needs the context. The third map is also kept in full, with few channels.
    """

    def __init__(self, image_size: int, channels: list[int], num_keypoints: int, condition_size: int) -> None:
        super().__init__()
        low, middle, high = channels
        self.stem = nn.Conv2d(3, low, kernel_size=5, stride=2, padding=2)
        self.fine = ModulatedConvolution(low, middle, 2, condition_size)
        self.coarse = ModulatedConvolution(middle, high, 2, condition_size)
        self.residual = ModulatedConvolution(high, high, 1, condition_size)
        self.fine_scores = nn.Conv2d(middle, num_keypoints, kernel_size=1)
        self.coarse_scores = nn.Conv2d(high, num_keypoints, kernel_size=1)
        half = -(-image_size // 2)
        fine_size = -(-half // 2)
        coarse_size = -(-fine_size // 2)
        self.keypoints = Keypoints(num_keypoints, middle, fine_size)
        squeezed = high // 4
        self.squeeze = nn.Conv2d(high, squeezed, kernel_size=1)
        self.output_size = (2 + APPEARANCE_SIZE) * num_keypoints + high + squeezed * coarse_size**2

    def forward(
        self, image: Float[Tensor, "batch 3 side side"], condition: Float[Tensor, "batch size"]
    ) -> Float[Tensor, "batch features"]:
        """Encode.

        Args:
            image: (B, 3, image_size, image_size), values in about [-2, 2].
            condition: The instruction's embedding, (B, condition_size).

        Returns:
            float32 (B, output_size).
        """
        fine = self.fine(functional.relu(self.stem(image)), condition)
        coarse = self.coarse(fine, condition)
        coarse = coarse + self.residual(coarse, condition)
        scores = self.scores(fine, coarse)
        summary = coarse.mean((2, 3))
        layout = functional.relu(self.squeeze(coarse)).flatten(1)
        with torch.autocast(image.device.type, enabled=False):  # positions need more than bfloat16's eight bits
            keypoints = self.keypoints(scores.float(), fine.flatten(2).float())
        return torch.cat([keypoints, summary.float(), layout.float()], dim=1)

    def scores(
        self, fine: Float[Tensor, "batch middle fine fine"], coarse: Float[Tensor, "batch high coarse coarse"]
    ) -> Float[Tensor, "batch keypoints places"]:
        """How well each place of the fine map fits each keypoint, (B, num_keypoints, places)."""
        context = functional.interpolate(self.coarse_scores(coarse), fine.shape[-2:], mode="nearest")
        scores: Tensor = (self.fine_scores(fine) + context).flatten(2)
        return scores


class VelocityHead(nn.Module):
    """The vector field of flow matching: what is seen, noisy actions and time to a velocity of the actions."""

    def __init__(self, context_size: int, chunk_size: int, action_size: int) -> None:
        super().__init__()
        self.shape = (chunk_size, action_size)
        frequencies = 2.0 ** torch.linspace(0, 5, 16)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.frequencies: Tensor
        flat = chunk_size * action_size
        self.layers = nn.Sequential(
            nn.Linear(context_size + flat + 2 * len(frequencies), context_size),
            nn.ReLU(),
            nn.Linear(context_size, context_size),
            nn.ReLU(),
            nn.Linear(context_size, flat),
        )

    def forward(
        self,
        context: Float[Tensor, "batch context"],
        actions: Float[Tensor, "batch chunk action"],
        time: Float[Tensor, " batch"],
    ) -> Float[Tensor, "batch chunk action"]:
        """(B, context_size), (B, chunk_size, A) and (B,) in [0, 1] to (B, chunk_size, A)."""
        angles = time[:, None] * self.frequencies
        inputs = torch.cat([context, actions.flatten(1), angles.sin(), angles.cos()], dim=1)
        velocity: Tensor = self.layers(inputs).unflatten(1, self.shape)
        return velocity
