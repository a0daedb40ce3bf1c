"""Labels of whole samples from a CSV file: `sample,label`, or a column a task."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmxai.errors import DataError
from mmxai.labels.keys import sample_numbers
from mmxai.labels.labels import Kind, Labels, Task, unknown

if TYPE_CHECKING:
    from mmxai.store.reader import Store
    from mmxai.store.samples import StoredSample

SAMPLE, SEPARATOR = "sample", "|"


def read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of a CSV file with a header in which there is `sample`."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        try:
            columns, rows = _read(path, csv.DictReader(file))
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path}: {error}, expected a CSV file in UTF-8") from error
    if not rows:
        raise DataError(f"{path}: got a header and no rows, expected a row a sample")
    return columns, rows


def _read(path: Path, reader: csv.DictReader[str]) -> tuple[list[str], list[dict[str, str]]]:
    columns = [c.strip() for c in reader.fieldnames or []]
    reader.fieldnames = columns
    if SAMPLE not in columns or len(set(columns)) < len(columns) or len(columns) < 2:
        raise DataError(
            f"{path}: got columns {columns}, expected a header with 'sample' and one column or more of "
            "labels, such as sample,label"
        )
    rows = []
    for row in reader:
        if None in row or None in row.values():
            raise DataError(f"{path}: line {reader.line_num} has another number of cells than the header")
        rows.append({k: v.strip() for k, v in row.items()})
    return columns, rows


class TableLabels(Labels):
    """A column a task. An empty cell: nothing is known.

    Columns of `regression` hold numbers; those of `multilabel` any number of labels, `|` between them or a
    row each; the others one class a sample.
    """

    def __init__(self, path: Path, store: Store, regression: Sequence[str], multilabel: Sequence[str]):
        columns, rows = read_csv(path)
        columns = [c for c in columns if c != SAMPLE]
        for option, named in (("regression", regression), ("multilabel", multilabel)):
            if missing := sorted(set(named) - set(columns)):
                raise DataError(f"{path}: got {option} columns {missing}, expected some of {columns}")
        numbers = sample_numbers(store, (r[SAMPLE] for r in rows), str(path))
        lost = len({r[SAMPLE] for r in rows}) - len(numbers)
        rows = [r for r in rows if r[SAMPLE] in numbers]
        self._values: dict[str, dict[int, Any]] = {}
        tasks = []
        for column in columns:
            kind: Kind = "classes"
            if column in regression or column in multilabel:
                kind = "regression" if column in regression else "multilabel"
            cells = [(numbers[r[SAMPLE]], r[column]) for r in rows if r[column]]
            task, values = _column(path, column, kind, cells)
            tasks.append(task)
            self._values[column] = values
        self.tasks = tuple(tasks)
        self.about = f"{path.name}: {len(numbers):,} samples"
        if lost:
            self.about += f" ({lost:,} more are not in the store)"

    def values(self, task: Task, samples: np.ndarray) -> np.ndarray:
        out, known = unknown(task, len(samples)), self._values[task.name]
        for i, sample in enumerate(samples.tolist()):
            if sample in known:
                out[i] = known[sample]
        return out

    def shares(
        self, places: Sequence[tuple[StoredSample, dict[str, Any]]]
    ) -> Iterator[dict[str, np.ndarray | None]]:
        return iter([{} for _ in places])


def _column(path: Path, name: str, kind: Kind, cells: list[tuple[int, str]]) -> tuple[Task, dict[int, Any]]:
    if kind == "regression":
        values: dict[int, Any] = {}
        for sample, cell in cells:
            try:
                number = float(cell)
            except ValueError:
                number = np.nan
            if not np.isfinite(number):
                raise DataError(f"{path}: got {cell!r} in column {name!r}, expected a finite number")
            if values.setdefault(sample, number) != number:
                raise DataError(f"{path}: got sample {sample} twice in {name!r}, expected one number each")
        return Task(name, kind, "sample", (name,)), values
    said: dict[int, set[str]] = {}
    for sample, cell in cells:
        parts = cell.split(SEPARATOR) if kind == "multilabel" else [cell]
        said.setdefault(sample, set()).update(label for part in parts if (label := part.strip()))
    names = tuple(sorted(set().union(*said.values())))
    if kind == "classes":
        twice = next((s for s, labels in said.items() if len(labels) > 1), None)
        if twice is not None:
            raise DataError(
                f"{path}: got sample {twice} with labels {sorted(said[twice])} in {name!r}, expected one a "
                f"sample; where it has several, say --multilabel {name}"
            )
    if len(names) < (2 if kind == "classes" else 1):
        raise DataError(f"{path}: got labels {list(names)} in {name!r}, expected at least two classes")
    index = {label: k for k, label in enumerate(names)}
    if kind == "classes":
        return Task(name, kind, "sample", names), {s: index[next(iter(v))] for s, v in said.items()}
    rows = {s: np.isin(np.array(names), sorted(v)).astype(np.int8) for s, v in said.items()}
    return Task(name, kind, "sample", names), rows
