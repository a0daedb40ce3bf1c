"""Where the shapes LLaVA keeps the colour that it is asked for.

Pairs of pictures differ in one object's colour alone: what of the answer comes back where states of the run
on the one are put into the run on the other?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mmxai
from benchmarks.study.sites import Size
from mmxai.methods.trace import spans
from mmxai.methods.trace.groups import BACKGROUND, OBJECT, RING, patch_groups
from mmxai.methods.trace.metrics import TokenMetric, logit_difference
from mmxai.methods.trace.results import TraceResult
from mmxai.methods.trace.studies import trace
from mmxai.methods.trace.types import ATTENTION, Cell, Span
from mmxai.models import Model
from mmxai.models.feeds import samples_of
from mmxai.models.inputs import Inputs
from mmxai.shapes import ShapesWorld
from mmxai.shapes.pairs import unseen
from mmxai.shapes.questions import in_words, referent
from mmxai.shapes.score import interval
from mmxai.shapes.twins import Twin

Row = dict[str, Any]

LLAVA = "shapes-llava"
SEED, SHARE, DRAWS, WINDOW = 2031, 1 / 8, 4, 2
VISIBLE = 3 / 4
RANDOM, PICTURE, NOUN, REST, LAST, CLS = "random", "picture", "noun", "other words", "last", "class token"
STREAM, ADDED = "resid_pre", ("attn_out", "mlp_out")
WRITTEN = (OBJECT, NOUN, LAST)
"""Where what attention and MLPs add is restored; the residual stream is restored everywhere."""

CUT = (
    (NOUN, OBJECT), (REST, OBJECT), (REST, NOUN), (LAST, NOUN), (LAST, REST), (LAST, PICTURE), (LAST, OBJECT),
    (LAST, RANDOM),
)  # fmt: skip
"""Attention that is blocked: rows that may no longer read, and what."""


@dataclass(frozen=True)
class Pair:
    """Two pictures, and the shape that names the object whose colour differs."""

    twin: Twin
    shape: str

    @property
    def question(self) -> str:
        return f"what colour is the {self.shape} ?"

    @property
    def colours(self) -> tuple[str, str]:
        """Of the clean picture, of the other."""
        return self.twin.change.before, str(self.twin.change.after)


@dataclass(frozen=True)
class Sides:
    """The question on the clean pictures and on the others; `tiles`: of each picture, the same on both."""

    clean: Inputs
    other: Inputs
    tiles: list[list[dict[str, Any]]]


def pairs(number: int, seed: int = SEED) -> list[Pair]:
    """Of pictures with several objects: its shape alone names the object, no other has either of its colours,
    and neither picture has an attribute pair that was never trained on."""
    world = ShapesWorld(1 << 30, seed=seed, split="test")
    found: list[Pair] = []
    for index in range(64 * number):
        twin = world.twin(index, "colour")
        scene, k = twin.original.scene, twin.change.object
        phrase = referent(scene, k)
        named = phrase is not None and in_words(phrase) == scene.objects[k].shape
        others = {thing.colour for i, thing in enumerate(scene.objects) if i != k}
        alone = bool(others) and not others & {twin.change.before, twin.change.after}
        odd = bool(unseen(twin.changed.scenes.things[0, : len(scene.objects)]).any())
        if named and alone and not odd and scene.objects[k].visible > VISIBLE:
            found.append(Pair(twin, scene.objects[k].shape))
        if len(found) == number:
            break
    return found


def traced(folder: Path, size: Size) -> list[Row]:
    """How the answers move, then a row a tower, kind and span: shares by block."""
    return study(mmxai.load_model(LLAVA), pairs(size.pictures // 8), size.pictures // 16)


def study(model: Model, asked: Sequence[Pair], most: int) -> list[Row]:
    """Asks every pair; traces the first `most` of those that are answered right on both pictures."""
    both = sides(model, asked)
    ids = torch.tensor([[_id(model, colour) for colour in pair.colours] for pair in asked])
    right = _answers(model, both.clean) == ids[:, 0], _answers(model, both.other) == ids[:, 1]
    kept = torch.nonzero(right[0] & right[1])[:most, 0].tolist()
    said = {"clean": right[0], "other": right[1], "both": right[0] & right[1]}
    rows: list[Row] = [
        {"what": "answered", "of": name, **interval(hits.numpy(), name, 1 / 8).to_json()}
        for name, hits in said.items()
    ]
    chosen = [asked[i] for i in kept]
    some = Sides(both.clean.take(kept), both.other.take(kept), [both.tiles[i] for i in kept])
    metric = logit_difference(*([_id(model, p.colours[side]) for p in chosen] for side in (0, 1)))
    return [*rows, *_restored(model, chosen, some, metric), *_cut(model, chosen, some, metric)]


def sides(model: Model, asked: Sequence[Pair]) -> Sides:
    made, tiles = [], []
    for item in ("original", "changed"):
        samples = [{"image": getattr(p.twin, item).pil, "text": p.question} for p in asked]
        encoded = [model.encode(sample) for sample in samples_of(samples)]
        made.append(model.collate(encoded))
        tiles.append([e.tiles for e in encoded])
    return Sides(made[0], made[1], tiles[0])


def spans_of(model: Model, asked: Sequence[Pair], some: Sides, tower: str) -> dict[str, list[Span]]:
    """Name -> its spans (of RANDOM several): patches of the object, of the ring around it, as many of the
    background; of the text the shape's word, the other words before the last row, the last row."""
    rows = some.clean.rows[tower]
    groups: dict[str, list[torch.Tensor]] = {name: [] for name in (OBJECT, RING, BACKGROUND)}
    for i, pair in enumerate(asked):
        where = pair.twin.original.masks[pair.twin.change.object]
        found = patch_groups(rows[i], some.tiles[i], where, SHARE)
        for name, masks in groups.items():
            masks.append(found[name])
    at = {name: Span(name, torch.stack(masks), tower) for name, masks in groups.items()}
    made = {name: [at[name]] for name in (OBJECT, RING)}
    made[RANDOM] = spans.random(at[OBJECT], at[BACKGROUND].mask, DRAWS)
    if tower == "vision":
        return {**made, CLS: [spans.of_type(some.clean, "cls", space=tower)]}
    made[PICTURE] = [spans.of_type(some.clean, "image")]
    noun = spans.find(some.clean, [[_id(model, p.shape)] for p in asked], NOUN)
    last = spans.last(some.clean)
    rest = spans.real(some.clean) & ~(made[PICTURE][0].mask | noun.mask | last.mask)
    return {**made, NOUN: [noun], REST: [spans.chosen(rest, REST)], LAST: [last]}


