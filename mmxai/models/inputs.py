"""Samples -> what a model's forward takes, and who each position is.

An adapter describes each of its towers by a `TowerInputs`; `encode` turns one sample into an `Encoded` (in
a worker thread), `collate` a list of them into `Inputs`. For CLIP:

    towers = [
        TowerInputs("vision", images=ImagePipeline(processor, patch=32), prefix=("cls",)),
        TowerInputs("text", texts=TextPipeline(tokenizer, context=77)),
    ]
    inputs = collate([encode(sample, towers) for sample in samples], towers)
    module(**inputs.tensors); inputs.rows["vision"]        # int32 [B, 1 + h*w, 8]

Texts are padded on the right whatever the tokenizer says: then a token's index is its position, and in
neither causal nor masked attention does padding reach the tokens that are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mmxai.data.sample import Sample
from mmxai.errors import ArgumentError, DataError, UnreadableSampleError
from mmxai.models.images import ImagePipeline
from mmxai.models.texts import TextPipeline
from mmxai.types import ROW_COLUMNS, TOKEN_CODES

_COLUMN = {name: i for i, name in enumerate(ROW_COLUMNS)}


@dataclass(frozen=True)
class TowerInputs:
    """How one tower is fed. Exactly one of `images` and `texts`.

    `name`: the row space. `prefix`: token types before the patches, in order (`("cls", "register", ...)`).
    `rows`: False for a tower without a token sequence (a CNN): no row table, tiles are in input pixels.
    `pixels`, `ids`, `mask`: the forward's argument names (`mask=None`: it takes none). `fill`: texts are
    padded to the whole context.
    """

    name: str
    images: ImagePipeline | None = None
    texts: TextPipeline | None = None
    prefix: tuple[str, ...] = ()
    rows: bool = True
    pixels: str = "pixel_values"
    ids: str = "input_ids"
    mask: str | None = "attention_mask"
    fill: bool = False

    def __post_init__(self) -> None:
        if (self.images is None) == (self.texts is None):
            raise ArgumentError(
                f"tower {self.name}: got both or neither of images and texts, expected exactly one"
            )
        unknown = sorted(set(self.prefix) - set(TOKEN_CODES))
        if unknown:
            raise ArgumentError(
                f"tower {self.name}: got token types {unknown}, expected some of {list(TOKEN_CODES)}"
            )

    @property
    def modality(self) -> str:
        return "image" if self.images is not None else "text"


@dataclass
class Encoded:
    """One sample, ready to collate: CPU tensors without a batch dimension, and what its record needs.

    `tensors`: pixels `[3, H, W]`, ids int64 `[T]`. `special`: bool `[T]`. `size`: (w, h) of the original
    picture. `index`: in the data set, set by the loader. `cut`: number of tokens the text had before
    truncation, else None. `prompt`: what the text became for a multimodal LLM, a placeholder for the picture
    in it. `placement`: where the picture's soft tokens are in the sequence, `[first, count]` runs.
    """

    key: str
    digest: str
    text: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    tiles: list[dict[str, Any]] = field(default_factory=list)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    special: torch.Tensor | None = None
    cut: int | None = None
    index: int | None = None
    prompt: str | None = None
    placement: list[list[int]] | None = None

    def at(self, index: int) -> Encoded:
        """This sample, known by its number in the data set."""
        self.index = index
        return self

    def record(self) -> dict[str, Any]:
        """The line of the store's sample table (FORMAT.md, Samples)."""
        out: dict[str, Any] = {"sample": self.index, "key": self.key, "hash": self.digest}
        if self.text is not None:
            out["text"] = self.text
        if self.cut is not None:
            out["truncated"] = self.cut
        if self.size is not None:
            out["size"] = list(self.size)
            out["tiles"] = self.tiles
        if self.prompt is not None:
            out["prompt"] = self.prompt
        if self.placement is not None:
            out["placement"] = self.placement
        if self.columns:
            out["columns"] = self.columns
        return out


