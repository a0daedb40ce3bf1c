"""What the captions of a store's samples tell: which words and short runs of words stand in each."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from mmxai.errors import DataError
from mmxai.labels.truth import Truth
from mmxai.models.near_texts import mentions, phrases

if TYPE_CHECKING:
    from mmxai.store.reader import Store

_CAPTIONS = 100_000  # looked through for candidates


def caption_truth(store: Store, most: int = 500) -> Truth:
    """The `most` commonest words and runs of up to three words as concepts. DataError without captions."""
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
