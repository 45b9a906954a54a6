"""Memory-aware synapses (MAS): weights that the outputs depend on move less; no targets are needed.

Aljundi et al. 2018, arXiv 1711.09601: importance_i = mean over samples of |d g / d theta_i|, where g is the squared
norm of the outputs (or the norm, or the sum over rows r of their norms); importances of tasks add up, around the last
weights.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_cl.interfaces import Data, Distillable
from vla_cl.methods.checked_settings import MAX_BATCH, check_count
from vla_cl.methods.per_sample_gradients_estimate import SampledGradients
from vla_cl.methods.quadratic_penalty import ImportancePenalty
from vla_cl.methods.stored_outputs import outputs_that_count
from vla_cl.types import Ability, Batch, ConfigurationError, Draw, Experience, MethodCard

Norm = Literal["l2", "l2_squared", "l2_rows"]
NORMS: tuple[Norm, ...] = ("l2", "l2_squared", "l2_rows")


class MemoryAwareSynapses(ImportancePenalty):
    """MAS.

    Args:
        strength: Of the penalty; 0 is sequential fine-tuning.
        half: Whether the penalty is strength / 2 * sum_i ...
        norm: Of a sample's outputs: ``l2_squared``, of all of them together (the paper's); ``l2``, its root;
            ``l2_rows``, the sum of the norms of its rows along the last dimension (CLoG's): a row of a picture, a time
            step of actions, the logits of one token. Of tokens those count that are learnt from, as in a distance of
            outputs.
        samples: Of a task, to estimate its importances on; None for all.
        batch_size: Samples of one pass; the result does not depend on it, but for models that draw their noise for a
            whole batch at once (those without `Ability.KEYED_DRAWS` whose outputs depend on noise).

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "mas"
    card = MethodCard(
        title="Memory-aware synapses (MAS)",
        paradigm="regularisation",
        equation=(
            r"\ell_t(\theta) + \tfrac{\lambda}{2} \sum_i \Omega_i (\theta_i - \theta^*_i)^2, \quad "
            r"\Omega \leftarrow \Omega + \tfrac{1}{N} \sum_n \left|\nabla_\theta \sum_r \|f_\theta(x_n)_r\|_2\right|"
        ),
        source="Aljundi et al. 2018, arXiv 1711.09601",
        step="1 + a pass of 20 bytes per parameter",
        memory="8 bytes per trainable parameter, for any number of tasks",
        follows=(
            "importances of single samples in evaluation mode, averaged over a task, added over tasks. The preset "
            "takes norm, factor and strength of CLoG, not the paper's."
        ),
    )
    needs = frozenset({Ability.OUTPUTS})

    def __init__(
        self,
        strength: float = 5.0,
        half: bool = True,
        norm: Norm = "l2_rows",
        samples: int | None = 1024,
        batch_size: int = 64,
    ) -> None:
        super().__init__(strength, half)
        if norm not in NORMS:
            raise ConfigurationError(f"method.norm must be one of {', '.join(NORMS)}; got {norm!r}")
        if samples is not None:
            check_count("samples", samples)
        check_count("batch_size", batch_size, 1, MAX_BATCH)
        self.norm: Norm = norm
        self.samples = samples
        self.batch_size = batch_size

    def end_task(self, experience: Experience, data: Data) -> None:
        """Add the importances on what was just learnt."""
        super().end_task(experience, data)
        if self.strength == 0:
            return
        sampled = SampledGradients(
            self.model,
            data,
            self._norm_of_outputs,
            self.samples,
            self.batch_size,
            self.train_seed,
            experience.index,
        )
        importance = sampled.mean("absolute", "per_sample").mean
        self.penalty.replace(1.0, importance, dict(self.model.module.named_parameters()))

    def _norm_of_outputs(self, batch: Batch, draw: Draw, seeds: NDArray[np.int64]) -> Tensor:
        assert isinstance(self.model, Distillable)
        outputs = outputs_that_count(self.model.outputs(batch, draw), batch)
        if self.norm == "l2_squared":
            return outputs.flatten(1).square().sum(1)
        rows = outputs.flatten(1, -2) if self.norm == "l2_rows" and outputs.ndim > 2 else outputs.flatten(1)[:, None]
        norms: Tensor = torch.linalg.vector_norm(rows, dim=-1)  # its gradient is zero where a row is
        return norms.sum(1)
