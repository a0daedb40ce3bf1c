"""A study kept in a folder: values of its cells, clean and corrupted states, so that it resumes.

`study.json` says what was run, and another study is refused. `values-<k>.safetensors` has what the cells of
the k-th samples came to, NaN where they have not run. `clean.zarr` and `corrupted.zarr` are stores of the
states: of the run that cells intervene in the residual stream before and behind every block, of the other
the sites whose values are put in. A sample there is a sequence, its key `<prompt>.<which of its sequences>`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from mmxai.errors import PlanMismatchError, StoreError
from mmxai.methods.trace.metrics import TokenMetric
from mmxai.results import plain
from mmxai.store import create_store
from mmxai.types import ROW_COLUMNS, TOKEN_CODES, Rows

if TYPE_CHECKING:
    from mmxai.methods.trace.runs import Runs
    from mmxai.methods.trace.studies import Study
    from mmxai.models.inputs import Inputs
    from mmxai.models.metrics import Metric

_SAMPLE, _TYPE = ROW_COLUMNS.index("sample"), ROW_COLUMNS.index("token_type")
_EVERY = 20.0
"""Seconds between two writings of values."""
_APART = 1e-4


@dataclass
class Part:
    """Some samples' values `[cells, S]`, NaN where a cell has not run; the rest `[S]`. See `Runs`."""

    value: np.ndarray
    base: np.ndarray
    other: np.ndarray
    prompt: np.ndarray
    draw: np.ndarray
    order: np.ndarray

    @property
    def complete(self) -> bool:
        return not bool(np.isnan(self.value).any())


