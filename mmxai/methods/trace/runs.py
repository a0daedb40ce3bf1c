"""The runs a trace starts from: clean and corrupted, of some of a study's samples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.methods.trace.corruptions import over_copies
from mmxai.methods.trace.inputs import repeated, some
from mmxai.methods.trace.judge import Judge, OutputJudge, TokenJudge
from mmxai.methods.trace.keeping import Part
from mmxai.methods.trace.metrics import TokenMetric
from mmxai.methods.trace.types import Corrupted
from mmxai.models.inputs import Inputs

if TYPE_CHECKING:
    from mmxai.capture.hooks import Edit
    from mmxai.methods.trace.studies import Study


class Runs:
    """Samples of a study, run clean and corrupted; draw by draw where there are several.

    S = draws x samples values a cell; n sequences are run for them (twice as many where an answer and a foil
    are fed). base, other: float64 `[S]`. inputs, edits: of the base run, in which cells intervene. recording:
    of its blocks. differs: bool `[n, T]`, the rows at which the two runs can differ in any block.
    """

    def __init__(self, study: Study, samples: Sequence[int]):
        self.study, self.samples = study, list(samples)
        self.forwards = 0
        self.sites = sorted({s for c in study.cells for s in c.sites(study.tower)})
        study.values.measure(study.model, study.clean, study.chunks, self.sites)
        clean = some(study.clean, samples)
        corrupted = None if study.corruption is None else study.corruption(study.model, clean, samples)
        self.draws = 1 if corrupted is None else corrupted.draws
        self.count = self.draws * len(samples)
        self.prompt = np.tile(np.asarray(samples), self.draws)
        self.draw = np.repeat(np.arange(self.draws), len(samples))
        self.order = self.draw * study.clean.batch_size + self.prompt
        self._judges(clean)
        self._run(clean, corrupted)

    def _judges(self, clean: Inputs) -> None:
        study = self.study
        if not isinstance(study.metric, TokenMetric):
            self.single: Judge = OutputJudge(study.metric, clean.batch_size)
            self.judge: Judge = OutputJudge(study.metric, self.count)
            self.copies = 1
            self._extend = [lambda x: x, lambda x: x]
            return
        bound = study.metric.take(self.samples).bind(study.model, clean)
        if study.metric.score == "kl":
            self.forwards += 1
            bound = bound.with_reference(TokenJudge(bound).logits(study.model, bound.extend(clean)))
        several = bound.repeated(self.draws)
        self.single, self.judge, self.copies = TokenJudge(bound), TokenJudge(several), bound.copies
        self._extend = [bound.extend, several.extend]

    def _run(self, clean: Inputs, corrupted: Corrupted | None) -> None:
        study = self.study
        restore = study.mode == "restore"
        edits: dict[str, Edit] = {}
        if corrupted is not None and corrupted.edits:
            rows = {s: clean.rows[study.model.space_of(s)].shape[1] for s in corrupted.edits}
            edits = over_copies(corrupted.edits, self.count, rows)
        other = study.values.replace == "other" and corrupted is not None
        noisy = study.values.replace == "noise"
        first = f"{study.tower}.0.resid_pre"
        watched = [first] if first in study.model.sites() else []
        if restore and corrupted is not None:
            self.inputs, self.edits = self._extend[1](corrupted.inputs), edits
        else:
            self.inputs, self.edits = self._extend[1](repeated(clean, self.draws)), {}
        began = time.perf_counter()
        base, run, self.recording = self.judge.recorded(
            study.model, study.tower, self.inputs, self.edits, [*watched, *(self.sites if noisy else [])]
        )
        seconds = time.perf_counter() - began
        self.forwards += 1
        self.base = base.double().cpu().numpy()
        self.length = self._rows(self.inputs)
        self.width = len(base) * self.copies
        self.row_blocks = self.width * self.length * max(1, len(self.recording.blocks))
        head = self._share_of_the_end()
        self.seconds_per_row_block = seconds * (1 - head) / self.row_blocks
        self.seconds_to_finish = seconds * head / self.width
        self.other = np.full(self.count, np.nan)
        self.other_inputs: Inputs | None = None
        self._source: dict[str, torch.Tensor] = {}
        self._tile = 1
        beginning = run.acts.get(first)
        if noisy:
            self._source = {s: run.acts[s] for s in self.sites}
        ahead: torch.Tensor | None = None
        if other:
            if restore:
                # Clean samples run once, whatever the draws.
                self.other_inputs = self._extend[0](clean)
                found, run = self.single.plain(study.model, self.other_inputs, {}, [*self.sites, *watched])
                self.other = np.tile(found.double().cpu().numpy(), self.draws)
                self._tile = self.draws
            else:
                self.other_inputs = self._extend[1](corrupted.inputs)  # type: ignore[union-attr]
                found, run = self.judge.plain(study.model, self.other_inputs, edits, [*self.sites, *watched])
                self.other = found.double().cpu().numpy()
            self.forwards += 1
            self._source = {s: run.acts[s] for s in self.sites}
            ahead = run.acts.get(first)
        elif study.values.replace == "resample":
            partners = study.values.partners(self.samples, study.clean.batch_size)
            inputs = self._extend[1](repeated(some(study.clean, partners), self.draws))
            self._source = study.model.run(inputs, capture=self.sites).acts
            self.forwards += 1
        self.differs = self._differing(beginning, ahead, late=any(_block_of(s) for s in edits))

    def _share_of_the_end(self) -> float:
        """What part of a forward is behind the blocks: the head at the rows read, or whatever else."""
        if not isinstance(self.judge, TokenJudge) or self.judge.every(self.study.tower):
            return 0.5
        tower = self.recording.tower
        dims = tower.dims
        block = 2 * dims.model * (dims.q + dims.kv) + 3 * dims.model * dims.mlp
        head = self.judge.metric.rows.shape[1] * dims.model * getattr(tower.config, "vocab_size", 0)
        return head / (head + self.length * dims.blocks * block)

    def _rows(self, inputs: Inputs) -> int:
        return inputs.rows[self.study.tower].shape[1]

    def held(self) -> list[torch.Tensor]:
        """The other run's values, which stay while cells run."""
        return list(self._source.values())

    def kept(self, site: str) -> torch.Tensor:
        """The other run's values at a site, `[sequences, T, D]`, a sample run once whatever the draws."""
        return self._source[site]

    def part(self, value: np.ndarray) -> Part:
        """The cells' values, with what is known of the samples."""
        return Part(value, self.base, self.other, self.prompt, self.draw, self.order)

    def source(self, site: str) -> torch.Tensor:
        """What is put in at a site: `[n or 1, T or 1, D]`."""
        values = self.study.values
        if values.replace in ("other", "resample"):
            return self.tiled(self._source[site])
        return values.of(site, self._source.get(site), self.prompt.tolist(), self.copies)

    def tiled(self, x: torch.Tensor) -> torch.Tensor:
        """`[copies * samples, ...]` of a run of single draws, as `[copies * draws * samples, ...]`."""
        if self._tile == 1:
            return x
        parts = x.unflatten(0, (self.copies, -1)).unsqueeze(1)
        return parts.expand(-1, self._tile, *[-1] * (x.ndim)).flatten(0, 2)

    def mask(self, span: torch.Tensor) -> torch.Tensor:
        """A span's bool `[B, T]` for the sequences: `[n, T']`."""
        own = span[torch.as_tensor(self.samples)]
        more = self.length - own.shape[1]
        own = torch.nn.functional.pad(own, (0, more)) if more else own
        return own.repeat(self.draws * self.copies, 1)

    def _differing(self, base: torch.Tensor | None, other: torch.Tensor | None, late: bool) -> torch.Tensor:
        everywhere = torch.ones(self.width, self.length, dtype=torch.bool)
        if base is None or other is None or late or self.recording.reason:
            return everywhere
        # What enters the first block decides all that follows: up to the first row that differs all is equal.
        unlike = (base != self.tiled(other)).any(-1).cpu()
        starts = [
            self.recording.start(int(row.int().argmax())) if bool(row.any()) else self.length
            for row in unlike
        ]
        return torch.arange(self.length) >= torch.tensor(starts)[:, None]

    @staticmethod
    def bytes_of_a_sample(study: Study) -> int:
        """What is held of one sample while its cells run."""
        tower = study.model.towers.get(study.tower)
        rows = study.clean.rows[study.tower].shape[1] + 8
        size = torch.tensor([], dtype=study.model.dtype).element_size()
        sites = sum(study.model.width_of(s) for s in {s for c in study.cells for s in c.sites(study.tower)})
        states = 0
        if tower is not None:
            states = (tower.dims.blocks + 1) * tower.dims.model + 2 * tower.dims.blocks * tower.dims.kv
        return rows * size * 2 * study.draws * (states + sites)


def _block_of(site: str) -> bool:
    parts = site.split(".")
    return site.startswith("module:") or (len(parts) > 2 and parts[1].isdigit())
