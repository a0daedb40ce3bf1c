"""Mean-ablation of any terms in their direct path to the output, and what zero-shot decisions lose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.path.path import Path, Targets
from mmxai.models.metrics import labels_of
from mmxai.results import Result, axes, lines_of
from mmxai.types import Batch

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes


@dataclass(repr=False)
class Ablation(Result):
    """Accuracy with each set of terms replaced by their means over the rows, beside random sets.

    how: in the "direct path" (`ablate`), or the "whole model" (`ablate_whole`). clean: with nothing
    replaced. accuracy `[sets]`; random `[sets, draws]`: of as many terms drawn from those
    of the same kinds, the set's own left out as far as the others suffice. sizes: terms of each set.
    """

    how: str
    rows: int
    classes: int
    clean: float
    names: list[str]
    sizes: list[int]
    accuracy: np.ndarray
    random: np.ndarray

    def summary(self) -> str:
        rows = [
            (name, str(size), f"{a:.1%}", f"{r.mean():.1%}", f"{r.min():.1%}")
            for name, size, a, r in zip(self.names, self.sizes, self.accuracy, self.random, strict=True)
        ]
        columns = ("mean-ablated", "terms", "accuracy", "random sets", "worst of them")
        return (
            f"{self.how}: {self.clean:.1%} of {self.rows:,} rows right of {self.classes} classes with "
            "nothing ablated\n" + lines_of(columns, rows)
        )

    def to_pandas(self) -> pandas.DataFrame:
        """A row a set."""
        import pandas

        return pandas.DataFrame(
            {
                "set": self.names, "terms": self.sizes, "clean": self.clean, "accuracy": self.accuracy,
                "random": self.random.mean(1), "random_min": self.random.min(1),
            }
        )  # fmt: skip

    def plot(self, ax: Axes | None = None) -> Axes:
        """Accuracy of each set over the spread of its random ones."""
        ax = axes(ax)
        at = np.arange(len(self.names))
        ax.vlines(at, self.random.min(1), self.random.max(1), colors="0.6", label="random sets")
        ax.plot(at, self.accuracy, "o", label="ablated")
        ax.axhline(self.clean, ls=":", color="0.4")
        ax.set_xticks(at, self.names, rotation=30, ha="right")
        ax.set(ylabel="accuracy")
        ax.legend()
        return ax


def ablate(
    path: Path,
    batches: Callable[[], Iterable[Batch]],
    targets: Targets,
    labels: Mapping[int, int] | torch.Tensor,
    sets: Mapping[str, Sequence[str]],
    *,
    draws: int = 20,
    seed: int = 0,
) -> Ablation:
    """Zero-shot accuracy where the direct contributions of a set's terms are those of the mean row.

    batches: called twice, for means and for decisions. targets: of K classes (`path.towards(texts)`), the
    largest wins; the embedding's length changes no decision. labels: class of each sample, by its number; -1
    or absent: the row is left out. sets: name -> names of terms (`path.terms`). What later blocks would make
    of the loss is left out: it is the direct path that is cut (see `ablate_whole`).
    """
    chosen = {name: indices(path, terms) for name, terms in sets.items()}
    drawn = controls(path, chosen, draws, seed)
    marks = torch.zeros(len(chosen) * (1 + draws) + 1, len(path.terms))  # the first marks nothing
    for row, terms in enumerate([t for name in chosen for t in (chosen[name], *drawn[name])], 1):
        marks[row, terms] = 1
    mean, rows = _mean(path, batches(), targets, labels)
    right = torch.zeros(len(marks), dtype=torch.int64)
    for split, known in _labelled(path, batches(), targets, labels):
        lost = torch.einsum("sc,nck->nsk", marks.to(split.device), split - mean)
        decided = (split.sum(1, keepdim=True) - lost).argmax(-1).cpu()
        right += (decided == known[:, None]).sum(0)
    share = (right.double() / rows).numpy()
    return ablation("direct path", rows, mean.shape[1], share, chosen)


def class_margins(
    path: Path,
    batches: Callable[[], Iterable[Batch]],
    targets: Targets,
    labels: Mapping[int, int] | torch.Tensor,
) -> np.ndarray:
    """How much each term speaks for a row's own class and not for the others: float64 `[terms]`.

    The contribution to the own class less the mean over classes, each less its mean over rows (what a term
    says of every row decides nothing); the mean over rows. Arguments as in `ablate`.
    """
    mean, rows = _mean(path, batches(), targets, labels)
    total = np.zeros(len(path.terms))
    for split, known in _labelled(path, batches(), targets, labels):
        off = split - mean
        own = off.gather(2, known.to(off.device)[:, None, None].expand(-1, off.shape[1], 1))[..., 0]
        total += (own - off.mean(2)).double().sum(0).cpu().numpy()
    return total / rows


def _labelled(
    path: Path, batches: Iterable[Batch], targets: Targets, labels: Mapping[int, int] | torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(contributions `[n, terms, K]`, classes `[n]`) of the rows whose class is known."""
    for batch in batches:
        known = classes_of(batch, labels)
        yield path.split(batch, targets)[known >= 0], known[known >= 0]


