"""Causal tracing: every position and layer of the residual stream restored, against one forward a cell.

A GPT-2 of the small one's shape with random weights; 16 prompts of 16 tokens whose corrupted twins differ
from position 1 on; the logit difference of two tokens behind each prompt. Ours is the whole study, clean and
corrupted runs included. The others do the cells of some layers, and their time is scaled to all: each of
their cells is a forward of the same size. All answers are compared, cell by cell and prompt by prompt.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from mmxai.bench.figures import Figure, Timing, UnequalWorkError, interleave, ratio, seconds_text
from mmxai.bench.floors import multiply_rate, operations_floor
from mmxai.bench.options import Options
from mmxai.bench.peers import running
from mmxai.methods.trace import metrics
from mmxai.methods.trace.results import TraceResult
from mmxai.methods.trace.studies import Study, study
from mmxai.methods.trace.types import Cell
from mmxai.models import Model, load_model

TESTS = (
    "tests/models/test_resume.py",
    "tests/methods/trace/test_engine.py",
    "tests/bench/test_trace.py",
)
GPU = False
TARGETS = {
    "sweep_vs_cellwise": ">= 2.7",
    "sweep_vs_transformer_lens": ">= 4",
    "sweep_values_apart": "<= 1e-5",
}
REPEATS = 3


@dataclass(frozen=True)
class Work:
    """blocks x positions cells of `prompts` prompts; `layers`: those whose cells the others do."""

    blocks: int
    width: int
    heads: int
    vocabulary: int
    prompts: int
    positions: int
    layers: tuple[int, ...]

    @property
    def cells(self) -> int:
        return self.blocks * self.positions

    @property
    def scale(self) -> float:
        return self.blocks / len(self.layers)

    def operations(self, row_blocks: float, heads: float) -> float:
        """Of products: of rows through blocks, and of rows through the head."""
        return 24 * self.width**2 * row_blocks + 2 * self.width * self.vocabulary * heads

    def __str__(self) -> str:
        return f"{self.cells} cells, {self.prompts} prompts of {self.positions} tokens, {self.blocks} blocks"


FULL = Work(12, 768, 12, 50_257, 16, 16, (0, 4, 8))
QUICK = Work(3, 32, 4, 101, 3, 6, (0, 2))


def run(options: Options) -> list[Figure]:
    work = QUICK if options.quick else FULL
    print(f"trace: {work}", file=sys.stderr, flush=True)
    model, tokens = made(work)
    found: dict[str, TraceResult] = {}

    def ours() -> None:
        found["ours"] = sweep(model, tokens).run()

    def cellwise() -> None:
        found["cellwise"] = sweep(model, tokens, cells_of(work)).run("cellwise")

    works: dict[str, Callable[[], object]] = {"ours": ours, "cellwise": cellwise}
    job = {
        "config": {"n_layer": work.blocks, "n_embd": work.width, "n_head": work.heads,
                   "vocab_size": work.vocabulary, "n_positions": 1024},
        "tokens": {name: x.tolist() for name, x in tokens.items()},
        "layers": list(work.layers), "threads": torch.get_num_threads(),
    }  # fmt: skip
    with running(options, "trace", job) as rivals:
        works |= {peer.key: partial(rival.run, "patch") for peer, rival in rivals.items()}
        timings = interleave(works, options.repeats(REPEATS))
        answers = {peer: np.array(json.loads(rival.answer()["values"])) for peer, rival in rivals.items()}
    chosen = [i for i, cell in enumerate(found["ours"].cells) if cell.block in work.layers]
    values = found["ours"].value[chosen]
    apart = {"one forward a cell": float(np.abs(values - found["cellwise"].value).max())}
    apart |= {peer.name: float(np.abs(values - theirs).max()) for peer, theirs in answers.items()}
    if not max(apart.values()) <= 1e-3:
        raise UnequalWorkError(f"trace: our values and others' are apart by {apart}")
    figures = _figures(work, timings, apart)
    for peer in rivals:
        text = f"{peer.does}, {_scaled(work, timings[peer.key])}; ours {timings['ours']}, {work}"
        value = work.scale * ratio(timings[peer.key], timings["ours"])
        figures.append(
            _figure(
                f"sweep_vs_{peer.key.removesuffix('_trace')}",
                value,
                text,
                f"one forward a cell {_cellwise(work, timings)}",
            )
        )
    return figures


def made(work: Work) -> tuple[Model, dict[str, torch.Tensor]]:
    """The model, and int64 tokens: "clean" and "corrupted" `[prompts, positions]`, which share the first,
    "answers" and "foils" `[prompts]`."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=work.blocks, n_embd=work.width, n_head=work.heads, vocab_size=work.vocabulary,
        n_positions=1024, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = load_model(GPT2LMHeadModel(config).eval())
    generator = torch.Generator().manual_seed(1)
    shape = (work.prompts, work.positions)
    clean, corrupted = (torch.randint(work.vocabulary, shape, generator=generator) for _ in range(2))
    corrupted[:, 0] = clean[:, 0]
    corrupted[:, 1] = (clean[:, 1] + 1) % work.vocabulary
    answers, foils = (torch.randint(work.vocabulary, shape[:1], generator=generator) for _ in range(2))
    return model, {"clean": clean, "corrupted": corrupted, "answers": answers, "foils": foils}


def sweep(model: Model, tokens: dict[str, torch.Tensor], cells: list[Cell] | None = None) -> Study:
    metric = metrics.logit_difference(tokens["answers"].tolist(), tokens["foils"].tolist())
    return study(
        model, tokens["clean"], tokens["corrupted"], metric=metric, kinds=("resid_pre",), cells=cells
    )


def cells_of(work: Work) -> list[Cell]:
    """The cells that the others do: every position of some layers."""
    return [Cell("resid_pre", block, span) for block in work.layers for span in range(work.positions)]


def _figures(work: Work, timings: dict[str, Timing], apart: dict[str, float]) -> list[Figure]:
    rate = multiply_rate()
    # Resuming at a cell's layer, with the rows before its position reused; the cells of position 0 put in
    # what is there already.
    layers = sum(work.blocks - b for b in range(work.blocks))
    row_blocks = work.prompts * layers * sum(work.positions - p for p in range(1, work.positions))
    heads = work.prompts * (work.cells - work.blocks)
    least = work.operations(row_blocks, heads)
    whole = work.operations(
        work.prompts * work.cells * work.positions * work.blocks, work.prompts * work.cells
    )
    floor = operations_floor(least, rate)
    told = ", ".join(f"{name} {value:.2g}" for name, value in apart.items())
    return [
        _figure(
            "sweep_vs_cellwise",
            work.scale * ratio(timings["cellwise"], timings["ours"]),
            f"{_cellwise(work, timings)}, the last position alone read out; ours {timings['ours']}, {work}",
            f"{floor}; one forward a cell is {whole / least:.2f} times the operations",
        ),
        _figure(
            "sweep_cells_per_second",
            work.cells / timings["ours"].median,
            f"ours {timings['ours']}, {work}",
            floor,
        ),
        _figure("sweep_values_apart", max(apart.values()), f"largest |difference| of logits: {told}", "0"),
    ]


def _cellwise(work: Work, timings: dict[str, Timing]) -> str:
    return _scaled(work, timings["cellwise"])


def _scaled(work: Work, timing: Timing) -> str:
    return (
        f"{len(work.layers)} of {work.blocks} layers in {timing}, scaled to "
        f"{seconds_text(timing.median * work.scale)}"
    )


def _figure(name: str, value: float, detail: str, floor: str) -> Figure:
    return Figure(name, float(value), TARGETS.get(name), detail, floor)
