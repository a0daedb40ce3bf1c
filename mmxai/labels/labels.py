"""What a probe or a neuron is asked about: tasks, and the values that samples or patches have in them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmxai.errors import ArgumentError

if TYPE_CHECKING:
    from mmxai.store.samples import StoredSample

Kind = Literal["classes", "multilabel", "regression"]
Level = Literal["sample", "cell"]


@dataclass(frozen=True)
class Task:
    """One thing that is known. `names`: its classes or labels; of a regression the task's own name.

    level: "sample" (the picture or text has it) or "cell" (a patch, by what of it is covered).
    """

    name: str
    kind: Kind
    level: Level
    names: tuple[str, ...]

    @property
    def width(self) -> int:
        return len(self.names)

    def with_none(self) -> Task:
        """The same with a further class for cells that nothing covers."""
        return replace(self, names=(*self.names, "none"))


class Labels(ABC):
    """Tasks over the samples of one store.

    Values of a task: classes int64 `[n]`, the index into `Task.names`, -1 where nothing is known; multilabel
    int8 `[n, K]` of 0 and 1, a row of -1 where nothing is known; regression float64 `[n]`, else NaN.
    """

    tasks: tuple[Task, ...]
    about: str
    """What they are and where from, for reports."""

    @abstractmethod
    def values(self, task: Task, samples: np.ndarray) -> np.ndarray:
        """Of a task of samples: values of data set indices int64 `[n]`."""

    @abstractmethod
    def shares(
        self, places: Sequence[tuple[StoredSample, dict[str, Any]]]
    ) -> Iterator[dict[str, np.ndarray | None]]:
        """Of the tasks of cells: for each (sample, tile) and task the share of every cell that each label
        covers, float64 `[K, h, w]`; None where nothing is known of the sample."""

    def task(self, name: str, level: Level) -> Task:
        for task in self.tasks:
            if (task.name, task.level) == (name, level):
                return task
        known = [f"{t.name} ({t.level})" for t in self.tasks]
        raise ArgumentError(f"labels: got task {name!r} of a {level}, expected one of {known}")


def labelled(task: Task, values: np.ndarray) -> np.ndarray:
    """Which values are known: bool `[n]`."""
    if task.kind == "regression":
        return ~np.isnan(values)
    return (values if task.kind == "classes" else values[:, 0]) >= 0


def unknown(task: Task, n: int) -> np.ndarray:
    """Values of `n` items of which nothing is known."""
    if task.kind == "regression":
        return np.full(n, np.nan)
    if task.kind == "classes":
        return np.full(n, -1, np.int64)
    return np.full((n, task.width), -1, np.int8)
