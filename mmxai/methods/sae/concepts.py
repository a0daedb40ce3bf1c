"""How well single latents tell known concepts: F1, AUPRC, IoU, splitting, absorption, monosemanticity.

For each concept the latent and its threshold are chosen on one half of the samples and every figure is taken
on the other: the best of thousands of latents looks good on the samples that chose it, whatever it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmxai.labels import Truth
from mmxai.methods.sae.absorption import absorbed_share, means_apart
from mmxai.methods.sae.activity import FEWEST, Activity, Sweep, auprc, counted, sweep
from mmxai.methods.sae.overlap import directions
from mmxai.methods.sae.seen import Seen, look
from mmxai.results import Result, axes, lines_of, number

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

    from mmxai.methods.sae.model import SAE
    from mmxai.store.reader import Store

SPLIT_GAIN = 0.03
"""A further latent counts as a split of a concept where it raises the union's F1 by more."""

_CANDIDATES, _MOST_SPLITS = 64, 10


@dataclass(frozen=True)
class ConceptScore:
    """One concept. level: "sample" (does the sample have it; a latent's largest activation over the sample's
    rows) or "cell" (is the patch covered by it). base: share of items that have it. latent, threshold: of the
    best F1 on the choosing half.

    On the other half: f1, precision, recall, iou (of cells: intersection over union on the patch grid, all
    pictures together) and auprc. split: latents that the concept needs, counted by greedy union until F1
    rises by no more than 0.03 (after Chanin et al. 2024, arXiv:2409.14507). absorbed: see
    `absorption.absorbed_share`; None of samples, and of a transcoder.
    """

    name: str
    level: Literal["sample", "cell"]
    base: float
    latent: int
    threshold: float
    f1: float
    precision: float
    recall: float
    iou: float
    auprc: float
    split: int
    absorbed: float | None


@dataclass(repr=False)
class Concepts(Result):
    """scores: a `ConceptScore` a concept. unscored: those that too few samples or cells have, or lack.

    monosemanticity float64 `[M]`: mean likeness of the samples that drive a latent, each pair weighed by the
    product of its activations (Pach et al. 2025, arXiv:2504.02821); NaN where fewer than two drive it.
    likeness: the same of all samples, which a latent without meaning would have.
    """

    samples: int
    cells: int
    scores: list[ConceptScore]
    unscored: list[str]
    monosemanticity: np.ndarray
    likeness: float

    def of(self, level: str) -> list[ConceptScore]:
        return [s for s in self.scores if s.level == level]

    def means(self) -> dict[str, float]:
        """Means over concepts, and of monosemanticity over latents; NaN where there is nothing to average."""
        sample, cell = self.of("sample"), self.of("cell")
        absorbed = [s.absorbed for s in cell if s.absorbed is not None]
        # Of a world with pictures the patches tell more about splitting; a text has none.
        return {
            "F1": _mean([s.f1 for s in sample]),
            "AUPRC": _mean([s.auprc for s in sample]),
            "cell F1": _mean([s.f1 for s in cell]),
            "cell AUPRC": _mean([s.auprc for s in cell]),
            "IoU": _mean([s.iou for s in cell]),
            "split": _mean([s.split for s in cell or sample]),
            "absorbed": _mean(absorbed),
            "monosemanticity": _mean(self.monosemanticity[np.isfinite(self.monosemanticity)]),
        }

    def summary(self) -> str:
        head = f"{len(self.scores)} concepts over {self.samples:,} samples, {self.cells:,} cells"
        best = sorted(self.scores, key=lambda s: -s.f1)[:8]
        rows = [(s.name, s.level, str(s.latent), *map(number, (s.f1, s.auprc, s.iou, s.base))) for s in best]
        means = ", ".join(f"{k} {number(v)}" for k, v in self.means().items())
        table = lines_of(("concept", "level", "latent", "F1", "AUPRC", "IoU", "base"), rows)
        return f"{head}\nmeans: {means} (all samples: {number(self.likeness)})\n{table}"

    def to_pandas(self) -> pandas.DataFrame:
        """A row a concept."""
        import pandas

        return pandas.DataFrame([vars(s) for s in self.scores])

    def plot(self, ax: Axes | None = None) -> Axes:
        """F1 of every concept, beside its base rate."""
        ax = axes(ax)
        ordered = sorted(self.scores, key=lambda s: -s.f1)
        ax.plot([s.f1 for s in ordered], label="F1 of the best latent")
        ax.plot([2 * s.base / (1 + s.base) for s in ordered], label="F1 of saying yes always")
        ax.set(xlabel="concepts, best first", ylabel="F1", ylim=(0, 1))
        ax.legend()
        return ax