def shares(result: TraceResult, cells: Sequence[int], draws: int = 1000) -> tuple[float, float, float]:
    """The mean effect of some cells over the mean total, with its 95% bootstrap interval over pairs."""
    effect, total = result.effect[list(cells)].mean(0), result.total
    found = [effect[index].mean() / total[index].mean() for index in result.resamples(draws)]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(effect.mean() / total.mean()), float(low), float(high)


def _restored(model: Model, asked: Sequence[Pair], some: Sides, metric: TokenMetric) -> list[Row]:
    rows: list[Row] = []
    for tower in ("vision", "text"):
        named = spans_of(model, asked, some, tower)
        every = [span for several in named.values() for span in several]
        bound = model.towers[tower]
        blocks = range(bound.dims.blocks if bound.live is None else bound.live)
        first = {name: every.index(several[0]) for name, several in named.items()}
        # In the vision tower what a block leaves behind, for the last that is read has no next one.
        kinds = {("resid_post" if tower == "vision" else STREAM): tuple(named)}
        kinds |= {kind: WRITTEN for kind in ADDED if tower == "text"}
        cells = [
            Cell(kind, block, first[name] + draw)
            for kind, names in kinds.items()
            for name in names
            for draw in range(len(named[name]))
            for block in blocks
        ]
        result = trace(model, some.clean, some.other, metric=metric, spans=every, cells=cells)
        if tower == "vision":
            for what, values in (("clean", result.other), ("other", result.base)):
                rows.append({"what": "logits", "of": what, "pairs": len(values), **_mean(values)})
        rows += [
            {
                "what": "restored", "tower": tower, "kind": kind, "span": name, "rows": _size(named[name]),
                "blocks": _by_block(result, kind, named[name]),
            }
            for kind, names in kinds.items()
            for name in names
        ]  # fmt: skip
    return rows


def _cut(model: Model, asked: Sequence[Pair], some: Sides, metric: TokenMetric) -> list[Row]:
    named = spans_of(model, asked, some, "text")
    blocked = {
        (reader, read): [spans.attention(named[reader][0], keys) for keys in named[read]]
        for reader, read in CUT
    }
    every = [span for several in blocked.values() for span in several]
    rows: list[Row] = []
    for window in (WINDOW, model.towers["text"].dims.blocks):
        result = trace(
            model, some.clean, some.other, metric=metric, spans=every, kinds=(ATTENTION,), window=window,
            mode="patch",
        )  # fmt: skip
        rows += [
            {
                "what": "cut", "reader": reader, "read": read, "window": window,
                "blocks": _by_block(result, ATTENTION, several),
            }
            for (reader, read), several in blocked.items()
        ]  # fmt: skip
    return rows


def _size(several: Sequence[Span]) -> float:
    """Rows of a span, on the mean over pairs."""
    return float(torch.stack([span.mask.sum(1).float().mean() for span in several]).mean())


def _by_block(result: TraceResult, kind: str, several: Sequence[Span]) -> list[list[float]]:
    """Of each block in order: share, and its interval."""
    cells = [i for span in several for i in result.index(kind, span=span.name)]
    blocks = sorted({result.cells[i].block or 0 for i in cells})
    return [list(shares(result, [i for i in cells if result.cells[i].block == b])) for b in blocks]


def _mean(values: np.ndarray) -> dict[str, float]:
    draw = np.random.default_rng(0).integers(len(values), size=(1000, len(values)))
    low, high = np.quantile(values[draw].mean(1), [0.025, 0.975])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def _answers(model: Model, inputs: Inputs, chunk: int = 32) -> torch.Tensor:
    """The likeliest word behind each prompt, int64 `[B]`."""
    found = []
    for start in range(0, inputs.batch_size, chunk):
        part = inputs.take(range(start, min(inputs.batch_size, start + chunk)))
        found.append(model.run(part).out.logits[:, -1].argmax(-1).cpu())
    return torch.cat(found)


def _id(model: Model, word: str) -> int:
    texts = model.feeds.texts("text")
    assert texts is not None, "the shapes LLaVA comes with its tokenizer"
    (token,) = texts.tokenize(word)
    return int(token)
