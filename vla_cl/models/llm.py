"""A causal language model of transformers as a `Model`.

A batch has ``input_ids`` int64 (B, L), ``attention_mask`` int64 (B, L), ``labels`` int64 (B, L) with `IGNORED` where a
token is not learnt from (padding and, as a rule, the prompt), ``task`` and ``index``. Padding is on the right.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from vla_cl.interfaces import Distillable, Generator
from vla_cl.models.family_roles import language_roles
from vla_cl.models.randomness import evaluating, keyed, sample_seeds, seeded
from vla_cl.random_numbers import Purpose, number
from vla_cl.trust.reading import read_json_object
from vla_cl.trust.text import reason, short
from vla_cl.types import Ability, Batch, Confidence, ConfigurationError, Draw, ForwardPass, Roles

IGNORED = -100
"""The label of a token that is not learnt from."""

CERTAIN = 1e4
"""A logit that makes a token certain, in half precision too."""


class LanguageModel(Distillable, Generator):
    """Next-token prediction.

    Args:
        model: A transformers causal language model.
        tokenizer: Its tokenizer, with an end-of-sequence and a padding token.
        language_weight: Weight of the mean loss on all tokens, the prompt's too, beside the mean loss on what is learnt
            from; LAMOL (Sun et al. 2020, arXiv 1909.03329) has 0.25, so that the model can make up whole
            samples.
        separator: Stands between the task's name and the prompt; what a sample of a task begins with is
            ``<task><separator>``.
        max_new_tokens: Length at which a generated sample is cut.
        top_k: Generated tokens are drawn from this many likeliest ones (LAMOL: 20).

    Raises:
        ConfigurationError: A setting is out of range, or the tokenizer lacks a token.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - transformers' models are untyped
        tokenizer: Any,  # noqa: ANN401
        language_weight: float = 0.0,
        separator: str = ": ",
        max_new_tokens: int = 32,
        top_k: int = 20,
    ) -> None:
        if language_weight < 0:
            raise ConfigurationError(f"language_weight must be at least 0; got {language_weight}")
        if max_new_tokens < 1 or top_k < 1:
            raise ConfigurationError(f"max_new_tokens and top_k must be at least 1; got {max_new_tokens} and {top_k}")
        if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
            raise ConfigurationError("the tokenizer needs an end-of-sequence token and a padding token")
        self.model = model
        self.tokenizer = tokenizer
        self.language_weight = language_weight
        self.separator = separator
        self.max_new_tokens = max_new_tokens
        self.top_k = top_k

    @classmethod
    def load(cls, folder: Path | str, device: str = "cpu", **settings: Any) -> LanguageModel:  # noqa: ANN401
        """A model and tokenizer that transformers saved: a folder or a hub name.

        Args:
            folder: Where.
            device: ``cpu``, ``cuda``, ...
            settings: Of the constructor.

        Raises:
            ConfigurationError: There is no such model.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            safe = {"trust_remote_code": False}  # else transformers asks whether it may run what the folder holds
            model = AutoModelForCausalLM.from_pretrained(str(folder), use_safetensors=True, **safe).to(device)
            tokenizer = AutoTokenizer.from_pretrained(str(folder), **safe)
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"{short(folder)} is not a causal language model of transformers ({reason(error)})"
            ) from error
        return cls(model, tokenizer, **settings)

    @property
    def module(self) -> nn.Module:
        """The transformers model."""
        module: nn.Module = self.model
        return module

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.module.parameters()).device

    @property
    def name(self) -> str:
        """The architecture."""
        return f"language model {self.model.config.model_type!r}"

    @property
    def abilities(self) -> frozenset[Ability]:
        """Everything but modalities; fixed outputs only without dropout, which is the only noise there is."""
        found = {Ability.PER_SAMPLE_LOSSES, Ability.OUTPUTS, Ability.FEATURES, Ability.GENERATION}
        if not any(isinstance(part, nn.Dropout) and part.p > 0 for part in self.module.modules()) and not any(
            value for key, value in vars(self.model.config).items() if key.endswith(("dropout", "pdrop"))
        ):
            found |= {Ability.FIXED_OUTPUTS, Ability.KEYED_DRAWS}
        return frozenset(found)

    def roles(self) -> Roles | None:
        """Those of its architecture, from `vla_cl.models.family_roles`; all of it acts."""
        return language_roles(self.model, self.name)

    def loss(self, batch: Batch, draw: Draw) -> Tensor:
        """Mean cross-entropy of the tokens that are learnt from, shape (B,), in nats.

        With ``language_weight`` that of all tokens comes on top.
        """
        return self.forward_pass(batch, draw).losses

    def forward_pass(self, batch: Batch, draw: Draw) -> ForwardPass:
        """Losses, and logits of the next token at every place, shape (B, L, vocabulary).

        Raises:
            ConfigurationError: Noise is chosen per sample, but there is dropout.
        """
        if draw.sample_seeds is not None and Ability.KEYED_DRAWS not in self.abilities:
            raise ConfigurationError(f"the noise of each sample cannot be chosen: {self.name} has dropout; set it to 0")
        ids, labels = batch["input_ids"].to(self.device), batch["labels"].to(self.device)
        mask = batch["attention_mask"].to(self.device)
        with seeded(draw.seed, self.device):
            logits: Tensor = self.model(input_ids=ids, attention_mask=mask).logits
        places = logits[:, :-1].float().transpose(1, 2)
        nats = functional.cross_entropy(places, ids[:, 1:], reduction="none")
        losses = _mean(nats, labels[:, 1:] != IGNORED)
        if self.language_weight:
            losses = losses + self.language_weight * _mean(nats, mask[:, 1:] > 0)
        return ForwardPass(losses, logits)

    def distance(self, student: Tensor, teacher: Tensor, batch: Batch, temperature: float = 2.0) -> Tensor:
        """T^2 KL(teacher || student) at temperature T, averaged over the tokens that are learnt from, shape (B,)."""
        learnt = _learnt(batch, student)
        log_student = functional.log_softmax(student[:, :-1].float() / temperature, dim=-1)
        log_teacher = functional.log_softmax(teacher[:, :-1].float() / temperature, dim=-1)
        divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(-1)
        return temperature**2 * _mean(divergence, learnt)

    def squared_error(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """Mean squared difference of logits over vocabulary and tokens that are learnt from, shape (B,)."""
        squares = (student - teacher)[:, :-1].float().square().mean(2)
        return _mean(squares, _learnt(batch, student))

    def counted(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The places whose next token is learnt from, bool (B, L, 1); behind the last place there is none."""
        return functional.pad(_learnt(batch, outputs), (0, 1)).unsqueeze(-1)

    def drawn_targets(self, outputs: Tensor, batch: Batch, seeds: NDArray[np.int64]) -> Tensor:
        """Logits that are certain of one token at each place, drawn by the model's own probabilities, (B, L, V)."""
        return drawn_tokens(outputs, seeds)

    def confidence(self, outputs: Tensor, batch: Batch) -> Confidence:
        """Mean probability of the right token; chance is 1 / vocabulary."""
        right = batch["labels"].to(outputs.device)[:, 1:].clamp(min=0)
        probabilities = outputs[:, :-1].float().softmax(-1).gather(-1, right[..., None])[..., 0]
        return Confidence(_mean(probabilities, _learnt(batch, outputs)), 1 / outputs.shape[-1])

    def features(self, batch: Batch) -> Tensor:
        """Mean of the last layer's hidden states over the tokens that are no padding, shape (B, hidden size)."""
        mask = batch["attention_mask"].to(self.device)
        with torch.no_grad(), evaluating(self.module):
            states: Tensor = self.model(
                input_ids=batch["input_ids"].to(self.device), attention_mask=mask, output_hidden_states=True
            ).hidden_states[-1]
        weights = mask.unsqueeze(-1).to(states)
        result: Tensor = (states * weights).sum(1) / weights.sum(1)
        return result

    def generate(self, tasks: Sequence[str], seed: int) -> Batch:
        """One whole sample for each entry of ``tasks``, drawn token by token from the ``top_k`` likeliest.

        All but the padding is learnt from, since nobody knows where a made-up prompt ends; what is learnt from a
        generated sample is therefore the language-model loss (LAMOL's, on both prompt and answer).
        """
        starts = [self.tokenizer.encode(task + self.separator, add_special_tokens=False) for task in tasks]
        generators = keyed(sample_seeds(seed, len(tasks)))
        with torch.no_grad(), evaluating(self.module):
            samples = [self._continue(start, generator) for start, generator in zip(starts, generators, strict=True)]
        length = max(len(sample) for sample in samples)
        ids = torch.full((len(samples), length), self.tokenizer.pad_token_id)
        mask = torch.zeros((len(samples), length), dtype=torch.long)
        for row, sample in enumerate(samples):
            ids[row, : len(sample)] = torch.tensor(sample)
            mask[row, : len(sample)] = 1
        labels = torch.where(mask > 0, ids, IGNORED)
        index = torch.arange(len(samples))
        return {"input_ids": ids, "attention_mask": mask, "labels": labels, "task": list(tasks), "index": index}

    def save(self, folder: Path) -> None:
        """What transformers loads again: weights, configuration and tokenizer.

        The configuration says which implementation of attention was used, which transformers leaves out when it saves
        but heeds when it loads: another one rounds differently.
        """
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        path = Path(folder) / "config.json"
        written = read_json_object(path, "the configuration of a language model", "save the model again")
        config = {**written, "attn_implementation": self.model.config._attn_implementation}
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def _continue(self, start: Sequence[int], generator: torch.Generator) -> list[int]:
        """One sample, end token included; alone, so that it depends on no other sample's length."""
        sample = list(start)
        ids, past = torch.tensor([sample], device=self.device), None
        for _ in range(self.max_new_tokens):
            answer = self.model(input_ids=ids, past_key_values=past, use_cache=True)
            past = answer.past_key_values
            logits, tokens = answer.logits[0, -1].float().cpu().topk(min(self.top_k, answer.logits.shape[-1]))
            chosen = int(tokens[torch.multinomial(logits.softmax(0), 1, generator=generator)])
            sample.append(chosen)
            if chosen == self.tokenizer.eos_token_id:
                break
            ids = torch.tensor([[chosen]], device=self.device)
        return sample


def drawn_tokens(logits: Tensor, seeds: NDArray[np.int64]) -> Tensor:
    """One token at each place, drawn by the probabilities that logits stand for, as logits that are certain of it.

    Args:
        logits: Shape (B, L, V).
        seeds: A number per sample, shape (B,); a sample's tokens follow from its own alone.
    """
    generators = [torch.Generator().manual_seed(number(seed, Purpose.DRAWN_TARGET)) for seed in seeds.tolist()]
    probabilities = logits.float().softmax(-1).cpu()
    drawn = [torch.multinomial(rows, 1, generator=g) for rows, g in zip(probabilities, generators, strict=True)]
    return torch.zeros_like(logits).scatter_(-1, torch.stack(drawn).to(logits.device), CERTAIN)


def _learnt(batch: Batch, outputs: Tensor) -> Tensor:
    """The places whose next token is learnt from, bool (B, L - 1)."""
    learnt: Tensor = batch["labels"].to(outputs.device)[:, 1:] != IGNORED
    return learnt


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean over the chosen places of each row; 0 where none is chosen."""
    weights = chosen.to(values)
    return (values * weights).sum(1) / weights.sum(1).clamp(min=1)