@dataclass
class Inputs:
    """A batch. `tensors`: keyword arguments of the forward; `rows`: row space -> int32 `[B, T, 8]`, pads
    marked. `counts`: of tensors whose first dimension is not the samples (pictures, patches) how many of its
    entries belong to each sample, int64 `[B]`.
    """

    tensors: dict[str, torch.Tensor]
    rows: dict[str, torch.Tensor]
    counts: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def batch_size(self) -> int:
        if self.rows:
            return len(next(iter(self.rows.values())))
        return len(next(iter(self.tensors.values()))) if self.tensors else 0

    def take(self, index: Sequence[int] | torch.Tensor) -> Inputs:
        """The samples of these places in the batch, in this order; a place may come several times.

        Row tables of pictures are as long as the most rows of these; without pictures there are none.
        """
        index = torch.as_tensor(index, dtype=torch.int64).cpu()
        counts = {name: n[index] for name, n in self.counts.items()}
        pictured = any(bool(n.any()) for n in counts.values())
        tensors = {}
        for name, x in self.tensors.items():
            chosen = index
            if name in self.counts and not pictured:
                continue
            if name in self.counts:
                ends = self.counts[name].cumsum(0)
                spans = [torch.arange(int(ends[i] - self.counts[name][i]), int(ends[i])) for i in index]
                chosen = torch.cat(spans) if spans else index
            tensors[name] = x[chosen.to(x.device)]
        rows = {space: table[index] for space, table in self.rows.items()}
        if counts:
            of_pictures = [space for space in rows if not space.startswith("text")]
            for space in of_pictures:
                table = rows.pop(space)
                if pictured:
                    lengths = (table[..., _COLUMN["token_type"]] != TOKEN_CODES["pad"]).sum(1)
                    rows[space] = table[:, : int(lengths.max())]
        return Inputs(tensors, rows, counts if pictured else {})

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> Inputs:
        """Tensors on a device, floating ones in `dtype`; the row tables stay on the CPU."""
        moved = {
            name: x.to(
                device=device, dtype=dtype if x.is_floating_point() else None, non_blocking=non_blocking
            )
            for name, x in self.tensors.items()
        }
        return Inputs(moved, self.rows, self.counts)


def encode(sample: Sample, towers: Sequence[TowerInputs]) -> Encoded:
    """Run a sample through the towers' pipelines. Raises `UnreadableSampleError` where it lacks what a tower
    needs."""
    out = Encoded(sample.key, sample.digest, sample.text, sample.columns)
    for tower in towers:
        if tower.images is not None and tower.pixels in sample.tensors:
            out.tensors[tower.pixels] = sample.tensors[tower.pixels]
        elif tower.images is not None:
            picture = sample.image
            if picture is None:
                raise _lacks(sample, tower, "picture")
            image = tower.images(picture, key=sample.key)
            out.tensors[tower.pixels] = image.pixels
            out.size, out.tiles = image.size, image.tiles
        elif tower.texts is not None:
            tokens = sample.tensors[tower.ids].tolist() if tower.ids in sample.tensors else sample.tokens
            if tokens is not None:
                text = tower.texts.ready(list(tokens), key=sample.key)
            elif sample.text is not None:
                text = tower.texts(sample.text, key=sample.key)
            else:
                raise _lacks(sample, tower, "text")
            out.tensors[tower.ids], out.special, out.cut = text.ids, text.special, text.cut
    return out


