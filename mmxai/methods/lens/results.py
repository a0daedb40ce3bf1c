"""What the lens saw: of every state and row the foremost tokens, and what became of the targets."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.lens.curves import Curve
from mmxai.methods.lens.states import STREAM, parts
from mmxai.results import Result, axes, lines_of, number
from mmxai.types import Rows

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

_VERSION = 1
_TENSORS = (
    "rows", "ids", "logprobs", "entropy", "kl", "best", "targets", "target_logprobs", "target_ranks",
)  # fmt: skip
_SHOWN = 12


@dataclass(repr=False)
class LensResult(Result):
    """Of S states (sites, or single heads) and N rows of one row space.

    rows: int32 `[N, 8]`, see `mmxai.types.ROW_COLUMNS`. ids int32, logprobs float32 `[S, N, k]`: the foremost
    tokens (or texts of a bank), best first. entropy float32 `[S, N]`, nats. kl `[S, N]`: KL(final || state),
    nats; best int32 `[N]`: what the last block's output says; both None without it. targets int64 `[N, T]`
    (-1: none), target_logprobs float32, target_ranks int32 `[S, N, T]` (0: it comes first).
    curves: means over *all* rows that were looked at, `seen`, of which the first N are kept. tokens: names of
    all ids here. samples: number -> what is known of it (text, size and tiles of its pictures).
    """

    model: str
    tower: str
    states: list[str]
    rows: torch.Tensor
    ids: torch.Tensor
    logprobs: torch.Tensor
    entropy: torch.Tensor
    kl: torch.Tensor | None
    best: torch.Tensor | None
    target_names: list[str]
    targets: torch.Tensor
    target_logprobs: torch.Tensor
    target_ranks: torch.Tensor
    curves: list[Curve]
    seen: int
    tokens: dict[int, str]
    samples: dict[int, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def table(self) -> Rows:
        return Rows(self.rows)

    @property
    def k(self) -> int:
        return self.ids.shape[2]

    def name(self, token: int) -> str:
        return self.tokens.get(int(token), f"#{int(token)}")

    def stream(self) -> list[int]:
        """Indices of the states that are the residual stream, each point of it once, in order."""
        return stream_of(self.states)

    def of_sample(self, sample: int) -> np.ndarray:
        """Indices of a sample's rows, int64, by position."""
        found = np.flatnonzero(self.table.sample.numpy() == sample)
        if not len(found):
            known = np.unique(self.table.sample.numpy())[:8].tolist()
            raise ArgumentError(f"lens: got sample {sample}, expected one of those looked at: {known} ...")
        return found[np.argsort(self.table.position.numpy()[found], kind="stable")]

    def curve(self, figure: str, type: str = "all") -> Curve:
        for curve in self.curves:
            if (curve.figure, curve.type) == (figure, type):
                return curve
        known = sorted({f"{c.figure} ({c.type})" for c in self.curves})
        raise ArgumentError(f"lens: got {figure!r} of {type!r}, expected one of {', '.join(known)}")

    def first_final(self, type: str | None = None) -> np.ndarray:
        """int64 `[N]`: the first of `stream()` from which on all say what the last block's output says;
        as many as there are where not even the last does. type: of rows of a token type alone."""
        if self.best is None:
            raise ArgumentError(
                "lens: got no final state, expected the last block's output among what is read"
            )
        first = settled_at(self.ids[self.stream(), :, 0].numpy(), self.best.numpy())
        if type is None:
            return first
        from mmxai.types import TOKEN_CODES

        return first[self.table.token_type.numpy() == TOKEN_CODES[type]]

    def summary(self) -> str:
        head = f"{self.model}, {self.tower}: {len(self.states)} states of {self.seen:,} rows"
        if len(self.rows) < self.seen:
            head += f", the first {len(self.rows):,} kept"
        figures = list(dict.fromkeys(c.figure for c in self.curves))
        shown = [f for f in figures if not f.startswith("log10")][:5]
        lines = [
            (state, *(number(float(self.curve(f).mean[i])) for f in shown))
            for i, state in enumerate(self.states)
        ]
        if len(lines) > 2 * _SHOWN:
            lines = [*lines[:_SHOWN], ("...", *("" for _ in shown)), *lines[-_SHOWN:]]
        return "\n".join([head, "", lines_of(("mean over rows", *shown), lines), *self.notes])

    def to_pandas(self) -> pandas.DataFrame:
        """A row a state and row, in that order."""
        import pandas

        count, rows = len(self.states), len(self.rows)
        frame = pandas.concat([self.table.to_pandas()] * count, ignore_index=True)
        frame.insert(0, "state", np.repeat(self.states, rows))
        frame["top"] = [self.name(i) for i in self.ids[..., 0].flatten().tolist()]
        frame["probability"] = self.logprobs[..., 0].exp().flatten().numpy()
        frame["entropy"] = self.entropy.flatten().numpy()
        if self.kl is not None:
            frame["kl"] = self.kl.flatten().numpy()
        for t, name in enumerate(self.target_names):
            frame[f"{name} log-probability"] = self.target_logprobs[..., t].flatten().numpy()
            frame[f"{name} rank"] = self.target_ranks[..., t].flatten().numpy()
        return frame

    def plot(self, ax: Axes | None = None, sample: int | None = None) -> Axes:
        """The residual stream by positions of a sample: top tokens, coloured by their probability."""
        ax = axes(ax)
        sample = int(self.table.sample[0]) if sample is None else sample
        at, states = self.of_sample(sample), self.stream() or list(range(len(self.states)))
        probability = self.logprobs[states][:, at, 0].exp().numpy()
        ax.imshow(probability, vmin=0, vmax=1, aspect="auto", cmap="viridis", origin="lower")
        ax.set_yticks(range(len(states)), [self.states[s] for s in states])
        given = self.table.token_id[torch.from_numpy(at)].tolist()
        ax.set_xticks(range(len(at)), [self.name(i) if i >= 0 else "" for i in given], rotation=60)
        for (i, j), value in np.ndenumerate(probability):
            colour = "white" if value < 0.6 else "black"
            text = self.name(int(self.ids[states[i], at[j], 0]))
            ax.text(j, i, text, ha="center", va="center", color=colour, fontsize=7)
        return ax

    def to_json(self) -> dict[str, Any]:
        """All but what `save` keeps as tensors."""
        made = super().to_json()
        for name in _TENSORS:
            del made[name]
        return made | {"version": _VERSION}

    def save(self, path: str | Path) -> Path:
        """`to_json` to the file `path` (`.json`); tensors beside it, `.safetensors`."""
        from safetensors.torch import save_file

        path = super().save(path)
        kept = {n: t.contiguous() for n in _TENSORS if (t := getattr(self, n)) is not None}
        save_file(kept, path.with_suffix(".safetensors"))
        return path


