"""Concepts of samples out of what else is known of them: words of their captions, classes of their labels."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from mmxai.errors import DataError
from mmxai.labels.truth import Truth
from mmxai.models.near_texts import mentions, phrases

if TYPE_CHECKING:
    from mmxai.labels.labels import Labels
    from mmxai.store.reader import Store

_CAPTIONS = 100_000  # looked through for candidates


def caption_truth(store: Store, most: int = 500) -> Truth:
    """The `most` commonest words and runs of up to three words of captions as concepts. DataError without."""
    captions = (sample.text for sample in store.samples if sample.text)
    names = phrases(islice(captions, _CAPTIONS), most=most)
    if not names:
        raise DataError(
            f"{store.path}: got samples without texts, expected captions; give labels, or harvest pictures "
            "with their captions"
        )

    def present(samples: np.ndarray) -> np.ndarray:
        return mentions([store.samples[int(s)].text or "" for s in samples], names)

    return Truth(tuple(names), present)


def label_truth(labels: Labels) -> Truth:
    """Classes and labels of whole samples as concepts; what is not known of a sample, it does not have.

    DataError where the labels are of patches alone, or are numbers.
    """
    tasks = [t for t in labels.tasks if t.level == "sample" and t.kind != "regression"]
    if not tasks:
        raise DataError(
            f"{labels.about}: got no classes of whole samples, expected some; `mmxai neurons` takes labels "
            "of patches"
        )

    def present(samples: np.ndarray) -> np.ndarray:
        columns = []
        for task in tasks:
            values = labels.values(task, samples)
            alone = task.kind == "classes"
            columns.append(values[:, None] == np.arange(task.width) if alone else values > 0)
        return np.concatenate(columns, axis=1)

    several = len(tasks) > 1
    return Truth(tuple(f"{t.name}: {n}" if several else n for t in tasks for n in t.names), present)