class Kept:
    """A study's folder. Raises PlanMismatchError where it has another study."""

    def __init__(self, folder: str | Path, study: Study):
        self.folder, self.study = Path(folder), study
        self.identity = identity_of(study)
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "study.json"
        if file.exists():
            there = json.loads(file.read_text())
            if wrong := sorted(k for k in {*there, *self.identity} if there.get(k) != self.identity.get(k)):
                raise PlanMismatchError(
                    f"{self.folder}: keeps another study; got other {', '.join(wrong)}, expected the same: "
                    "give another folder, or the same arguments"
                )
        else:
            _write(file, json.dumps(self.identity, indent=1).encode())
        self._written = time.monotonic()

    def load(self, number: int) -> Part | None:
        """The k-th samples' values as far as they are known."""
        file = self._file(number)
        return Part(**load_file(file)) if file.exists() else None

    def save(self, number: int, part: Part, *, now: bool = True) -> None:
        """Write the values, or with `now=False` only where the last writing is a while ago."""
        if not now and time.monotonic() - self._written < _EVERY:
            return
        staged = self._file(number).with_suffix(".tmp")
        save_file({k: np.ascontiguousarray(v) for k, v in vars(part).items()}, staged)
        staged.replace(self._file(number))
        self._written = time.monotonic()

    def check(self, part: Part, runs: Runs) -> None:
        """Raise StoreError unless the runs come to what they came to when the values were kept."""
        apart = float(np.nan_to_num(np.abs(part.base - runs.base)).max(initial=0))
        apart = max(apart, float(np.nan_to_num(np.abs(part.other - runs.other)).max(initial=0)))
        scale = max(1.0, float(np.abs(part.base).max(initial=0)))
        if apart > _APART * scale:
            raise StoreError(
                f"{self.folder}: got runs {apart:.2g} apart from those that were kept, expected the same to "
                f"{_APART * scale:.1g}; the model or the machine's arithmetic has changed: give "
                "another folder"
            )

    def states(self, runs: Runs) -> None:
        """Append the runs' states to the stores, unless they are there."""
        base, other = ("corrupted", "clean") if self.study.mode == "restore" else ("clean", "corrupted")
        tower, recording = self.study.tower, runs.recording
        if recording.reason is None:
            names = [f"{tower}.{b}.resid_pre" for b in range(len(recording.blocks))]
            names.append(f"{tower}.{len(recording.blocks) - 1}.resid_post")
            self._append(base, dict(zip(names, recording.states, strict=True)), runs.inputs, runs)
        if runs.other_inputs is not None and runs.sites:
            self._append(other, {s: runs.kept(s) for s in runs.sites}, runs.other_inputs, runs)

    def _append(self, name: str, acts: Mapping[str, torch.Tensor], inputs: Inputs, runs: Runs) -> None:
        table = inputs.rows[self.study.tower]
        dtype = str(next(iter(acts.values())).dtype).removeprefix("torch.")
        per = len(runs.samples)
        before = sum(len(c) for c in self.study.chunks if c[0] < runs.samples[0]) * (len(table) // per)
        with create_store(
            self.folder / f"{name}.zarr", {s: x.shape[-1] for s, x in acts.items()}, dtype=dtype,
            space=self.study.tower, append=True, rows_per_sample=table.shape[1],
            identity={"study": self.identity["inputs"], "model": self.identity["model"]},
        ) as writer:  # fmt: skip
            if writer.committed_samples > before:
                return
            real = table[..., _TYPE] != TOKEN_CODES["pad"]
            rows = table.clone()
            rows[..., _SAMPLE] = torch.arange(len(table), dtype=table.dtype)[:, None]
            keys = [f"{runs.samples[i % per]}.{i // per}" for i in range(len(table))]
            writer.write(keys, {s: x[real.to(x.device)] for s, x in acts.items()}, rows=Rows(rows[real]))

    def _file(self, number: int) -> Path:
        return self.folder / f"values-{number}.safetensors"


def identity_of(study: Study) -> dict[str, Any]:
    """JSON of all that decides a study's values."""
    tensors = {f"tensors.{k}": x for k, x in study.clean.tensors.items()}
    whole = list(range(study.clean.batch_size))
    if study.corruption is not None:
        corrupted = study.corruption(study.model, study.clean, whole)
        tensors |= {f"corrupted.{k}": x for k, x in corrupted.inputs.tensors.items()}
        for site, edit in corrupted.edits.items():
            shape = (*corrupted.inputs.rows[study.model.space_of(site)].shape[:2], study.model.width_of(site))
            tensors[f"edits.{site}"] = edit(torch.zeros(shape))
    spans = {f"span.{i}.{s.name}": s.mask for i, s in enumerate(study.spans)}
    spans |= {f"keys.{i}": s.keys for i, s in enumerate(study.spans) if s.keys is not None}
    values = study.values
    given = {f"means.{k}": x for k, x in (values.means or {}).items()}
    return {
        "model": study.model.identity,
        "inputs": _digest(tensors),
        "spans": _digest(spans),
        "cells": [plain(asdict(c)) for c in study.cells],
        "chunks": study.chunks,
        "mode": study.mode,
        "values": [values.replace, values.sigma, values.seed, _digest(given)],
        "metric": _metric(study.metric),
    }


def _metric(metric: TokenMetric | Metric) -> str:
    """What is measured, with tensors (a CLIP's texts) and numbers that it holds; of a function its name."""
    if isinstance(metric, TokenMetric):
        return repr(metric)
    held = getattr(metric, "__dict__", {})
    tensors = {k: x for k, x in held.items() if isinstance(x, torch.Tensor)}
    rest = {k: x for k, x in sorted(held.items()) if isinstance(x, str | int | float | tuple | list)}
    return f"{getattr(metric, '__qualname__', type(metric).__qualname__)} {_digest(tensors)} {rest}"


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    found = blake2b(digest_size=16)
    for name, x in sorted(tensors.items()):
        found.update(f"{name} {tuple(x.shape)} {x.dtype}".encode())
        found.update(x.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _write(file: Path, content: bytes) -> None:
    staged = file.with_suffix(".tmp")
    staged.write_bytes(content)
    staged.replace(file)
