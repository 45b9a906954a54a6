"""A class-conditional diffusion model of diffusers as a `Model`.

A batch has ``image`` float32 (B, C, H, W) in -1..1, ``label`` int64 (B,), the class's number, ``task``, the class's
name, and ``index``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vla_cl.interfaces import Distillable, Generator
from vla_cl.models.family_roles import UNET
from vla_cl.models.randomness import evaluating, keyed, sample_seeds, seeded
from vla_cl.random_numbers import Purpose, number
from vla_cl.trust.text import reason, short
from vla_cl.types import Ability, Batch, ConfigurationError, Draw, ForwardPass, Roles


class DiffusionModel(Distillable, Generator):
    """Noise prediction (Ho et al. 2020, arXiv 2006.11239) with a UNet2DModel.

    Args:
        unet: diffusers' ``UNet2DModel`` with ``num_class_embeds``.
        scheduler: diffusers' ``DDPMScheduler`` that predicts the noise.
        class_names: The name of each class; a sample's ``task`` is one of them.
        inference_steps: DDIM steps of a generated picture (Song et al. 2021, arXiv 2010.02502).

    Raises:
        ConfigurationError: Classes and network do not fit, or the scheduler predicts something else.
    """

    def __init__(
        self,
        unet: Any,  # noqa: ANN401 - diffusers is untyped
        scheduler: Any,  # noqa: ANN401
        class_names: Sequence[str],
        inference_steps: int = 50,
    ) -> None:
        embedded = unet.config.num_class_embeds
        if embedded is None or embedded < len(class_names):
            raise ConfigurationError(
                f"{len(class_names)} classes need a network with as many class embeddings; it has {embedded}"
            )
        if scheduler.config.prediction_type != "epsilon":
            raise ConfigurationError(
                f"expected a scheduler with prediction_type epsilon (the noise); got {scheduler.config.prediction_type}"
            )
        if not 1 <= inference_steps <= scheduler.config.num_train_timesteps:
            raise ConfigurationError(
                f"inference_steps must be between 1 and {scheduler.config.num_train_timesteps}; got {inference_steps}"
            )
        self.unet = unet
        self.scheduler = scheduler
        self.class_names = list(class_names)
        self.inference_steps = inference_steps

    @classmethod
    def load(
        cls, folder: Path | str, class_names: Sequence[str], device: str = "cpu", inference_steps: int = 50
    ) -> DiffusionModel:
        """What `save` wrote, or any folder of diffusers with ``unet`` and ``scheduler``.

        Raises:
            ConfigurationError: There is no such model.
        """
        from diffusers import DDPMScheduler, UNet2DModel

        try:
            unet = UNet2DModel.from_pretrained(str(folder), subfolder="unet", use_safetensors=True).to(device)
            scheduler = DDPMScheduler.from_pretrained(str(folder), subfolder="scheduler")
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"{short(folder)} is not a diffusers folder with unet and scheduler ({reason(error)})"
            ) from error
        return cls(unet, scheduler, class_names, inference_steps)

    @property
    def module(self) -> nn.Module:
        """The network."""
        module: nn.Module = self.unet
        return module

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.module.parameters()).device

    @property
    def name(self) -> str:
        """What messages call it."""
        return "diffusion model"

    @property
    def abilities(self) -> frozenset[Ability]:
        """All but fixed outputs, since noise and time are drawn anew in every step, and modalities.

        With dropout, whose noise is the batch's, no keyed draws either.
        """
        lacking = {Ability.FIXED_OUTPUTS, Ability.MODALITIES}
        if any(isinstance(part, nn.Dropout) and part.p > 0 for part in self.module.modules()):
            lacking |= {Ability.KEYED_DRAWS}
        return frozenset(Ability) - lacking

    def roles(self) -> Roles:
        """Those of a UNet, from `vla_cl.models.family_roles`; all of it acts."""
        return UNET.told_of(self.module, self.name)

    def loss(self, batch: Batch, draw: Draw) -> Tensor:
        """Mean squared error of the predicted noise at a random time, shape (B,)."""
        return self.forward_pass(batch, draw).losses

    def forward_pass(self, batch: Batch, draw: Draw) -> ForwardPass:
        """Losses, and the predicted noise, shape (B, C, H, W).

        Raises:
            ConfigurationError: Noise is chosen per sample, but the network has dropout.
        """
        if draw.sample_seeds is not None and Ability.KEYED_DRAWS not in self.abilities:
            raise ConfigurationError(f"the noise of each sample cannot be chosen: {self.name} has dropout; set it to 0")
        images, labels = batch["image"].to(self.device), batch["label"].to(self.device)
        noise, times = (value.to(self.device) for value in self._drawn(images.shape, draw))
        noisy = self.scheduler.add_noise(images, noise, times)
        with seeded(number(draw.seed, Purpose.DROPOUT), self.device):  # dropout, if the network has any
            predicted: Tensor = self.unet(noisy, times, class_labels=labels).sample
        return ForwardPass((predicted - noise).square().flatten(1).mean(1), predicted)

    def distance(self, student: Tensor, teacher: Tensor, batch: Batch, temperature: float = 2.0) -> Tensor:
        """Mean squared difference of the predicted noise, shape (B,); there is no temperature."""
        return (student - teacher).square().flatten(1).mean(1)

    def features(self, batch: Batch) -> Tensor:
        """Mean over places of the middle block's activations for the picture without noise, shape (B, channels)."""
        found: list[Tensor] = []
        handle = self.unet.mid_block.register_forward_hook(lambda *arguments: found.append(arguments[2]))
        images, labels = batch["image"].to(self.device), batch["label"].to(self.device)
        try:
            with torch.no_grad(), evaluating(self.module):
                self.unet(images, torch.zeros(len(images), dtype=torch.long, device=self.device), class_labels=labels)
        finally:
            handle.remove()
        return found[0].flatten(2).mean(2)

    def generate(self, tasks: Sequence[str], seed: int) -> Batch:
        """One picture for each entry of ``tasks``, by DDIM from noise of its own.

        Raises:
            ConfigurationError: An entry is no class.
        """
        from diffusers import DDIMScheduler

        if unknown := sorted(set(tasks) - set(self.class_names)):
            raise ConfigurationError(f"{unknown} are no classes of this model; it knows {', '.join(self.class_names)}")
        labels = torch.tensor([self.class_names.index(task) for task in tasks])
        shape = (self.unet.config.in_channels, *_side(self.unet.config.sample_size))
        images = torch.stack(
            [torch.randn(shape, generator=generator) for generator in keyed(sample_seeds(seed, len(tasks)))]
        )
        images = images.to(self.device)
        steps = DDIMScheduler.from_config(self.scheduler.config)
        steps.set_timesteps(self.inference_steps)
        with torch.no_grad(), evaluating(self.module):
            for time in steps.timesteps:
                times = torch.full((len(tasks),), int(time), device=self.device)
                noise = self.unet(images, times, class_labels=labels.to(self.device)).sample
                images = steps.step(noise, time, images).prev_sample
        return {
            "image": images.clamp(-1, 1).cpu(),
            "label": labels,
            "task": list(tasks),
            "index": torch.arange(len(tasks)),
        }

    def save(self, folder: Path) -> None:
        """A folder of diffusers: ``unet``, ``scheduler`` and the ``model_index.json`` of a DDPM pipeline."""
        from diffusers import DDPMPipeline

        DDPMPipeline(unet=self.unet, scheduler=self.scheduler).save_pretrained(folder)

    def _drawn(self, shape: torch.Size, draw: Draw) -> tuple[Tensor, Tensor]:
        """Noise and time, from the CPU's generators, so that they are the same on every device."""
        last = self.scheduler.config.num_train_timesteps
        if draw.sample_seeds is None:
            generator = torch.Generator().manual_seed(number(draw.seed, Purpose.GIVEN_NOISE))
            return torch.randn(shape, generator=generator), torch.randint(last, shape[:1], generator=generator)
        generators = keyed(draw.sample_seeds)
        noise = torch.stack([torch.randn(shape[1:], generator=generator) for generator in generators])
        return noise, torch.cat([torch.randint(last, (1,), generator=generator) for generator in generators])


def _side(sample_size: int | Sequence[int]) -> tuple[int, int]:
    return (sample_size, sample_size) if isinstance(sample_size, int) else (sample_size[0], sample_size[1])