def load_lens(path: str | Path) -> LensResult:
    """What `LensResult.save` wrote. Raises ArgumentError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise ArgumentError(f"{path}: no such file, expected the .json that `LensResult.save` wrote")
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        if said.pop("version") != _VERSION:
            raise ArgumentError(f"{path}: is of another version, expected {_VERSION}")
        tensors = load_file(path.with_suffix(".safetensors"))
        said["tokens"] = {int(i): name for i, name in said["tokens"].items()}
        said["samples"] = {int(i): known for i, known in said["samples"].items()}
        said["curves"] = [_curve(c) for c in said["curves"]]
        arrays: dict[str, Any] = {name: tensors.get(name) for name in _TENSORS}
        return LensResult(**said, **arrays)
    except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
        raise ArgumentError(
            f"{path}: is damaged ({error!r}), expected what `LensResult.save` wrote"
        ) from error


def _curve(said: dict[str, Any]) -> Curve:
    arrays = {f.name: said[f.name] for f in fields(Curve)}
    for name in ("mean", "low", "high"):
        arrays[name] = np.array([np.nan if v is None else v for v in said[name]])
    return Curve(**arrays)


def settled_at(said: np.ndarray, final: np.ndarray) -> np.ndarray:
    """Of what L states say `[L, N]` the first from which on all say `final` `[N]`; L where none does."""
    settled = np.logical_and.accumulate((said == final)[::-1], 0)
    return len(said) - settled.sum(0)


def stream_of(states: list[str]) -> list[int]:
    """Of names of states those of the residual stream, without a `resid_pre` that is the `resid_post` of the
    block before."""
    found = []
    for i, name in enumerate(states):
        tower, block, kind = parts(name)
        if kind not in STREAM or block is None:
            continue
        if kind == "resid_pre" and f"{tower}.{block - 1}.resid_post" in states:
            continue
        found.append(i)
    return found
