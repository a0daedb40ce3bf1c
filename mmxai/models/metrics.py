"""What a run of a model is worth: metrics a sample or a token, compared before and after an edit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy, normalize

from mmxai.errors import ArgumentError
from mmxai.models.inputs import Inputs
from mmxai.types import ROW_COLUMNS

if TYPE_CHECKING:
    from mmxai.models.model import Model, Run

Metric = Callable[["Run", "Inputs"], torch.Tensor]
"""What a run is worth: (run, its inputs) -> float `[n]`, a value an item (a sample, a token). Its attribute
`needs`, where it has one, names sites to capture."""

_SAMPLE = ROW_COLUMNS.index("sample")


def number_samples(inputs: Inputs, numbers: int | torch.Tensor) -> None:
    """Number a batch's samples, from a first one on or one by one (int `[B]`): samples given as they are have
    no numbers of their own."""
    for table in inputs.rows.values():
        own = torch.arange(numbers, numbers + len(table)) if isinstance(numbers, int) else numbers
        table[..., _SAMPLE] = own[:, None].to(torch.int32)


def prepared(model: Model, batches: Iterable[Any]) -> Iterator[Inputs]:
    """Each batch as the model takes it; samples given as they are numbered in their order."""
    first = 0
    for given in batches:
        inputs = model.prepare(given)
        if not isinstance(given, Inputs):
            number_samples(inputs, first)
        first += inputs.batch_size
        yield inputs


def labels_of(samples: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The entries of `labels` `[samples]` at the numbers of some samples, int64 `[n]`.

    ArgumentError where a sample has no number (-1, which would be read as the last) or one past the labels.
    """
    if len(samples) and not 0 <= int(samples.min()) <= int(samples.max()) < len(labels):
        raise ArgumentError(
            f"got samples numbered from {int(samples.min())} to {int(samples.max())} and {len(labels):,} "
            "labels, expected a label at each number, -1 where none is known"
        )
    return labels[samples.long()].long()


def next_token_loss(run: Run, inputs: Inputs) -> torch.Tensor:
    """Cross entropy of every token but the first, in nats; padding left out. For language models."""
    logits, ids = run.out.logits, inputs.tensors["input_ids"].to(run.out.logits.device)
    mask = inputs.tensors.get("attention_mask", torch.ones_like(ids)).to(ids.device).bool()
    kept = mask[:, 1:] & mask[:, :-1]
    return cross_entropy(logits[:, :-1][kept].float(), ids[:, 1:][kept], reduction="none")


def similarity(run: Run, inputs: Inputs) -> torch.Tensor:
    """Cosine of each picture with its own text, for CLIP fed with pairs."""
    image, text = (embedded(run, site) for site in similarity.needs)  # type: ignore[attr-defined]
    return (image * text).sum(1)


similarity.needs = ("vision.embeds", "text.embeds")  # type: ignore[attr-defined]


class Cosine:
    """Cosine of each picture with one text, embedded: float `[1, J]`."""

    needs = ("vision.embeds",)

    def __init__(self, text: torch.Tensor):
        self.text = normalize(text.float(), dim=1)

    def __call__(self, run: Run, inputs: Inputs) -> torch.Tensor:
        image = embedded(run, "vision.embeds")
        return (image @ self.text.to(image.device).T)[:, 0]


class ZeroShot:
    """1 where the nearest class text is the right one, else 0.

    texts: float `[classes, width]`, embedded class names. labels int64 `[samples]`: class of each sample, in
    the order of the batches (of `Inputs`: by the sample numbers in their row tables). -1: left out.
    """

    needs = ("vision.embeds",)

    def __init__(self, texts: torch.Tensor, labels: torch.Tensor):
        self.texts, self.labels = normalize(texts.float(), dim=1), labels

    def __call__(self, run: Run, inputs: Inputs) -> torch.Tensor:
        image = embedded(run, "vision.embeds")
        right = labels_of(run.rows["vision.pooled"][:, 0, _SAMPLE], self.labels)
        chosen = (image @ self.texts.to(image.device).T).argmax(1).cpu()
        return (chosen == right)[right >= 0].float()


class ZeroShotMargin(ZeroShot):
    """The cosine with the right class text less the highest with any other: above 0 where `ZeroShot` is 1,
    and still moving where that stays 1."""

    def __call__(self, run: Run, inputs: Inputs) -> torch.Tensor:
        image = embedded(run, "vision.embeds")
        right = labels_of(run.rows["vision.pooled"][:, 0, _SAMPLE], self.labels)
        known = right >= 0
        cosine = (image @ self.texts.to(image.device).T).cpu()[known]
        own = cosine.gather(1, right[known, None])
        others = cosine.scatter(1, right[known, None], -torch.inf).amax(1, keepdim=True)
        return (own - others)[:, 0]


def embedded(run: Run, site: str) -> torch.Tensor:
    """float32 `[n, width]` of norm 1: what a site with one row a sample held."""
    return normalize(run.acts[site][:, 0].float(), dim=1)
