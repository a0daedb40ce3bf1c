"""What is probed before any activation is read: which rows, what is known of them, who is held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from mmxai.errors import ArgumentError, SelectionError
from mmxai.labels import Labels, Task, labelled, row_values
from mmxai.methods.probe.controls import control_values, hashed, types_of
from mmxai.methods.probe.options import ProbeConfig
from mmxai.store.select import RowFilter, select_rows, split_of

if TYPE_CHECKING:
    from mmxai.store.reader import Store

TEST = -1
"""The fold of items that nothing but the measures sees."""

_BLOCK = 1 << 17  # rows whose labels are found at once
_FOLD, _KEPT, _TEST = 11, 12, 13  # keys of hashes
_DEFAULT_TOKENS = ("patch", "special", "text", "image", "generated")


@dataclass(frozen=True)
class Known:
    """A task, or a control of one, and the values of a cohort's items. `of`: the task's name; control: its
    number, -1 of the task itself."""

    task: Task
    values: np.ndarray
    of: str
    control: int = -1


@dataclass(frozen=True)
class Cohort:
    """Tasks that know the same items: these share their sums of products.

    items: int64 `[M]`, ascending numbers of items; fold: int64 `[M]`, TEST of those held out; samples: int64
    `[M]`; kept: bool `[M]`, training items whose activations are held; measured: bool `[M]`, test items.
    """

    items: np.ndarray
    fold: np.ndarray
    samples: np.ndarray
    kept: np.ndarray
    measured: np.ndarray
    known: tuple[Known, ...]

    @property
    def tasks(self) -> list[Task]:
        return [k.task for k in self.known if k.control < 0]


@dataclass(frozen=True)
class Design:
    """rows: int64 `[R]`, logical rows that are read, ascending; item: int64 `[R]`, the item each goes into
    (one item a row, but of a mean one a sample); `notes`: what was left out."""

    space: str
    rows: np.ndarray
    item: np.ndarray
    items: int
    mean: bool
    cohorts: tuple[Cohort, ...]
    notes: tuple[str, ...] = ()


@dataclass
class _Items:
    """All items, before cohorts: `[I]` each."""

    samples: np.ndarray
    tokens: np.ndarray
    fold: np.ndarray
    values: dict[str, np.ndarray] = field(default_factory=dict)


def make_design(store: Store, space: str, labels: Labels, config: ProbeConfig) -> Design:
    """SelectionError where no task is left that can be probed in this row space."""
    tasks = _tasks(labels, config)
    level = tasks[0].level
    pooled = bool((store.rows[space][:1].token_type < 0).any())  # one row a sample already
    if pooled and level == "cell":
        raise SelectionError("probe: there is one row a sample, and the labels are of patches")
    rows = _rows(store, space, config, level, pooled)
    cells: dict[str, list[np.ndarray]] = {t.name: [] for t in tasks if level == "cell"}
    who: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, len(rows), _BLOCK):
        table = store.rows[space].gather(rows[start : start + _BLOCK])
        who.append((table.sample.numpy().astype(np.int64), table.token_id.numpy().astype(np.int64)))
        if cells:
            values = row_values(labels, tasks, store, space, table, overlap=config.overlap)
            for name, parts in cells.items():
                parts.append(values[name])
    samples, tokens = (np.concatenate(column) for column in zip(*who, strict=True))
    mean = config.pool == "mean" and not pooled
    item = np.cumsum(np.diff(samples, prepend=samples[:1]) != 0) if mean else np.arange(len(rows))
    first = np.flatnonzero(np.diff(item, prepend=-1)) if mean else item
    found = _Items(samples[first], tokens[first], _folds(samples[first], config))
    found.values = {name: np.concatenate(parts) for name, parts in cells.items()}
    own, at = np.unique(found.samples, return_inverse=True)
    for task in (t for t in tasks if level == "sample"):
        found.values[task.name] = labels.values(task, own)[at]
    notes: list[str] = []
    by_token = not mean and not pooled and bool((found.tokens >= 0).any())
    cohorts = _cohorts(tasks, found, by_token, config, notes)
    if not cohorts:
        raise SelectionError("probe: no task is left: " + "; ".join(notes))
    return Design(space, rows, item, len(first), mean, tuple(cohorts), tuple(dict.fromkeys(notes)))


def _tasks(labels: Labels, config: ProbeConfig) -> list[Task]:
    """The tasks asked for, of one level: of patches where tokens are probed and anything is known of them."""
    levels = {t.level for t in labels.tasks}
    level = "cell" if config.pool == "token" and "cell" in levels else "sample"
    if level not in levels:
        raise ArgumentError(f"probe: got labels of patches with pool={config.pool!r}, expected pool='token'")
    tasks = [t for t in labels.tasks if t.level == level]
    if config.tasks:
        if other := sorted(set(config.tasks) & {t.name for t in labels.tasks} - {t.name for t in tasks}):
            pools = "pool='token'" if level == "sample" else "pool='cls', 'mean' or 'last'"
            raise ArgumentError(
                f"probe: got tasks {other} with pool={config.pool!r}, which are of "
                f"{'patches' if level == 'sample' else 'whole samples'}; expected {pools}"
            )
        tasks = [labels.task(name, level) for name in config.tasks]
    if level == "sample":
        return tasks
    with_none = {"class": True, "drop": False}.get(config.uncovered)
    return [
        t.with_none() if t.kind == "classes" and (t.width == 1 if with_none is None else with_none) else t
        for t in tasks
    ]


def _rows(store: Store, space: str, config: ProbeConfig, level: str, pooled: bool) -> np.ndarray:
    tokens: str | Sequence[str] | None = config.tokens
    if pooled:
        tokens = None
    elif config.pool in ("cls", "last"):
        tokens = config.pool
    elif tokens is None:
        tokens = "patch" if level == "cell" else _DEFAULT_TOKENS
    chosen = RowFilter.parse(tokens, None, (0.8, 0.1, 0.1))
    found = select_rows(store.view, space, chosen)
    return np.arange(len(store.rows[space])) if found is None else found


def _folds(samples: np.ndarray, config: ProbeConfig) -> np.ndarray:
    """int64 `[I]`: TEST by the store's own hash (the default share is its splits val and test), else a fold
    by another, so that which fold a sample is in says nothing about how it was trained on."""
    held = split_of(samples, (1 - config.test, 0.0, config.test)) == 2
    fold = (hashed(samples, _FOLD) % np.uint64(config.folds)).astype(np.int64)
    return np.where(held, TEST, fold)


def _cohorts(
    tasks: Sequence[Task], found: _Items, by_token: bool, config: ProbeConfig, notes: list[str]
) -> list[Cohort]:
    groups: dict[bytes, list[tuple[Task, np.ndarray]]] = {}
    masks: dict[bytes, np.ndarray] = {}
    for task in tasks:
        usable = _usable(task, found.values[task.name], found, config, notes)
        if usable is not None:
            mask = labelled(*usable)
            key = np.packbits(mask).tobytes()
            masks[key] = mask
            groups.setdefault(key, []).append(usable)
    made = []
    for key, group in groups.items():
        items = np.flatnonzero(masks[key])
        fold, samples = found.fold[items], found.samples[items]
        train = fold != TEST
        known: list[Known] = []
        for task, values in group:
            own = values[items]
            known.append(Known(task, own, task.name))
            if config.control != "none":
                by = config.control == "type" or (config.control == "auto" and by_token)
                types = types_of(task, own, samples, found.tokens[items], by)
                for c in range(config.controls):
                    every = np.ones(len(items), bool)
                    random = control_values(task, own, every, train, types, config.seed * 1000 + c)
                    known.append(Known(task, random, task.name, c))
        kept = _first(hashed(items, _KEPT, config.seed), train, config.kept)
        measured = ~train & _whole(samples, ~train, config.test_rows, config.seed)
        if measured.sum() < (~train).sum():
            notes.append(f"measured on {measured.sum():,} of {(~train).sum():,} test items (test_rows)")
        made.append(Cohort(items, fold, samples, kept, measured, tuple(known)))
    return made


def _usable(
    task: Task, values: np.ndarray, found: _Items, config: ProbeConfig, notes: list[str]
) -> tuple[Task, np.ndarray] | None:
    """The task without labels that too few training samples have for every fold to see them; None where too
    little is left."""
    known = labelled(task, values)
    train, test = known & (found.fold != TEST), known & (found.fold == TEST)
    counts = {n: len(np.unique(found.samples[m])) for n, m in (("training", train), ("test", test))}
    if counts["training"] < 2 * config.folds or counts["test"] < 2:
        notes.append(
            f"{task.name}: left out, known of {counts['training']} training and {counts['test']} test samples"
        )
        return None
    if len(np.unique(found.fold[train])) < 2:
        notes.append(f"{task.name}: left out, its training samples are all in one of {config.folds} folds")
        return None
    if task.kind == "regression":
        if alike := [n for n, mask in (("training", train), ("test", test)) if np.ptp(values[mask]) == 0]:
            notes.append(f"{task.name}: left out, its numbers are all alike in {alike[0]} samples")
            return None
        return task, values
    columns = (values[:, None] == np.arange(task.width)) if task.kind == "classes" else values == 1

    def enough(mask: np.ndarray) -> bool:
        own = mask & train
        # What is in one fold alone, nothing is left of where that is held out.
        return len(np.unique(found.samples[own])) >= config.folds and len(np.unique(found.fold[own])) > 1

    there = [enough(columns[:, k]) for k in range(task.width)]
    if task.kind == "multilabel":
        there = [t and enough(known & ~columns[:, k]) for k, t in enumerate(there)]
    names = tuple(n for n, t in zip(task.names, there, strict=True) if t)
    if rare := [n for n, t in zip(task.names, there, strict=True) if not t]:
        notes.append(
            f"{task.name}: {', '.join(rare)} left out, in fewer than {config.folds} training samples or in "
            "one fold of them alone"
        )
    if len(names) < (2 if task.kind == "classes" else 1):
        notes.append(f"{task.name}: left out, {len(names)} labels remain")
        return None
    if task.kind == "multilabel":
        return replace(task, names=names), values[:, there]
    new = np.full(task.width + 1, -1)  # the last for what is unknown
    new[:-1][there] = np.arange(len(names))
    return replace(task, names=names), new[values]


def _first(draw: np.ndarray, among: np.ndarray, most: int) -> np.ndarray:
    """bool `[n]`: the `most` of `among` with the smallest draws."""
    out = np.zeros(len(draw), bool)
    own = np.flatnonzero(among)
    out[own[np.argsort(draw[own], kind="stable")[:most]]] = True
    return out


def _whole(samples: np.ndarray, among: np.ndarray, most: int, seed: int) -> np.ndarray:
    """bool `[n]`: of whole samples of `among` in a drawn order, as many as have `most` items together, or
    one."""
    own, counts = np.unique(samples[among], return_counts=True)
    order = np.argsort(hashed(own, _TEST, seed), kind="stable")
    number = max(1, int(np.searchsorted(np.cumsum(counts[order]), most, side="right")))
    return np.isin(samples, own[order[:number]])
