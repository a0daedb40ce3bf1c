"""Labels of rows as columns of yes and no, for selectivity; and which of them exclude one another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mmxai.errors import ArgumentError
from mmxai.types import Rows

if TYPE_CHECKING:
    from mmxai.labels.labels import Labels, Level, Task
    from mmxai.store.reader import Store


@dataclass(frozen=True)
class RowLabels:
    """`of(rows)` -> (which rows are labelled, bool `[N]`; their labels, bool `[labelled, K]`).

    classes: task -> indices of names of which a row has one at most, for class-selectivity. how: in words,
    what it is to have a label.
    """

    names: tuple[str, ...]
    of: Callable[[Rows], tuple[np.ndarray, np.ndarray]]
    classes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    how: str = ""

    def __post_init__(self) -> None:
        wrong = [i for group in self.classes.values() for i in group if not 0 <= i < len(self.names)]
        if not self.names or wrong:
            raise ArgumentError(
                f"labels: got {len(self.names)} names and classes of labels {wrong}, expected at least one "
                "name and indices into the names"
            )

    @classmethod
    def of_labels(
        cls, labels: Labels, store: Store, space: str, *, level: Level | None = None,
        tasks: Sequence[str] | None = None, overlap: float = 0.5,
    ) -> RowLabels:  # fmt: skip
        """The columns of some tasks of one level (default: of cells where the space has some and labels do).

        Of cells a patch has the labels that cover at least `overlap` of it and lacks the others; of samples a
        row has its sample's, and rows of samples without a value in every task are left out.
        """
        level = level or _level(labels, space)
        chosen = [
            t for t in labels.tasks
            if t.level == level and t.kind != "regression" and (tasks is None or t.name in tasks)
        ]  # fmt: skip
        if tasks is None and level == "sample" and len(chosen) > 1:
            # Tasks that are about few samples would leave only those; what is known of all comes first.
            chosen = [t for t in chosen if t.kind == "multilabel"] or chosen
        if not chosen:
            known = [f"{t.name} ({t.level}, {t.kind})" for t in labels.tasks]
            raise ArgumentError(
                f"labels: got no task of a {level} among {tasks or 'all'}, expected some of {known}"
            )
        return cls(_columns(chosen), _reader(labels, chosen, store, space, overlap), *_rest(chosen, overlap))


def _level(labels: Labels, space: str) -> Level:
    cells = any(t.level == "cell" for t in labels.tasks)
    return "cell" if cells and not space.startswith("text") and not space.endswith(".pooled") else "sample"


def _columns(tasks: Sequence[Task]) -> tuple[str, ...]:
    often = Counter(name for t in tasks for name in t.names)
    return tuple(n if often[n] == 1 else f"{t.name}: {n}" for t in tasks for n in t.names)


def _rest(tasks: Sequence[Task], overlap: float) -> tuple[dict[str, tuple[int, ...]], str]:
    classes, first = {}, 0
    for t in tasks:
        if t.kind == "classes" and t.width > 1:
            classes[t.name] = tuple(range(first, first + t.width))
        first += t.width
    cells = tasks[0].level == "cell"
    how = (
        f"the labels that cover at least {overlap:.0%} of a patch"
        if cells
        else "the labels of a row's sample"
    )
    return classes, how


def _reader(
    labels: Labels, tasks: Sequence[Task], store: Store, space: str, overlap: float
) -> Callable[[Rows], tuple[np.ndarray, np.ndarray]]:
    from mmxai.labels.labels import labelled
    from mmxai.labels.rows import row_values

    cells = tasks[0].level == "cell"
    # With a further class for what nothing covers, a known sample is told from one without labels.
    asked = [t.with_none() if cells and t.kind == "classes" else t for t in tasks]

    def read(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        found = row_values(labels, asked, store, space, rows, overlap=overlap)
        known = np.stack([labelled(t, found[t.name]) for t in asked])
        if cells:
            sample = rows.sample.numpy()
            kept = np.isin(sample, np.unique(sample[known.any(0)])) & ((rows.y >= 0) & (rows.x >= 0)).numpy()
        else:
            kept = known.all(0)
        columns = [_one_hot(t, found[t.name][kept]) for t in tasks]
        return kept, np.concatenate(columns, 1)

    return read


def _one_hot(task: Task, values: np.ndarray) -> np.ndarray:
    if task.kind == "multilabel":
        return values > 0
    return values[:, None] == np.arange(task.width)
