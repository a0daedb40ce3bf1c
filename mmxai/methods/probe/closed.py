"""Linear probes in closed form, from moments alone: every penalty and task of a state at once.

Coefficients are float64 `[P, D, K]`, intercepts `[P, K]`, one set a penalty; scores are x @ coef + intercept.
A task's `columns` are those of the state's targets that code it: a class each as 0 and 1 (`exclusive`: a row
is of one of them), or a label each as 0 and 1 (a row may have any), or numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from mmxai.linalg.states import State

ACCURACY = {"float64": 1e-8, "float32": 1e-5}
"""Of `ridge_path` for ridge, by the type in which products of rows were taken: of float32 ones coefficients
are known to `gram.SAFE`, three times as much. `lda` needs more than either: it divides by what the classes
leave, which may be little."""


class Linear(NamedTuple):
    """coef float64 `[P, D, K]`, intercept float64 `[P, K]`."""

    coef: torch.Tensor
    intercept: torch.Tensor


def ridge_classifier(
    path: Linear | tuple[torch.Tensor, torch.Tensor], columns: slice = slice(None)
) -> Linear:
    """Ridge regression on -1 and 1 (scikit-learn's RidgeClassifier), from `ridge_path` on columns of 0 and 1.

    A row is of the class with the largest score, and has a label where its score is above 0.
    """
    coef, intercept = path
    return Linear(2 * coef[:, :, columns], 2 * intercept[:, columns] - 1)


def ridge_regression(
    path: Linear | tuple[torch.Tensor, torch.Tensor], columns: slice = slice(None)
) -> Linear:
    """The columns' share of `ridge_path`."""
    coef, intercept = path
    return Linear(coef[:, :, columns], intercept[:, columns])


def lda(
    state: State,
    path: Linear | tuple[torch.Tensor, torch.Tensor],
    columns: slice = slice(None),
    *,
    exclusive: bool = True,
) -> Linear:
    """Linear discriminant analysis with covariance (S + penalty) / n, S the scatter within classes, for the
    penalties of `path = ridge_path(state, penalties)`: no further factorisation.

    S is the scatter of all less that between classes, of rank K, so its solutions follow from ridge's by the
    matrix inversion lemma. (They lose digits as a penalty nears 0 on classes that a hyperplane parts.)
    Scores are log-posteriors up to a constant of the row: softmax of them are probabilities. Not `exclusive`:
    each label is a task of two classes, its score the log-odds. scikit-learn's shrinkage s is penalty
    n s v / (1 - s), v the mean within-class variance, with a covariance 1 / (1 - s) times ours.
    """
    coef = path[0][:, :, columns]
    xy, counts = state.xy[:, columns], state.class_counts[columns]
    n = state.count
    if exclusive:
        # U U' is the scatter between classes; U_c = sqrt(n_c) (m_c - m).
        scale = torch.where(counts > 0.5, counts.clamp(min=0.5).rsqrt(), 0.0)
        inner = torch.eye(len(counts), dtype=torch.float64) - (xy * scale).T @ (coef * scale)
        within = coef * scale @ torch.linalg.inv(inner)
        weights = n * within * scale
        offsets = torch.where(counts > 0.5, (counts / n).log(), -torch.inf)
        means = state.class_means[columns]
        middle = (means + state.mean_x) / 2
        return Linear(weights, offsets - _dots(middle, weights))
    others = n - counts
    both = (counts > 0.5) & (others > 0.5)
    scale = torch.where(both, n / (counts * others).clamp(min=0.25), 0.0)
    apart = xy * scale  # m1 - m0
    between = 1 - (xy * coef).sum(1) * scale  # of each label, [P, K]
    weights = n * coef * scale / between[:, None]
    odds = torch.where(both, (counts / others).log(), torch.where(counts > 0.5, torch.inf, -torch.inf))
    middle = _middle(state, columns, apart)
    return Linear(weights, odds - _dots(middle, weights))


def mean_difference(state: State, columns: slice = slice(None), *, exclusive: bool = True) -> Linear:
    """Difference of means, P = 1 (Marks and Tegmark 2023, arXiv:2310.06824, for two classes).

    A class's (label's) direction points from the mean of all (of the rows without it) to its own, and a row
    is of the class whose mean is nearest.
    """
    means, counts = state.class_means[columns], state.class_counts[columns]
    if exclusive:
        weights = (means - state.mean_x).T
        nearest = torch.where(counts > 0.5, 0.0, -torch.inf) - _dots(
            (means + state.mean_x) / 2, weights[None]
        )
        return Linear(weights[None], nearest)
    others = state.count - counts
    both = (counts > 0.5) & (others > 0.5)
    weights = state.xy[:, columns] * torch.where(both, state.count / (counts * others).clamp(min=0.25), 0.0)
    odds = torch.where(both, 0.0, torch.where(counts > 0.5, torch.inf, -torch.inf))
    return Linear(weights[None], odds - _dots(_middle(state, columns, weights), weights[None]))


def _middle(state: State, columns: slice, apart: torch.Tensor) -> torch.Tensor:
    """Half way between the means of rows with a label and without, `[K, D]`; `apart` is their difference."""
    share = state.mean_y[columns, None]
    return state.mean_x + apart.T * (0.5 - share)


def _dots(points: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """points `[K, D]` with weights `[P, D, K]`, each its own: `[P, K]`."""
    return (points.T * weights).sum(1)
