"""The formulas. Each is a pure function named after the paper or code base whose convention it follows.

Notation of the docstrings: R[i, j] is the success on task j after experience i, counted from 1; K is the number of
tasks. Where a stream repeats tasks, a column is a position of the stream, not a task (`Measurements.by_position`).
``success`` has shape (..., R, T): leading dimensions are a stack of matrices, the result has shape (...). Most formulas
need a square matrix whose experience k brought task k (R = T = K) and give NaN for any other. A NaN that a formula
needs makes its result NaN; a NaN that it does not need (say above the diagonal) does no harm. With one task nothing can
be forgotten or transferred, so those metrics are NaN, also where the original code prints 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_cl.metrics import weights
from vla_cl.metrics.weights import weighted_sum

FloatArray = NDArray[np.float64]


def _square(success: FloatArray) -> FloatArray:
    """The matrix itself if it is square; else NaN, shape (..., T, T), so that the formula gives NaN."""
    success = np.asarray(success, dtype=np.float64)
    rows, columns = success.shape[-2:]
    return success if rows == columns else np.full((*success.shape[:-2], columns, columns), np.nan)


def _mean(values: FloatArray) -> FloatArray:
    """Mean over the last axis; NaN if it is empty."""
    values = np.asarray(values, dtype=np.float64)
    return np.asarray(values.mean(axis=-1) if values.shape[-1] else np.full(values.shape[:-1], np.nan))


def final_average(success: FloatArray) -> FloatArray:
    """Success on all tasks at the end; defined for any shape, so also for joint training.

    Formula: ``1/T sum_j R[last, j]``. Also called ACC, AP, ASR (AlphaBrain), AVG (Simple Recipe, arXiv 2603.11653).
    Source: Lopez-Paz and Ranzato 2017, arXiv 1706.08840, eq. 2.
    """
    return weighted_sum(success, weights.last_row)


def average_incremental(success: FloatArray) -> FloatArray:
    """Success on the tasks seen so far, averaged over the stream.

    Formula: ``1/K sum_i 1/i sum_{j<=i} R[i, j]``. Also called MAA, or Avg.
    Source: Rebuffi et al. 2017 (iCaRL), arXiv 1611.07725, sec. 4.1, "average incremental accuracy".
    """
    return weighted_sum(success, weights.seen_so_far)


def learning_accuracy(success: FloatArray) -> FloatArray:
    """Success on each task just after learning it: plasticity. The reference figure of independent training.

    Formula: ``1/K sum_k R[k, k]``. Also called MFT.
    Source: Riemer et al. 2019 (MER), arXiv 1810.11910, sec. 5, "learning accuracy".
    """
    return weighted_sum(success, weights.diagonal)


def libero_task_fwt(curve: FloatArray) -> FloatArray:
    """FWT_k of one task: area under its learning curve, with the best checkpoint held. Shape (..., n) to (...).

    Formula: ``1/n sum_e c_e``, where after the first best evaluation e* every ``c_e`` is replaced by ``c_{e*}`` (11
    evaluations at epochs 0, 5, ..., 50 in the paper). Points count equally, whatever steps lie between them.
    Bias: too high, because the best of noisy values is.
    Source: Liu et al. 2023 (LIBERO), arXiv 2306.03310, sec. 4; ``notebooks/quick_guide_algo.ipynb::get_auc``.
    """
    curve = np.asarray(curve, dtype=np.float64)
    if not curve.shape[-1]:
        return _mean(curve)
    best = curve.argmax(axis=-1)[..., None]
    held = np.where(np.arange(curve.shape[-1]) >= best, np.take_along_axis(curve, best, axis=-1), curve)
    return _mean(held)


def libero_fwt(task_fwt: FloatArray) -> FloatArray:
    """How fast each task is learnt; not transfer relative to a reference.

    Formula: ``1/K sum_k FWT_k``, with FWT_k from `libero_task_fwt`; too high, as that.
    Source: Liu et al. 2023 (LIBERO), arXiv 2306.03310; ``notebooks/quick_guide_algo.ipynb::compute_metric``.

    Args:
        task_fwt: FWT_k, shape (..., K).
    """
    return _mean(task_fwt)


def libero_nbt(success: FloatArray) -> FloatArray:
    """Negative backward transfer, divided by all K tasks: the last contributes 0. Negative = old tasks improved.

    Formula: ``1/K sum_{k<K} 1/(K-k) sum_{tau>k} (R[k, k] - R[tau, k])``.
    Source: Liu et al. 2023 (LIBERO), arXiv 2306.03310; ``notebooks/quick_guide_algo.ipynb::compute_metric``.
    """
    return weighted_sum(success, weights.later_drops_by_all)


def libero_auc(success: FloatArray, task_fwt: FloatArray) -> FloatArray:
    """Success on each task from while it is learnt to the end: learning speed and retention in one number.

    Formula: ``1/K sum_k 1/(K-k+1) (FWT_k + sum_{tau>k} R[tau, k])``; too high, as FWT_k.
    Source: Liu et al. 2023 (LIBERO), arXiv 2306.03310; ``notebooks/quick_guide_algo.ipynb::compute_metric``.

    Args:
        success: The matrix, shape (..., K, K).
        task_fwt: FWT_k from `libero_task_fwt`, shape (..., K).
    """
    columns = np.shape(success)[-1]
    return weighted_sum(success, weights.later_share) + _mean(np.asarray(task_fwt) / np.arange(columns, 0, -1))


def clare_fwt(success: FloatArray) -> FloatArray:
    """Success on each task just after learning it (no learning curve, unlike LIBERO's FWT).

    Formula: ``1/K sum_k R[k, k]``; the same number as `learning_accuracy`.
    Source: CLARE, arXiv 2601.09512; also OrthoSkillVLA.
    """
    return learning_accuracy(success)


def clare_nbt(success: FloatArray) -> FloatArray:
    """Negative backward transfer, divided by the K - 1 tasks that can be forgotten. Negative = old tasks improved.

    Formula: ``1/(K-1) sum_{k<K} 1/(K-k) sum_{tau>k} (R[k, k] - R[tau, k])``.
    Source: CLARE, arXiv 2601.09512. Its plotting script can clip negative drops and skips tasks without success; here
    every task counts as it is.
    """
    return weighted_sum(success, weights.later_drops)


def clare_auc(success: FloatArray) -> FloatArray:
    """Success on each task from when it is learnt to the end.

    Formula: ``1/K sum_k 1/(K-k+1) sum_{tau>=k} R[tau, k]``.
    Source: CLARE, arXiv 2601.09512; also OrthoSkillVLA.
    """
    return weighted_sum(success, weights.kept)


def gem_bwt(success: FloatArray) -> FloatArray:
    """Backward transfer: change of the old tasks from just after learning to the end. Negative = forgetting.

    Formula: ``1/(K-1) sum_{k<K} (R[K, k] - R[k, k])``. AlphaBrain's BWT is the same.
    Source: Lopez-Paz and Ranzato 2017 (GEM), arXiv 1706.08840, eq. 3; mammoth ``utils/metrics.py::backward_transfer``.
    """
    return -weighted_sum(success, weights.end_drops)


def gem_fwt(success: FloatArray, baseline: FloatArray) -> FloatArray:
    """Forward transfer: what earlier tasks give to a task before it is learnt. Needs the cells above the diagonal.

    Formula: ``1/(K-1) sum_{k>1} (R[k-1, k] - b[k])``, b = success of the untrained policy: in the paper a random
    initialisation, for a policy that starts from a pretrained model that model.
    Source: Lopez-Paz and Ranzato 2017 (GEM), arXiv 1706.08840, eq. 4; mammoth ``utils/metrics.py::forward_transfer``.

    Args:
        success: The matrix, shape (..., K, K).
        baseline: b, shape (..., K).
    """
    return weighted_sum(success, weights.next_task) - _mean(np.asarray(baseline, dtype=np.float64)[..., 1:])


def chaudhry_forgetting(success: FloatArray) -> FloatArray:
    """Forgetting: drop of the old tasks from their best before the last experience to the end.

    Formula: ``1/(K-1) sum_{k<K} (max_{l<K} R[l, k] - R[K, k])``. The last row is not in the maximum, so it can be
    negative. Success before a task is learnt is in the maximum where it was evaluated (all rows above the last).
    Bias: too high, because a maximum of noisy values is: without any forgetting it is above 0.
    Source: Chaudhry et al. 2018 (RWalk), arXiv 1801.10112, eq. 3 (l from 1 to K - 1). AlphaBrain's F
    (``compute_cl_matrix_metrics.py``) is the same where nothing above the diagonal was evaluated.
    """
    matrix = _square(success)
    best = _known(matrix)[..., :-1, :].max(axis=-2, initial=-np.inf)
    return _mean((best - matrix[..., -1, :])[..., :-1])


def mammoth_forgetting(success: FloatArray) -> FloatArray:
    """Forgetting: drop of the old tasks from their best at any time, the end included, so never negative.

    Formula: ``1/(K-1) sum_{k<K} (max_l R[l, k] - R[K, k])``. Success before a task is learnt is in the maximum where
    it was evaluated. The code has 0 where it was not, which changes no maximum.
    Bias: too high, because a maximum of noisy values is: without any forgetting it is above 0.
    Source: mammoth ``utils/metrics.py::forgetting``.
    """
    matrix = _square(success)
    best = _known(matrix).max(axis=-2)
    return _mean((best - matrix[..., -1, :])[..., :-1])


def _known(matrix: FloatArray) -> FloatArray:
    """What was not evaluated above the diagonal as -inf, so that no maximum takes it."""
    return np.where(np.isnan(matrix) & ~np.tri(matrix.shape[-1], dtype=bool), -np.inf, matrix)


def cw_performance(success: FloatArray) -> FloatArray:
    """Average performance: success at the end on the task of every position of the stream.

    Formula: ``1/K sum_k R[last, k]``. The same number as `final_average` unless some tasks are repeated more
    often than others. The code averages the last five evaluations of a run; here there is one.
    Source: Wolczyk et al. 2021 (Continual World), arXiv 2105.10919, sec. 4; ``results_processing/tables.py``.
    """
    return final_average(success)


def cw_forgetting(success: FloatArray) -> FloatArray:
    """Forgetting: drop of every task from just after learning to the end, divided by all K tasks (the last drops by 0).

    Formula: ``1/K sum_k (R[k, k] - R[K, k])``.
    Source: Wolczyk et al. 2021 (Continual World), arXiv 2105.10919, sec. 4; ``results_processing/tables.py``.
    """
    return weighted_sum(success, weights.end_drops_by_all)


def cw_forward_transfer(curve_means: FloatArray, reference_means: FloatArray, best: float = 1.0) -> FloatArray:
    """Forward transfer: how much faster each task is learnt in the stream than on its own.

    Formula: ``1/K sum_k (AUC_k - ref_k) / (1 - ref_k)``; AUC_k is the mean of the evaluations of task k while it is
    learnt, ref_k the same for a policy that learns task k alone. NaN if a reference is 1: there is nothing to gain.
    For scores other than success, the best one that there can be takes the place of 1; NaN if there is none.
    Bias: too low, because one divides by a measured number; little where the reference is not near 1.
    Source: Wolczyk et al. 2021 (Continual World), arXiv 2105.10919, sec. 4; ``results_processing/tables.py``.

    Args:
        curve_means: AUC_k, shape (..., K).
        reference_means: ref_k, shape (..., K).
        best: The best score.
    """
    reference = np.asarray(reference_means, dtype=np.float64)
    room = (
        np.where(reference == best, np.nan, best - reference) if np.isfinite(best) else np.full_like(reference, np.nan)
    )
    return _mean((np.asarray(curve_means) - reference) / room)


def simple_recipe_nbt(success: FloatArray) -> FloatArray:
    """Points lost on an old task between just after learning it and the end; the opposite of `gem_bwt`.

    Formula: ``1/(K-1) sum_{k<K} (R[k, k] - R[K, k])``.
    Source: Hu et al. 2026 (Simple Recipe Works), arXiv 2603.11653.
    """
    return -gem_bwt(success)


def tail_fwt(best: FloatArray) -> FloatArray:
    """Best success on each task while it is learnt.

    Formula: ``1/K sum_k F_k``, F_k the largest value of the learning curve of task k.
    Bias: too high, because the largest of noisy values is.
    Source: Liu et al. 2024 (TAIL), arXiv 2310.05905; also PPL.

    Args:
        best: F_k, shape (..., K).
    """
    return _mean(best)


def tail_bwt(success: FloatArray, best: FloatArray) -> FloatArray:
    """Change of the old tasks against their best while learnt, after each experience. Negative = forgetting.

    Formula: ``1/(K-1) sum_{k>1} B_k`` with ``B_k = 1/(k-1) sum_{i<k} (R[k, i] - F_i)``, F_i as in `tail_fwt`.
    Bias: too low, because F_i is too high.
    Source: Liu et al. 2024 (TAIL), arXiv 2310.05905; also PPL.

    Args:
        success: The matrix, shape (..., K, K).
        best: F_k, shape (..., K).
    """
    matrix = _square(success)
    size = matrix.shape[-1]
    changes = matrix - np.asarray(best, dtype=np.float64)[..., None, :]
    old = np.where(np.tri(size, k=-1, dtype=bool), changes, 0.0).sum(axis=-1)
    return _mean(old[..., 1:] / np.arange(1, size))


def iscil_fwt(success: FloatArray) -> FloatArray:
    """Success on each task when it is first learnt; the same number as `learning_accuracy`.

    Formula: ``1/K sum_k R[k, k]``.
    Source: Lee et al. 2024 (IsCiL), ``clus/utils/metric.py``; also SIL-C.
    """
    return learning_accuracy(success)


def iscil_bwt(success: FloatArray) -> FloatArray:
    """Change of each task over all later experiences; the opposite of `libero_nbt`. Negative = forgetting.

    Formula: ``1/K sum_{k<K} 1/(K-k) sum_{tau>k} (R[tau, k] - R[k, k])``.
    Source: Lee et al. 2024 (IsCiL), ``clus/utils/metric.py``; also SIL-C.
    """
    return -libero_nbt(success)


def iscil_auc(success: FloatArray) -> FloatArray:
    """Success on each task from when it is learnt to the end; the same number as `clare_auc`.

    Formula: ``1/K sum_k 1/(K-k+1) sum_{tau>=k} R[tau, k]``.
    Source: Lee et al. 2024 (IsCiL), ``clus/utils/metric.py``; also SIL-C.
    """
    return clare_auc(success)