def score_concepts(
    saes: Mapping[str, SAE],
    store: Store,
    truth: Truth,
    *,
    samples: int = 1024,
    seed: int = 0,
    **selection: Any,
) -> dict[str, Concepts]:
    """`Concepts` of every SAE, on the same samples. Selection: tokens, split, splits of `store.batches`."""
    seen = look(saes, store, truth, samples=samples, seed=seed, **selection)
    return {name: _score(name, sae, seen, truth) for name, sae in saes.items()}


def monosemanticity(activity: Activity, vectors: np.ndarray) -> np.ndarray:
    """float64 `[M]`: sum over pairs a != b of v_a v_b cos(a, b) over that of v_a v_b; NaN without pairs.

    vectors: float64 `[items, F]` of norm 1. In closed form: |sum v_a e_a|^2 less the pairs of an item with
    itself, so linear in the number of entries.
    """
    out = np.full(activity.width, np.nan)
    own = (vectors**2).sum(1)
    for latent in range(activity.width):
        items, values = activity.of(latent)
        if len(items) < 2:
            continue
        v = values.astype(np.float64)
        pairs = v.sum() ** 2 - (v**2).sum()
        out[latent] = (((v @ vectors[items]) ** 2).sum() - (v**2 * own[items]).sum()) / pairs
    return out


def _score(name: str, sae: SAE, seen: Seen, truth: Truth) -> Concepts:
    scores, unscored = [], []
    levels: list[tuple[Literal["sample", "cell"], tuple[str, ...], np.ndarray, np.ndarray, Activity]] = [
        ("sample", truth.names, seen.present, seen.choose, seen.pictures[name]),
        ("cell", truth.cell_names, seen.cells, seen.choose[seen.cell_sample], seen.patches[name]),
    ]
    for level, names, labels, choose, activity in levels:
        enough = _enough(labels[choose]) & _enough(labels[~choose])
        unscored += [n for n, ok in zip(names, enough, strict=True) if not ok]
        if not enough.any():
            continue
        first, second = activity.among(choose), activity.among(~choose)
        found = sweep(first, labels[choose])
        # What a transcoder writes is not of the site whose cells have the label.
        same = sae.spec.sites_in == sae.spec.sites_out
        apart = means_apart(seen, enough) if level == "cell" and same else None
        written = None if apart is None else directions(sae)
        for c in np.flatnonzero(enough).tolist():
            latent = int(found.f1[:, c].argmax())
            threshold, label = float(found.threshold[latent, c]), labels[~choose][:, c]
            mains = splits(first, found, labels[choose][:, c], c)
            told = counted(second.on(latent, threshold), label)
            lost = None
            if apart is not None and written is not None:
                lost = absorbed_share(written, second, label, mains, apart[c])
            scores.append(
                ConceptScore(
                    names[c], level, float(labels[:, c].mean()), latent, threshold, told.f1, told.precision,
                    told.recall, told.iou, auprc(second, latent, label), len(mains), lost,
                )
            )  # fmt: skip
    alike = seen.vectors.sum(0)
    pairs = len(seen.vectors) * (len(seen.vectors) - 1)
    likeness = float(((alike**2).sum() - (seen.vectors**2).sum()) / max(1, pairs))
    mono = monosemanticity(seen.pictures[name], seen.vectors)
    return Concepts(len(seen.samples), len(seen.cells), scores, unscored, mono, likeness)


def splits(activity: Activity, found: Sweep, label: np.ndarray, column: int) -> list[int]:
    """The latents that together tell a concept, best first: greedy union, each at its own threshold."""
    best = np.argsort(-found.f1[:, column], kind="stable")[:_CANDIDATES]
    best = best[found.f1[best, column] > 0]
    fires = {int(j): activity.on(int(j), float(found.threshold[j, column])) for j in best}
    chosen: list[int] = []
    union, reached = np.zeros(activity.count, bool), 0.0
    while fires and len(chosen) < _MOST_SPLITS:
        gains = {j: counted(union | on, label).f1 for j, on in fires.items()}
        latent = max(gains, key=lambda j: gains[j])
        if chosen and gains[latent] - reached <= SPLIT_GAIN:
            break
        reached, union = gains[latent], union | fires.pop(latent)
        chosen.append(latent)
    return chosen


def _enough(labels: np.ndarray) -> np.ndarray:
    have = labels.sum(0)
    return (have >= FEWEST) & (len(labels) - have >= FEWEST)


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
