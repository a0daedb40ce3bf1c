"""What `mmxai neurons` does with the model: contributions of units to an output, and runs without them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.report.neurons import Panel, Plot
from mmxai.results import Result

if TYPE_CHECKING:
    from mmxai.cli.neurons import Config
    from mmxai.methods.neurons import Ablation, Contribution, Latents, Matches, Neurons
    from mmxai.models import Model
    from mmxai.models.metrics import Metric
    from mmxai.shapes import ShapesWorld
    from mmxai.store import Store

_BATCH = 32
_COUNTS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_SOURCE, _SOURCE_VALUES = 2048, 1 << 24  # rows that resampled values are drawn from; of wide sites fewer
_LIKE = 5  # units of another site shown on a page


@dataclass
class Live:
    """What came of running the model, or of another store: `results` by name, for people and files; for pages
    the rest."""

    results: dict[str, Result] = field(default_factory=dict)
    contributions: list[Contribution] = field(default_factory=list)
    gradients: list[Contribution] = field(default_factory=list)
    matches: Matches | None = None
    plots: list[Plot] = field(default_factory=list)

    def panels(self, units: Sequence[int]) -> dict[int, list[Panel]]:
        """Of each unit what it adds to each output, directly and by gradient, and its like elsewhere."""
        made: dict[int, list[Panel]] = {u: [] for u in units}
        for name, found in (("Adds to", self.contributions), ("Activation x gradient", self.gradients)):
            if found:
                about = f"Mean over {found[0].items:,} items that the model was run on; {found[0].how}."
                for u in units:
                    made[u].append(Panel(name, [(c.output, float(c.mean[u])) for c in found], "mean", about))
        if (like := self.matches) is not None:
            about = f"r over {like.count:,}, by {like.by}; with other samples the largest |r| of "
            for u in units:
                likest = zip(like.nearest[u][:_LIKE].tolist(), like.correlation[u].tolist(), strict=False)
                rows = [(f"{like.b} {k}", r) for k, r in likest]
                null = f"{about}any is {like.null_a[u]:.2f}."
                made[u].append(Panel("Alike elsewhere", rows, "r", null))
        return made

    def save(self, out: Path) -> None:
        """A file for each result, in place of those of an earlier call."""
        for kind in ("contribution", "gradient", "ablation", "matches"):
            for old in out.glob(f"{kind}*.json"):
                old.unlink()
        for name, result in self.results.items():
            result.save(out / f"{name}.json")


@dataclass(frozen=True)
class Feed:
    """What the model is run on, told apart before the store is read: `picked` int64 of `samples`.

    site: whose units; of a store of codes the SAE's latents.
    """

    samples: Any
    picked: np.ndarray
    site: str | Latents
    heads: int

    @property
    def tower(self) -> str:
        return (self.site if isinstance(self.site, str) else self.site.site).partition(".")[0]

    def batches(self) -> Iterable[Any]:
        for start in range(0, len(self.picked), _BATCH):
            yield [self.samples[int(i)] for i in self.picked[start : start + _BATCH]]


def fed(model: Model, store: Store, config: Config, world: ShapesWorld | None) -> Feed | None:
    """None where the model is there for its tokens alone: latents without their SAE."""
    from mmxai.cli._harvested import again
    from mmxai.cli._latents import latents_of
    from mmxai.store.permute import Permutation
    from mmxai.store.units import Units

    site: str | Latents = config.site
    if config.sae is not None:
        site = latents_of(config.sae, store, config.site, model.device)
    elif store.plan.identity.get("sae") is not None:
        if config.ablate or config.text:
            raise ArgumentError(
                f"{config.site}: got latents without --sae, expected the folder of their SAE, which says "
                "what they write"
            )
        print("the model is not run: --sae says what latents write")
        return None
    data = config.data or world
    if data is None:
        raise ArgumentError("neurons: got a model without data, expected --data, what was harvested")
    samples = again(model, data, store, (site if isinstance(site, str) else site.site,)).samples
    picked = np.sort(Permutation(len(samples), 1)(np.arange(min(config.live_samples, len(samples)))))
    return Feed(samples, picked, site, Units(store, config.site, config.survey.heads).heads)


def live(
    model: Model, store: Store, found: Neurons, world: ShapesWorld | None, config: Config, feed: Feed
) -> Live:
    """Contributions where the site has a direct path to an output; the ablation that was asked for."""
    made = Live()
    metrics = _metrics(model, feed.tower, world, feed.picked, config.ablate)
    made.contributions = _contributions(model, config, feed)
    made.gradients = _gradients(model, config, feed)
    for name, found_here in (("contribution", made.contributions), ("gradient", made.gradients)):
        made.results |= {name if not i else f"{name}-{i + 1}": c for i, c in enumerate(found_here)}
    if config.ablate is not None:
        if not metrics:
            raise ArgumentError(
                f"--ablate: got {model.name} on {feed.tower} rows without a metric, expected a language "
                "model, or a CLIP and pictures of the shapes world; in Python any metric will do"
            )
        result = _ablation(model, store, found, config, feed, metrics)
        made.results["ablation"] = result
        made.plots += _plots(result, config.ablate, config.by)
    return made


def _contributions(model: Model, config: Config, feed: Feed) -> list[Contribution]:
    from mmxai.methods.neurons import logit_contribution, similarity_contribution
    from mmxai.models.near_texts import embed_texts

    tower, site, heads = feed.tower, feed.site, feed.heads
    if tower == "vision" and not _texts(config):
        print("no contributions: --text says to the cosine with which texts")
        return []
    try:
        if tower == "text" and "text.embeds" not in model.sites():
            return [logit_contribution(model, site, feed.batches(), heads=heads)]
        if tower != "vision" or "text.embeds" not in model.sites():
            print(f"no contributions: {model.name} reads no output off its {tower} tower that mmxai knows")
            return []
        return [
            similarity_contribution(
                model, site, feed.batches(), embed_texts(model, [text]), f"{text!r}", heads
            )
            for text in _texts(config)
        ]  # fmt: skip
    except ArgumentError as error:
        print(f"no contributions: {error}")  # a site without a direct path has gradients, can be ablated
        return []


def _gradients(model: Model, config: Config, feed: Feed) -> list[Contribution]:
    """Of the same outputs, later blocks included: sites without a direct path have these."""
    from mmxai.methods.neurons import activation_gradient
    from mmxai.models.metrics import Cosine, next_token_loss
    from mmxai.models.near_texts import embed_texts

    if _generates(model) and feed.tower == "text":
        asked: dict[str, Metric] = {"the next-token loss of a text": next_token_loss}
    elif feed.tower == "vision" and "text.embeds" in model.sites():
        asked = {f"the cosine with {t!r}": Cosine(embed_texts(model, [t])) for t in _texts(config)}
    else:
        return []
    return [
        activation_gradient(model, feed.site, feed.batches(), metric, name=name, heads=feed.heads)
        for name, metric in asked.items()
    ]


def _texts(config: Config) -> tuple[str, ...]:
    return config.text or ((config.ablate,) if config.ablate else ())


def _generates(model: Model) -> bool:
    can = getattr(model.module, "can_generate", None)
    return callable(can) and bool(can())


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

    if tower == "text" and _generates(model):
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
        if not has.any():
            print(
                f"no {concept} alone in any of {len(picked)} pictures: its margin needs more --live-samples"
            )
        metrics[f"{concept} margin"] = ZeroShotMargin(texts, torch.where(has, labels, -1))
        metrics[f"other {name} margin"] = ZeroShotMargin(texts, torch.where(has, -1, labels))
    return {name: metric for name, metric in metrics.items() if (metric.labels >= 0).any()}


def _ablation(
    model: Model, store: Store, found: Neurons, config: Config, feed: Feed, metrics: dict[str, Any]
) -> Ablation:
    from mmxai.methods.neurons import ablate
    from mmxai.store.permute import Permutation

    site = store[config.site]
    number = min(_SOURCE, max(1, _SOURCE_VALUES // site.width), len(site))
    rows = np.sort(Permutation(len(site), 2)(np.arange(number)))
    source = site.gather(rows, torch.float32)
    # Of what is rarely active so few rows do not tell the mean.
    latents = not isinstance(feed.site, str)
    means = store.stats[config.site].mean if latents else source.mean(0)
    alive = np.flatnonzero(found.std > 0)
    most = min(config.ablated, len(alive) // 2)
    assert found.labels is not None and config.ablate is not None  # the label was looked up among them
    order = found.labels.ranking(config.ablate, config.by)[:most].tolist()
    return ablate(
        model, feed.site, order, feed.batches, metrics, how=config.how,
        counts=sorted({*(n for n in _COUNTS if n < most), most}), means=means, source=source,
        by=config.factor, heads=feed.heads, among=np.setdiff1d(alive, order).tolist(), sets=config.sets,
        seed=config.survey.seed,
    )  # fmt: skip


def _plots(found: Ablation, label: str, by: str) -> list[Plot]:
    from mmxai.report.plots import curves

    made = []
    for name, values in found.chosen.items():
        x = [float(n) for n in found.counts]
        lines = {f"best for {label}": (x, values.tolist())}
        lines |= {f"random {i + 1}": (x, v.tolist()) for i, v in enumerate(found.control[name][:3])}
        said = (
            f"{found.items[name]:,} items; {found.how}, the best first, by {by}; "
            "random ones of those that ever change."
        )
        made.append(
            Plot(f"{name} without units", curves(lines, x="units ablated", zero=True), said, list(lines))
        )
    return made


def plot_of(found: Matches) -> Plot:
    """Largest |r| of each unit, sorted, beside what other samples reach."""
    from mmxai.report.plots import curves

    lines = {
        name: ([float(i + 1) for i in range(len(r))], np.sort(np.abs(r))[::-1].tolist())
        for name, r in (("matched", found.best()[1]), ("with other samples", found.null_a))
    }
    said = f"{len(found.mutual()):,} pairs are each other's nearest, over {found.count:,}, by {found.by}."
    return Plot(
        f"largest |r| with {found.b}",
        curves(lines, x="units, the likest first", zero=True),
        said,
        list(lines),
    )