def _mean(
    path: Path, batches: Iterable[Batch], targets: Targets, labels: Mapping[int, int] | torch.Tensor
) -> tuple[torch.Tensor, int]:
    """The mean contributions `[terms, K]` over labelled rows, and how many there are."""
    total, rows = torch.zeros((), dtype=torch.float64, device=targets.read.device), 0
    for split, _ in _labelled(path, batches, targets, labels):
        total, rows = total + split.double().sum(0), rows + len(split)
    if not rows:
        raise ArgumentError("ablate: got no row with a label, expected some")
    return (total / rows).float(), rows


def ablation(
    how: str, rows: int, classes: int, share: np.ndarray, chosen: Mapping[str, Sequence[int]]
) -> Ablation:
    """Of accuracies with nothing replaced, then of each set and its random ones."""
    each = share[1:].reshape(len(chosen), -1)
    sizes = [len(t) for t in chosen.values()]
    return Ablation(how, rows, classes, float(share[0]), list(chosen), sizes, each[:, 0], each[:, 1:])


def indices(path: Path, terms: Sequence[str]) -> list[int]:
    """Names of terms -> their places in `path.terms`. Raises ArgumentError."""
    number = {t.name: i for i, t in enumerate(path.terms)}
    if unknown := [t for t in terms if t not in number]:
        raise ArgumentError(
            f"got terms {unknown[:4]}, expected some of path.terms, as {', '.join(list(number)[:3])}"
        )
    return sorted({number[t] for t in terms})


def controls(
    path: Path, chosen: Mapping[str, list[int]], draws: int, seed: int
) -> dict[str, list[list[int]]]:
    """Random sets with as many terms of each kind; of a set's own only what the others do not suffice for."""
    if draws < 1 or not chosen:
        raise ArgumentError(
            f"ablate: got {len(chosen)} sets and {draws} draws, expected a set at least, and one random set "
            "to compare it with"
        )
    generator = np.random.default_rng(seed)
    found: dict[str, list[list[int]]] = {}
    for name, own in chosen.items():
        kinds = {path.terms[i].kind for i in own}
        found[name] = []
        for _ in range(draws):
            some: list[int] = []
            for kind in sorted(kinds):
                every = np.array([i for i, t in enumerate(path.terms) if t.kind == kind])
                need = sum(path.terms[i].kind == kind for i in own)
                others = generator.permutation(np.setdiff1d(every, own))
                again = generator.permutation(np.intersect1d(every, own))
                some += [int(i) for i in np.concatenate([others, again])[:need]]
            found[name].append(some)
    return found


def classes_of(batch: Batch, labels: Mapping[int, int] | torch.Tensor) -> torch.Tensor:
    """The class of each row's sample; -1 where none is known."""
    if isinstance(labels, torch.Tensor):
        return labels_of(batch.rows.sample, labels)
    samples: list[int] = batch.rows.sample.tolist()
    return torch.tensor([labels.get(s, -1) for s in samples], dtype=torch.int64)
