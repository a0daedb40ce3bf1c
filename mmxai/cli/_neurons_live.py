"""What `mmxai neurons` does with the model: contributions of units to an output, and runs without them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.report.neurons import Panel, Plot
from mmxai.results import Result

if TYPE_CHECKING:
    from mmxai.cli.neurons import Config
    from mmxai.methods.neurons import Ablation, Contribution, Neurons
    from mmxai.models import Model
    from mmxai.shapes import ShapesWorld
    from mmxai.store import Store

_BATCH = 32
_COUNTS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_SOURCE = 2048  # rows that resampled values are drawn from


@dataclass
class Live:
    """What came of running the model, for people and for pages."""

    results: list[Result] = field(default_factory=list)
    contributions: list[Contribution] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)

    def panels(self, units: Sequence[int]) -> dict[int, list[Panel]]:
        """Of each unit what it adds to each output, in one list."""
        if not self.contributions:
            return {}
        about = "Mean over the samples that the model was run on; " + self.contributions[0].how + "."
        return {
            u: [Panel("Adds to", [(c.output, float(c.mean[u])) for c in self.contributions], "mean", about)]
            for u in units
        }


def live(model: Model, store: Store, found: Neurons, world: ShapesWorld | None, config: Config) -> Live:
    """Contributions where the site has a direct path to an output; the ablation that was asked for."""
    from mmxai.cli._harvested import again
    from mmxai.store.permute import Permutation
    from mmxai.store.units import Units

    data = config.data or world
    if data is None:
        raise ArgumentError("neurons: got a model without data, expected --data, what was harvested")
    samples = again(model, data, store, (config.site,)).samples
    picked = np.sort(Permutation(len(samples), 1)(np.arange(min(config.live_samples, len(samples)))))
    heads = Units(store, config.site, config.survey.heads).heads
    tower = config.site.partition(".")[0]
    made = Live()

    def batches() -> Iterable[Any]:
        for start in range(0, len(picked), _BATCH):
            yield [samples[int(i)] for i in picked[start : start + _BATCH]]

    metrics = _metrics(model, tower, world, picked, config.ablate)
    made.contributions = _contributions(model, config, tower, batches, heads)
    made.results += made.contributions
    if config.ablate is not None:
        if not metrics:
            raise ArgumentError(
                f"--ablate: got {model.name} on {tower} rows without a metric, expected a language model, or "
                "a CLIP and pictures of the shapes world; in Python any metric will do"
            )
        result = _ablation(model, store, found, config, batches, metrics, heads)
        made.results.append(result)
        made.plots += _plots(result, config.ablate, config.by)
    return made


def _contributions(
    model: Model, config: Config, tower: str, batches: Callable[[], Iterable[Any]], heads: int
) -> list[Contribution]:
    from mmxai.methods.neurons import logit_contribution, similarity_contribution
    from mmxai.models.near_texts import embed_texts

    try:
        if tower == "text" and "text.embeds" not in model.sites():
            return [logit_contribution(model, config.site, batches(), heads=heads)]
        if tower != "vision" or "text.embeds" not in model.sites():
            print(f"no contributions: {model.name} reads no output off its {tower} tower that mmxai knows")
            return []
        texts = config.text or ((config.ablate,) if config.ablate else ())
        return [
            similarity_contribution(
                model, config.site, batches(), embed_texts(model, [text]), f"{text!r}", heads
            )
            for text in texts
        ]  # fmt: skip
    except ArgumentError as error:
        if config.text:
            raise
        print(f"no contributions: {error}")  # a site without a direct path can still be ablated
        return []


def _metrics(
    model: Model, tower: str, world: ShapesWorld | None, picked: np.ndarray, concept: str | None
) -> dict[str, Any]:
    """A language model's loss; of pictures of the shapes world what zero-shot tells of their only object.

    By how much the right text is nearer than any other still moves where accuracy stays 1; it is taken apart
    for pictures that have the concept.
    """
    from mmxai.models.metrics import ZeroShot, ZeroShotMargin, next_token_loss
    from mmxai.models.near_texts import embed_texts
    from mmxai.shapes import prompt
    from mmxai.shapes.scene import ATTRIBUTES, CATEGORY_COLUMN

    can = getattr(model.module, "can_generate", None)
    if tower == "text" and callable(can) and can():
        return {"next-token loss": next_token_loss}
    if world is None or tower != "vision" or "text.embeds" not in model.sites():
        return {}
    scenes = world.scenes(picked)
    single = torch.from_numpy(scenes.count == 1)
    metrics: dict[str, Any] = {}
    for name in ("colour", "shape", "fill"):
        only = torch.from_numpy(scenes.things[:, 0, CATEGORY_COLUMN[name]]).long()
        labels = torch.where(single, only, -1)  # in the order in which the samples are run
        values = ATTRIBUTES[name]
        texts = embed_texts(model, [prompt(**{name: value}) for value in values])
        metrics[name] = ZeroShot(texts, labels)
        if concept not in values:
            metrics[f"{name} margin"] = ZeroShotMargin(texts, labels)
            continue
        has = labels == values.index(concept)
        metrics[f"{concept} margin"] = ZeroShotMargin(texts, torch.where(has, labels, -1))
        metrics[f"other {name} margin"] = ZeroShotMargin(texts, torch.where(has, -1, labels))
    return metrics


def _ablation(
    model: Model, store: Store, found: Neurons, config: Config, batches: Callable[[], Iterable[Any]],
    metrics: dict[str, Any], heads: int,
) -> Ablation:  # fmt: skip
    from mmxai.cli.neurons import best_of
    from mmxai.methods.neurons import ablate
    from mmxai.store.permute import Permutation

    site = store[config.site]
    rows = np.sort(Permutation(len(site), 2)(np.arange(min(_SOURCE, len(site)))))
    source = site.gather(rows, torch.float32)
    most = min(config.ablated, found.units // 2)
    order = best_of(found, config.ablate or "", config.by)[:most]
    return ablate(
        model, config.site, order, batches, metrics, how=config.how,
        counts=sorted({*(n for n in _COUNTS if n < most), most}), means=source.mean(0), source=source,
        heads=heads, sets=config.sets, seed=config.survey.seed,
    )  # fmt: skip


def _plots(found: Ablation, label: str, by: str) -> list[Plot]:
    from mmxai.report.plots import curves

    made = []
    for name, values in found.chosen.items():
        x = [float(n) for n in found.counts]
        lines = {f"best for {label}": (x, values.tolist())}
        lines |= {f"random {i + 1}": (x, v.tolist()) for i, v in enumerate(found.control[name][:3])}
        said = f"{found.items[name]:,} items; {found.how} at every row, the best first, by {by}."
        made.append(Plot(f"{name} without units", curves(lines, x="units ablated"), said, list(lines)))
    return made
