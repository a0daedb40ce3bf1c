"""Our side of case `probe`: every fit of a site, from the store. As a module, prints its growth in memory."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mmxai
from mmxai.bench.memory import growth
from mmxai.linalg._threads import spread
from mmxai.linalg.gram import FoldedGram, Product
from mmxai.linalg.logistic import fit_logistic
from mmxai.linalg.solve import ridge_path
from mmxai.methods.probe.closed import ACCURACY, Linear, ridge_classifier
from mmxai.store import Store

BLOCK = 8192

Fits = tuple[np.ndarray, np.ndarray]
"""coef float64 `[penalties, folds, tasks, classes, D]`, intercept `[penalties, folds, tasks, classes]`."""


class Side:
    """`job`: store, folder (of labels.npy `[N, tasks]` and fold.npy `[N]`), penalties, folds, classes."""

    def __init__(self, job: dict[str, Any]):
        self.job = job
        folder = Path(job["folder"])
        self.labels = torch.from_numpy(np.load(folder / "labels.npy"))
        self.fold = torch.from_numpy(np.load(folder / "fold.npy"))
        self.store: Store = mmxai.open_store(job["store"])
        self.found: dict[str, Fits] = {}
        """Of the first site."""
        self.rounding: float | None = None
        """What float32 products change its ridge coefficients by, estimated; relative."""
        self.product = "float64"
        """Of the first site's last rows."""
        self.passes = 0.0
        """Of the logistic fits of the last site, together, times the share of rows that each goes through."""

    def ridge(self, sites: int | None = None) -> None:
        """As `mmxai probe` does: sites side by side, and float32 products of rows where those seen first
        allow it."""
        spread(lambda site: self._ridge(site, "auto"), list(self.store)[:sites])

    def ridge_float64(self, sites: int | None = None) -> None:
        spread(lambda site: self._ridge(site, "float64"), list(self.store)[:sites])

    def logistic(self, sites: int | None = None) -> None:
        for site in list(self.store)[:sites]:
            self._logistic(site)

    def _ridge(self, site: str, product: Product) -> None:
        job = self.job
        tasks, classes = self.labels.shape[1], job["classes"]
        gram = FoldedGram(self.store[site].width, tasks * classes, job["folds"], product=product)
        for x, labels, fold in self._blocks(site):
            gram.update(x, torch.nn.functional.one_hot(labels, classes).flatten(1).double(), fold)
        accuracy = ACCURACY[gram.product]

        def fit(fold: int) -> Linear:
            return ridge_classifier(ridge_path(gram.train(fold), job["penalties"], accuracy=accuracy))

        made = spread(fit, range(job["folds"]))
        coef = torch.stack([m.coef for m in made], 1).unflatten(3, (tasks, classes))
        intercept = torch.stack([m.intercept for m in made], 1).unflatten(2, (tasks, classes))
        fits = coef.permute(0, 1, 3, 4, 2).numpy(), intercept.numpy()
        if site == next(iter(self.store)):
            self.rounding, self.product, self.found["ridge"] = gram.rounding, gram.product, fits

    def _logistic(self, site: str) -> None:
        job = self.job
        classes = [job["classes"]] * self.labels.shape[1]
        fit = fit_logistic(
            lambda: self._blocks(site), classes, [1 / p for p in job["penalties"]], folds=job["folds"]
        )
        self.found["logistic"] = torch.stack(fit.coef, 2).numpy(), torch.stack(fit.intercept, 2).numpy()
        self.passes = float(sum(p.sum() for p in fit.passes)) * (1 - 1 / job["folds"])

    def _blocks(self, site: str) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        start = 0
        for batch in self.store[site].batches(BLOCK, dtype=torch.float32):
            end = start + batch.num_rows
            yield batch.x, self.labels[start:end], self.fold[start:end]
            start = end


def _memory(job: dict[str, Any], what: str) -> int:
    """Bytes by which this process grows at most."""
    return growth(getattr(Side(job), what))[1]


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    print(_memory(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2]))
