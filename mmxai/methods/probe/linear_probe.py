"""`LinearProbe`: this package's linear probes as an estimator of scikit-learn, for rows held in memory."""

from __future__ import annotations

from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import ClassifierTags, RegressorTags, Tags, column_or_1d
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data

from mmxai.errors import ArgumentError
from mmxai.linalg.solve import check_penalties
from mmxai.methods.probe.fitting import (
    Fitted,
    choose,
    fit_closed,
    fit_iterated,
    folds_of,
    scores,
    smooth_temperature,
)

Method = Literal["ridge", "lda", "logistic", "mean_difference", "ridge_regression"]


def _classifies(probe: LinearProbe) -> bool:
    if probe.method == "ridge_regression":
        raise AttributeError(
            "LinearProbe(method='ridge_regression') predicts numbers: it has no scores of classes"
        )
    return True


class LinearProbe(BaseEstimator):
    """A linear probe. Rows X are arrays or tensors `[N, D]`; of many sites in a store: `mmxai probe`.

    method: "ridge" (regression on -1 and 1, as RidgeClassifier), "lda", "logistic" or "mean_difference"
        classify; y holds a class each row, or labels 0 and 1 `[N, K]` of which a row may have several.
        "ridge_regression" predicts numbers y `[N]` or `[N, K]`.
    penalty: ridge: alpha of scikit-learn's Ridge. logistic: 1 / C. lda: added to the scatter within classes
        (see `closed.lda`). mean_difference has none. Several: the one with the best score in `folds` folds,
        the largest of equals.
    folds: for choosing a penalty; stratified by class, or by `groups` of `fit`, none of which is parted.
    tolerance, max_passes: logistic; see `mmxai.linalg.logistic.fit_logistic`.

    Attributes: coef_ float64 `[K, D]` (two classes: `[1, D]`, towards the second; one number: `[D]`),
    intercept_, classes_, penalty_ (chosen), cv_scores_ (of each penalty, where there are several),
    temperature_: scores of ridge and mean_difference are no log-probabilities; times this, fitted to the
    training rows, they serve as such (Guo et al. 2017), too sure of themselves where the probe overfits.
    """

    def __init__(
        self,
        method: Method = "ridge",
        *,
        penalty: float | tuple[float, ...] = 1.0,
        folds: int = 5,
        tolerance: float = 1e-5,
        max_passes: int = 300,
    ):
        self.method = method
        self.penalty = penalty
        self.folds = folds
        self.tolerance = tolerance
        self.max_passes = max_passes

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Fit to rows X `[N, D]` and targets y. groups `[N]`: for folds; say, the sample of each row."""
        if self.method not in get_args(Method):
            raise ArgumentError(
                f"LinearProbe: got method={self.method!r}, expected one of {get_args(Method)}"
            )
        numbers = self.method == "ridge_regression"
        X, y = validate_data(
            self, _array(X), _array(y), dtype=(np.float64, np.float32), multi_output=True, y_numeric=numbers
        )
        y = column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 and numbers else y
        kind, targets = ("regression", y.astype(np.float64)) if numbers else self._classes(y)
        several = not np.isscalar(self.penalty)
        penalties = check_penalties(self.penalty if several else (self.penalty,))  # type: ignore[arg-type]
        if self.method == "mean_difference":
            penalties = penalties[:1]
        folds = folds_of(targets, kind, self.folds, groups) if len(penalties) > 1 else None
        fitted: Fitted
        if self.method == "logistic":
            fitted = fit_iterated(X, targets, kind, penalties, folds, self.tolerance, self.max_passes)
        else:
            fitted = fit_closed(X, targets, kind, self.method, penalties, folds)
        best = 0
        if folds is not None:
            best, self.cv_scores_ = choose(fitted, X, targets, kind, penalties, folds)
        self.penalty_ = penalties[best]
        coef, intercept = fitted.coef[-1, best], fitted.intercept[-1, best]
        single = kind == "regression" and y.ndim == 1
        self.coef_ = coef[:, 0] if single else np.ascontiguousarray(coef.T)
        self.intercept_ = float(intercept[0]) if single else intercept
        if not numbers:
            self.temperature_ = self._temperature(X, targets, kind)
        return self

    @available_if(_classifies)
    def decision_function(self, X: Any) -> np.ndarray:
        """Scores float64 `[N, K]`, of two classes `[N]`: above 0 is the second, or the label."""
        out = self._scores(X)
        return out[:, 0] if self._two else out

    def predict(self, X: Any) -> np.ndarray:
        """Classes `[N]`, labels 0 and 1 `[N, K]`, or numbers."""
        out = self._scores(X)
        if self.method == "ridge_regression":
            return out[:, 0] if self.coef_.ndim == 1 else out
        if self.multilabel_:
            return (out > 0).astype(np.int64)
        return self.classes_[(out[:, 0] > 0).astype(np.int64) if self._two else out.argmax(1)]

    @available_if(_classifies)
    def predict_proba(self, X: Any) -> np.ndarray:
        """float64 `[N, K]`: of classes they sum to 1, of labels each stands for itself."""
        return self._probabilities(self._scores(X) * self.temperature_)

    @available_if(_classifies)
    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithm of `predict_proba`."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy (of labels: of rows with all of them right); of numbers R²."""
        measure = r2_score if self.method == "ridge_regression" else accuracy_score
        return float(measure(_array(y), self.predict(X), sample_weight=sample_weight))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        if self.method == "ridge_regression":
            tags.estimator_type, tags.regressor_tags = "regressor", RegressorTags()
        else:
            tags.estimator_type, tags.classifier_tags = "classifier", ClassifierTags(multi_label=True)
        return tags

    def _classes(self, y: np.ndarray) -> tuple[str, np.ndarray]:
        """Sets `classes_`; the kind of y and its 0 and 1, float64 `[N, K]`."""
        check_classification_targets(y)
        self.multilabel_ = type_of_target(y) == "multilabel-indicator"
        if self.multilabel_:
            self.classes_ = np.arange(y.shape[1])
            return "multilabel", y.astype(np.float64)
        self.classes_, which = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        if len(self.classes_) < 2:
            raise ArgumentError(
                f"LinearProbe: got one class, {self.classes_[0]!r}, expected at least two classes"
            )
        return "classes", np.eye(len(self.classes_))[which]

    @property
    def _two(self) -> bool:
        return not self.multilabel_ and len(self.classes_) == 2

    def _scores(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        X = validate_data(self, _array(X), dtype=(np.float64, np.float32), reset=False)
        return scores(X, np.atleast_2d(self.coef_).T, np.atleast_1d(self.intercept_))

    def _probabilities(self, logits: np.ndarray) -> np.ndarray:
        if self.multilabel_:
            return expit(logits)
        return np.column_stack([expit(-logits), expit(logits)]) if self._two else softmax(logits, axis=1)

    def _temperature(self, X: np.ndarray, targets: np.ndarray, kind: str) -> float:
        if self.method in ("lda", "logistic"):
            return 1.0
        made = scores(X, self.coef_.T, np.atleast_1d(self.intercept_))
        logits = np.column_stack([-made, made]) / 2 if self._two else made
        return smooth_temperature(logits, targets, kind)


def _array(values: Any) -> Any:
    """numpy has no bfloat16, and scikit-learn knows no tensors."""
    if not isinstance(values, torch.Tensor):
        return values
    values = values.detach().cpu()
    return (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()