def collate(batch: Sequence[Encoded], towers: Sequence[TowerInputs]) -> Inputs:
    """Stack pictures, pad texts to the longest, build the row tables.

    Column `sample` is `Encoded.index`, or the place in the batch where that is None.
    """
    if not batch:
        raise ArgumentError("collate: got no samples, expected at least one")
    samples = torch.tensor(
        [i if e.index is None else e.index for i, e in enumerate(batch)], dtype=torch.int32
    )
    out = Inputs({}, {})
    for tower in towers:
        if tower.images is not None:
            pixels = _stack(batch, tower)
            out.tensors[tower.pixels] = pixels
            if tower.rows:
                ph, pw = tower.images.patch
                table = _vision_rows(tower.prefix, pixels.shape[-2] // ph, pixels.shape[-1] // pw)
                out.rows[tower.name] = _with_samples(table, samples)
        elif tower.texts is not None:
            least = tower.texts.context if tower.fill else 1  # even an empty batch needs a position to run on
            ids, special, mask = _pad(batch, tower.ids, tower.texts.pad_id, least)
            out.tensors[tower.ids] = ids
            if tower.mask is not None:
                out.tensors[tower.mask] = mask.to(torch.int64)
            if tower.rows:
                out.rows[tower.name] = _text_rows(ids, special, mask, samples)
    return out


def text_rows_of(
    ids: torch.Tensor,
    mask: torch.Tensor | None,
    texts: TextPipeline | None,
    samples: torch.Tensor | None = None,
) -> torch.Tensor:
    """Row table `[B, T, 8]` of ready ids `[B, T]` and attention mask (None: nothing is padding)."""
    special_ids = torch.tensor(sorted(texts.special_ids) if texts else [], dtype=ids.dtype)
    mask = torch.ones_like(ids) if mask is None else mask
    if samples is None:
        samples = torch.arange(len(ids), dtype=torch.int32)
    return _text_rows(ids.cpu(), torch.isin(ids.cpu(), special_ids), mask.cpu().bool(), samples)


def vision_rows_of(
    prefix: Sequence[str], grid: tuple[int, int], batch: int, samples: torch.Tensor | None = None
) -> torch.Tensor:
    """Row table `[B, P + h*w, 8]` of a picture tower whose P first tokens are `prefix`."""
    if samples is None:
        samples = torch.arange(batch, dtype=torch.int32)
    return _with_samples(_vision_rows(tuple(prefix), *grid), samples)


def _vision_rows(prefix: tuple[str, ...], height: int, width: int) -> torch.Tensor:
    n = len(prefix)
    table = torch.full((n + height * width, len(ROW_COLUMNS)), -1, dtype=torch.int32)
    table[:, _COLUMN["position"]] = torch.arange(len(table))
    table[:, _COLUMN["image"]] = 0
    table[:n, _COLUMN["token_type"]] = torch.tensor([TOKEN_CODES[t] for t in prefix], dtype=torch.int32)
    table[n:, _COLUMN["token_type"]] = TOKEN_CODES["patch"]
    cells = torch.arange(height * width)
    table[n:, _COLUMN["y"]], table[n:, _COLUMN["x"]] = cells // width, cells % width
    return table


def _with_samples(table: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    out = table.repeat(len(samples), 1, 1)
    out[:, :, _COLUMN["sample"]] = samples[:, None]
    return out


def _text_rows(
    ids: torch.Tensor, special: torch.Tensor, mask: torch.Tensor, samples: torch.Tensor
) -> torch.Tensor:
    table = torch.full((*ids.shape, len(ROW_COLUMNS)), -1, dtype=torch.int32)
    kinds = torch.where(special, TOKEN_CODES["special"], TOKEN_CODES["text"])
    table[..., _COLUMN["sample"]] = samples[:, None]
    table[..., _COLUMN["position"]] = torch.arange(ids.shape[1], dtype=torch.int32)
    table[..., _COLUMN["token_type"]] = torch.where(mask, kinds, TOKEN_CODES["pad"]).to(torch.int32)
    table[..., _COLUMN["token_id"]] = torch.where(mask, ids, -1).to(torch.int32)
    return table


def _stack(batch: Sequence[Encoded], tower: TowerInputs) -> torch.Tensor:
    pixels = [e.tensors[tower.pixels] for e in batch]
    shapes: Mapping[tuple[int, ...], str] = {
        tuple(p.shape): e.key for p, e in zip(pixels, batch, strict=True)
    }
    if len(shapes) > 1:
        raise DataError(
            f"tower {tower.name}: got pictures of different sizes in one batch ({dict(shapes)}), expected "
            "one size; use a processor that crops or resizes to a fixed size, or a batch size of 1"
        )
    return torch.stack(pixels)


def _pad(
    batch: Sequence[Encoded], name: str, pad_id: int, least: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    lengths = [len(e.tensors[name]) for e in batch]
    shape = (len(batch), max(least, *lengths))
    ids = torch.full(shape, pad_id, dtype=torch.int64)
    special = torch.zeros(shape, dtype=torch.bool)
    mask = torch.zeros(shape, dtype=torch.bool)
    for i, (e, n) in enumerate(zip(batch, lengths, strict=True)):
        ids[i, :n] = e.tensors[name]
        if e.special is not None:
            special[i, :n] = e.special
        mask[i, :n] = True
    return ids, special, mask


def _lacks(sample: Sample, tower: TowerInputs, what: str) -> UnreadableSampleError:
    return UnreadableSampleError(
        f"{sample.key}: got no {what}, expected one for tower {tower.name}; name the column that holds it "
        "(image_column, text_column), or leave that tower's sites out",
        key=sample.key,
    )
