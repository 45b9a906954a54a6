"""A Llama of two layers that reads bytes, on three secret alphabets: only the task's name says which one is meant."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from vla_cl.interfaces import Distillable, Model
from vla_cl.models.randomness import evaluating
from vla_cl.random_numbers import Purpose, generator, number
from vla_cl.scores import Measure
from vla_cl.testbeds.bed import LOSS, Bed, Tensors, held_out_loss, three_tasks
from vla_cl.training.learning import TrainingSettings
from vla_cl.types import Batch, Draw

NAMES = ("code one", "code two", "code six")
LETTERS, WORD = "abcdefgh", 3
LANGUAGE_WEIGHT = 0.25
_ROWS, _HELD_OUT = 256, 64
_LONGEST = 2 * WORD + 2

EXACT_MATCH = Measure("exact_match", "higher", "proportion", 0.0, 1.0, "exact match")
"""Whether an answer is right from its first to its last token."""


def language_bed() -> Bed:
    """``code one: abc=hge``: each letter is replaced by another one, by a table of the task's."""
    samples = [_samples(task, _ROWS + _HELD_OUT) for task in range(len(NAMES))]
    return Bed(
        name="language",
        make_model=_model,
        load_model=_load,
        stream=three_tasks("codes", NAMES),
        data=[Tensors({key: value[:_ROWS] for key, value in columns.items()}) for columns in samples],
        held_out=[{key: value[_ROWS:] for key, value in columns.items()} for columns in samples],
        training=TrainingSettings(steps=150, batch_size=32, learning_rate=5e-3),
        tiny=TrainingSettings(steps=6, batch_size=8, learning_rate=1e-3),
        scores=[(EXACT_MATCH, exact_match), (LOSS, held_out_loss)],
    )


def _model(seed: int) -> Model:
    from transformers import ByT5Tokenizer, LlamaConfig, LlamaForCausalLM

    from vla_cl.models.llm import LanguageModel

    tokenizer = ByT5Tokenizer(extra_ids=0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        attn_implementation="eager",
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(number(seed, Purpose.INITIAL_WEIGHTS))
        model = LlamaForCausalLM(config)
    return LanguageModel(model, tokenizer, language_weight=LANGUAGE_WEIGHT, max_new_tokens=_LONGEST)


def _load(folder: Path) -> Model:
    from vla_cl.models.llm import LanguageModel

    return LanguageModel.load(folder, language_weight=LANGUAGE_WEIGHT, max_new_tokens=_LONGEST)


def exact_match(model: Model, batch: Batch) -> Tensor:
    """1 for each sample whose whole answer, end token included, is the likeliest token by token, shape (B,).

    That is what greedy generation would write: each token is asked for behind the right ones before it, and one wrong
    token makes the answer wrong.
    """
    from vla_cl.models.llm import IGNORED

    with evaluating(model.module):
        logits = cast(Distillable, model).outputs(batch, Draw(number(0, Purpose.ACTING)))
    labels = batch["labels"][:, 1:].to(logits.device)
    right = logits[:, :-1].argmax(-1) == labels
    whole: Tensor = (right | (labels == IGNORED)).all(1)
    return whole.double()


def _samples(task: int, count: int) -> Batch:
    from transformers import ByT5Tokenizer

    from vla_cl.models.llm import IGNORED

    tokenizer = ByT5Tokenizer(extra_ids=0)
    random = generator(task, Purpose.TEST_BED)
    table = dict(zip(LETTERS, random.permutation(list(LETTERS)), strict=True))
    ids, labels = [], []
    for _ in range(count):
        word = "".join(random.choice(list(LETTERS), WORD))
        prompt = tokenizer.encode(f"{NAMES[task]}: {word}=", add_special_tokens=False)
        answer = tokenizer.encode("".join(table[letter] for letter in word))
        ids.append([*prompt, *answer])
        labels.append([*[IGNORED] * len(prompt), *answer])
    tokens = torch.tensor(ids)
    return {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "labels": torch.tensor(labels),
        "task": [NAMES[task]] * count,
    }
