"""Training a tuned lens from a store, out of core: closed-form start, then descent of the KL.

A run is stopped at any step (Ctrl-C, SIGTERM) and goes on where it was when called again with the same `out`:
to the same weights, bit for bit, with the same torch, device and threads.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mmxai.errors import ArgumentError, NonFiniteError
from mmxai.methods.lens.tuned import checkpoint
from mmxai.methods.lens.tuned.config import TunedLensConfig
from mmxai.methods.lens.tuned.depth import depth_of, site_of
from mmxai.methods.lens.tuned.descent import Descent
from mmxai.methods.lens.tuned.layout import unembed_hash
from mmxai.methods.lens.tuned.loss import kl_and_gradients, kl_to_final
from mmxai.methods.lens.tuned.results import SiteTuning, TunedLensResult
from mmxai.methods.lens.tuned.start import Affine, least_squares
from mmxai.methods.lens.tuned.translators import TunedLens
from mmxai.models import names
from mmxai.models.unembedding import Unembedding
from mmxai.runs import stop_signals
from mmxai.store import Store
from mmxai.types import Batch

_FREE = ("device", "save_every")
"""What may change when a run goes on."""


def tune_lens(
    store: Store,
    unembedding: Unembedding,
    config: TunedLensConfig | None = None,
    *,
    out: str | Path | None = None,
    progress: bool | None = None,
    **options: Any,
) -> TunedLensResult:
    """Train translators for stored states of the stream; `options` are fields of `config`.

    The store holds the last block's `resid_post`, the target. out: folder of the checkpoint from which the
    same call goes on (None: nothing is kept). progress: None shows a bar on a terminal. What is held, beside
    what reading a store takes: a site some eight matrices D x D, and a few blocks of logits of `block_bytes`.

    Raises ArgumentError, UnknownSiteError, SelectionError, CheckpointError before the first step, and
    NonFiniteError where states or a KL are NaN or infinite.
    """
    return _Run(store, unembedding, _config(config, options), out).train(progress)


class _Run:
    def __init__(
        self, store: Store, unembedding: Unembedding, config: TunedLensConfig, out: str | Path | None
    ):
        self.store, self.unembedding, self.config = store, unembedding, config
        self.path = None if out is None else Path(out) / checkpoint.NAME
        self.sites, self.final = _sites(store, unembedding, config)
        self.blocks = depth_of(self.final)
        self.width = store[self.final].width
        self.device = torch.device(config.device or unembedding.device)
        if self.device.type != unembedding.device.type:
            raise ArgumentError(
                f"tuned lens: got device {self.device} and an unembedding on {unembedding.device}, expected "
                "one; move the model first"
            )
        self.rows = len(self._loader("train", 1))
        self.held_out = min(config.eval_rows, len(self._loader("val", 1)))
        if self.rows < config.batch:
            raise ArgumentError(
                f"tuned lens: got {self.rows:,} rows to train on (splits {config.splits}), expected a batch "
                f"of {config.batch:,} at least; harvest more, or lower batch"
            )
        self.step, self.before = 0, 0.0

    def train(self, progress: bool | None) -> TunedLensResult:
        self._started = time.monotonic()
        kept = None if self.path is None else checkpoint.read(self.path, self.settings)
        with closing(self._loader("train", self.config.batch, epochs=None, drop_last=True)) as feed:
            if kept is None:
                descents = self._begin()
                self._save(descents, feed)
            else:
                state, tensors = kept
                descents = [
                    Descent.restored(one, _under(f"{i}/", tensors), self.config, self.device)
                    for i, one in enumerate(state["sites"])
                ]
                feed.load_state_dict(state["feed"])
                self.step, self.before = state["step"], state["seconds"]
            self._descend(descents, feed, progress)
        return self._result(descents)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the weights."""
        said = {k: v for k, v in self.config.to_json().items() if k not in _FREE}
        snapshot = self.store.view.identity
        return {**said, "trained": self.sites, "snapshot": snapshot, "unembedding": self.unembedding.model}

    def _loader(self, split: str, batch: int, **options: Any) -> Any:
        c = self.config
        return self.store.batches(
            batch, sites=[*self.sites, self.final], shuffle=True, seed=c.seed, device=self.device,
            dtype=torch.float32, tokens=c.tokens, split=split, splits=c.splits, window=c.window, **options,
        )  # fmt: skip

    def _held(self) -> Iterator[Batch]:
        """The held-out rows, the same each time."""
        left = self.held_out
        with closing(self._loader("val", min(self.config.batch, left))) as loader:
            for batch in loader:
                yield Batch({s: x[:left] for s, x in batch.items()}, batch.rows[:left])
                left -= batch.num_rows
                if left <= 0:
                    return

    def _begin(self) -> list[Descent]:
        """The start of each site: of the plain lens and the closed forms, the one of least held-out KL."""
        zero = torch.zeros(self.width, self.width), torch.zeros(self.width)
        options: dict[str, list[Affine]] = {s: [zero] for s in self.sites}
        if self.config.penalties:
            with closing(self._loader("train", self.config.batch)) as loader:
                solved = least_squares(
                    loader, self.sites, self.final, self.width, self.config.penalties, self.rows
                )
            options = {s: [zero, *solved[s]] for s in self.sites}
        candidates = [Descent(s, o, self.config, self.device) for s in self.sites for o in options[s]]
        found, each = self._measure(candidates), 1 + len(self.config.penalties)
        descents = []
        for i in range(0, len(candidates), each):
            kl = found[i : i + each]
            best = min(range(each), key=kl.__getitem__)
            chosen = candidates[i + best]
            chosen.kl_plain, chosen.kl_start, chosen.kl = kl[0], kl[best], kl[best]
            chosen.kept = "least squares" if best else "plain"
            chosen.penalty = self.config.penalties[best - 1] if best else 0.0
            descents.append(chosen)
        return descents

    def _measure(self, descents: Sequence[Descent]) -> list[float]:
        """Mean held-out KL of each."""
        sums = [0.0] * len(descents)
        for batch in self._held():
            states = (d.translate(batch[d.site]) for d in descents)
            # One at a time: candidates of all sites together would hold many copies of a batch.
            for i, state in enumerate(states):
                (kl,) = kl_to_final(
                    self.unembedding, [state], batch[self.final], block_bytes=self.config.block_bytes
                )
                sums[i] += float(kl.double().sum())
        means = [s / self.held_out for s in sums]
        for descent, mean in zip(descents, means, strict=True):
            if not math.isfinite(mean):
                raise NonFiniteError(
                    f"tuned lens: got a held-out KL of {mean} for {descent.site} at step {self.step}, "
                    "expected a number; are stored states finite? else lower lr"
                )
        return means

    def _descend(self, descents: list[Descent], feed: Any, progress: bool | None) -> None:
        c = self.config
        bar = tqdm(
            total=c.steps, initial=self.step, unit=" steps", desc="tuned lens", dynamic_ncols=True,
            disable=not (sys.stderr.isatty() if progress is None else progress),
        )  # fmt: skip
        with bar, stop_signals(self.path is not None) as stopped:
            while self.step < c.steps and not all(d.done for d in descents):
                batch = next(feed)
                going = [d for d in descents if not d.done]
                states = [d.translate(batch[d.site]) for d in going]
                _, gradients = kl_and_gradients(
                    self.unembedding, states, batch[self.final], block_bytes=c.block_bytes
                )
                for descent, gradient in zip(going, gradients, strict=True):
                    descent.step(batch[descent.site], gradient, c.lr * (1 - self.step / c.steps))
                self.step += 1
                bar.update()
                if self.step % c.eval_every == 0 or self.step == c.steps:
                    for descent, kl in zip(going, self._measure(going), strict=True):
                        descent.look(kl, self.step)
                over = self.step == c.steps or all(d.done for d in descents)
                if stopped or over or self.step % c.save_every == 0:
                    self._save(descents, feed)
                if stopped and not over:
                    raise KeyboardInterrupt(f"tuned lens: stopped and saved at step {self.step:,}")

    def _save(self, descents: Sequence[Descent], feed: Any) -> None:
        if self.path is None:
            return
        tensors = {f"{i}/{k}": v for i, d in enumerate(descents) for k, v in d.tensors().items()}
        state = {
            "settings": self.settings, "step": self.step, "seconds": self._seconds(),
            "feed": feed.state_dict(), "sites": [d.state() for d in descents], "torch": torch.__version__,
        }  # fmt: skip
        checkpoint.save(self.path, state, tensors)

    def _seconds(self) -> float:
        return self.before + time.monotonic() - self._started

    def _result(self, descents: Sequence[Descent]) -> TunedLensResult:
        tuned = [SiteTuning(d.site, d.kl_plain, d.kl_start, d.kl, d.kept, d.penalty, d.at) for d in descents]
        plan = self.store.plan
        lens = TunedLens(
            self.unembedding.model,
            self.unembedding.tower,
            self.blocks,
            self.width,
            {depth_of(d.site): d.best[0].cpu() for d in descents},
            {depth_of(d.site): d.best[1].cpu() for d in descents},
            unembed_hash(self.unembedding.weight),
            {"store": self.store.path.name, "snapshot": self.store.view.identity, **plan.identity},
        )
        return TunedLensResult(
            tuned, self.rows, self.held_out, self.step, self._seconds(), self.config.to_json(), lens
        )


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _sites(store: Store, unembedding: Unembedding, config: TunedLensConfig) -> tuple[list[str], str]:
    """Sites to train, one a depth, and the last state."""
    tower = unembedding.tower
    stream = {
        s: depth_of(s, tower)
        for s in store
        if s.startswith(f"{tower}.") and s.endswith((".resid_pre", ".resid_post"))
    }
    last = max(stream.values(), default=0)
    final = site_of(last, tower)
    if final not in stream or store[final].width != unembedding.width:
        raise ArgumentError(
            f"tuned lens: got a store of {list(store)[:8]} and an unembedding of {unembedding.width}, "
            f"expected the {tower} stream of that width with the last block's resid_post"
        )
    if (told := unembedding.blocks) is not None and told != last:
        raise ArgumentError(
            f"tuned lens: got a store whose last state is {final}, expected {site_of(told, tower)}, what the "
            f"last of {told} blocks leaves; harvest it too"
        )
    chosen = names.resolve_stored(config.sites, store.sites) if config.sites else list(stream)
    depths: dict[int, str] = {}
    for site in chosen:
        depth = depth_of(site, tower)
        if depth != last:
            depths.setdefault(depth, site)
    if not depths:
        raise ArgumentError(
            f"tuned lens: got sites {list(config.sites)}, which are {chosen}, expected states before {final}"
        )
    return [depths[d] for d in sorted(depths)], final


def _config(config: TunedLensConfig | None, options: dict[str, Any]) -> TunedLensConfig:
    unknown = sorted(set(options) - set(TunedLensConfig.__dataclass_fields__))
    if unknown:
        known = sorted(TunedLensConfig.__dataclass_fields__)
        raise ArgumentError(f"tune_lens: got options {unknown}, expected some of {known}")
    return replace(config or TunedLensConfig(), **options)
