"""Corruptions of texts: what is taken from a prompt so that its answer is lost.

Noise of 3 standard deviations on the subject's embeddings (Meng et al. 2022, arXiv:2202.05262), tokens
replaced by others like them, which keeps activations in distribution (Zhang & Nanda 2024, arXiv:2309.16042),
and the counterfactual prompt. Each is a `mmxai.methods.trace.types.Corruption`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mmxai.capture.hooks import Edit
from mmxai.errors import ArgumentError
from mmxai.methods.trace.inputs import repeated, some
from mmxai.methods.trace.types import Corrupted, Span
from mmxai.models.inputs import Inputs
from mmxai.models.model import Model
from mmxai.types import ROW_COLUMNS, TOKEN_CODES

_TYPE, _TOKEN = ROW_COLUMNS.index("token_type"), ROW_COLUMNS.index("token_id")
_SEED = 2**31


@dataclass
class Counterfactual:
    """Other inputs of the same lengths, sample for sample: another subject, another picture."""

    inputs: Inputs
    what: str = "counterfactual"
    draws: int = field(default=1, init=False)

    def __call__(self, model: Model, clean: Inputs, samples: Sequence[int]) -> Corrupted:
        other = some(self.inputs, samples)
        for space, table in clean.rows.items():
            # Tables of one row a sample are made where they are needed.
            got = other.rows.get(space)
            if got is None and not space.endswith(".pooled"):
                raise ArgumentError(
                    f"counterfactual: got no {space} rows, expected what the clean inputs have"
                )
            if got is None:
                continue
            if got.shape != table.shape or not torch.equal(got[..., _TYPE] < 0, table[..., _TYPE] < 0):
                raise ArgumentError(
                    f"counterfactual: got {space} rows {tuple(got.shape[:2])}, expected "
                    f"{tuple(table.shape[:2])} as the clean inputs have: a prompt of as many tokens, a "
                    "picture of an equal grid"
                )
            pads = [(t[..., _TYPE] == TOKEN_CODES["pad"]).sum(1).tolist() for t in (got, table)]
            if pads[0] != pads[1]:
                lengths = [[t.shape[1] - p for p in pad] for t, pad in zip((got, table), pads, strict=True)]
                raise ArgumentError(
                    f"counterfactual: got {space} of {lengths[0]} tokens, expected {lengths[1]}, as many as "
                    "each clean prompt has"
                )
        return Corrupted(other)


@dataclass
class Noise:
    """Gaussian noise on the embeddings of a span.

    span: of the text's rows (the subject). sigma: its standard deviation, in standard deviations of those
    embeddings (all of the study's samples, all columns as one). shared: one draw for all samples, row by
    row of the span; else each sample has its own. site: where it is added; of any tower.
    """

    span: Span
    sigma: float = 3.0
    draws: int = 10
    shared: bool = False
    seed: int = 0
    site: str = ""
    scale: float | None = None

    @property
    def what(self) -> str:
        return f"Gaussian noise at {self.sigma:g} sigma on {self.span.name}, {self.draws} draws"

    def fit(self, model: Model, clean: Inputs) -> Noise:
        """With `scale`, the standard deviation of the span's embeddings, measured on these samples."""
        if self.scale is None:
            site = self.site or f"{self.span.space}.embed"
            x = model.run(clean, capture=[site], stop=True).acts[site]
            rows = x[self.span.mask.to(x.device)].float()
            if len(rows) < 1:
                raise ArgumentError(f"noise: span {self.span.name!r} has no row, expected one at least")
            self.site, self.scale = site, float(rows.std())
        return self

    def __call__(self, model: Model, clean: Inputs, samples: Sequence[int]) -> Corrupted:
        if self.scale is None:
            self.fit(model, clean)
        mask = self.span.mask[torch.as_tensor(list(samples))]
        width = model.width_of(self.site)
        drawn = torch.zeros(self.draws, *mask.shape, width)
        for draw in range(self.draws):
            for i, sample in enumerate(samples):
                number = (self.seed, draw) if self.shared else (self.seed, draw, int(sample))
                generator = torch.Generator().manual_seed(_mixed(number))
                rows = int(mask[i].sum())
                drawn[draw, i, mask[i]] = torch.randn(rows, width, generator=generator)
        noise = (drawn * (self.sigma * (self.scale or 0.0))).flatten(0, 1)
        return Corrupted(repeated(clean, self.draws), {self.site: _added(noise)}, self.draws)


@dataclass
class Replaced:
    """The span's tokens replaced by tokens drawn from a list (other subjects of the same kind), as many.

    tokens: candidates, each a run of token ids; of each sample's span, those of its own length are drawn
    from, its own left out.
    """

    span: Span
    tokens: Sequence[Sequence[int]]
    draws: int = 1
    seed: int = 0

    @property
    def what(self) -> str:
        return f"{self.span.name} replaced by another of {len(self.tokens)}, {self.draws} draws"

    def __call__(self, model: Model, clean: Inputs, samples: Sequence[int]) -> Corrupted:
        mask = self.span.mask[torch.as_tensor(list(samples))]
        out = repeated(clean, self.draws)
        ids = out.tensors["input_ids"].clone()
        rows = {k: v.clone() for k, v in out.rows.items()}
        for draw in range(self.draws):
            for i, sample in enumerate(samples):
                at = draw * len(samples) + i
                own = ids[at, mask[i].to(ids.device)].tolist()
                fits = [list(t) for t in self.tokens if len(t) == len(own) and list(t) != own]
                if not fits:
                    raise ArgumentError(
                        f"replace: sample {sample} has {len(own)} tokens {own} in {self.span.name!r}, and no "
                        "other of the candidates has as many; give more candidates"
                    )
                generator = torch.Generator().manual_seed(_mixed((self.seed, draw, int(sample))))
                new = fits[int(torch.randint(len(fits), (1,), generator=generator))]
                ids[at, mask[i].to(ids.device)] = torch.tensor(new, device=ids.device)
                rows["text"][at, mask[i], _TOKEN] = torch.tensor(new, dtype=torch.int32)
        return Corrupted(Inputs({**out.tensors, "input_ids": ids}, rows), draws=self.draws)


def corruption_of(model: Model, clean: Inputs, given: Any) -> Any:
    """A `Corruption` as it is; anything else that `model.prepare` takes as the counterfactual."""
    if callable(given) and hasattr(given, "draws"):
        fit = getattr(given, "fit", None)
        return given if fit is None else fit(model, clean)
    other = model.prepare(given)
    if other.batch_size != clean.batch_size:
        raise ArgumentError(
            f"counterfactual: got {other.batch_size} samples, expected {clean.batch_size}, one a clean sample"
        )
    return Counterfactual(other)


def over_copies(edits: Mapping[str, Edit], samples: int, rows: dict[str, int]) -> dict[str, Edit]:
    """Edits of `[samples, T, D]` for batches of any number of copies of them, whose sequences may go on
    behind row T. rows: site -> T."""

    def over(edit: Edit, length: int) -> Edit:
        def edited(x: torch.Tensor) -> torch.Tensor:
            parts = []
            for part in x.split(samples):
                parts.append(torch.cat([edit(part[:, :length]), part[:, length:]], 1))
            return torch.cat(parts)

        return edited

    return {site: over(edit, rows[site]) for site, edit in edits.items()}


def _added(noise: torch.Tensor) -> Edit:
    def edit(x: torch.Tensor) -> torch.Tensor:
        return (x.float() + noise.to(x.device)).to(x.dtype)

    return edit


def _mixed(numbers: Sequence[int]) -> int:
    """One seed of several numbers, not the sum, or neighbours would share draws."""
    value = 0x9E3779B9
    for n in numbers:
        value = ((value ^ (n + 1)) * 0x2545F4914F6CDD1D + 0x9E3779B97F4A7C15) % 2**61
    return value % _SEED
