"""How a model's towers are fed: from pictures, texts and ready tensors to `Inputs` with row tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from PIL import Image
from torch import nn

from mmxai.data.sample import Sample
from mmxai.errors import ArgumentError, ModelError
from mmxai.models import inputs as pipelines
from mmxai.models.adapter import BoundTower
from mmxai.models.images import ImagePipeline
from mmxai.models.inputs import Encoded, Inputs, TowerInputs
from mmxai.models.parts import pair
from mmxai.models.texts import Bos, Long, TextPipeline
from mmxai.types import ROW_COLUMNS, TOKEN_CODES

_TYPE, _TOKEN = ROW_COLUMNS.index("token_type"), ROW_COLUMNS.index("token_id")


class Feeds(Protocol):
    """What `Model` needs to know about inputs; for adapters `TowerFeeds`, for `wrap` `PlainFeeds`."""

    def encode(self, sample: Sample, towers: Sequence[str] | None) -> Encoded: ...
    def collate(self, batch: Sequence[Encoded]) -> Inputs: ...
    def prepare(self, inputs: Any) -> Inputs: ...
    def example(self) -> Inputs: ...
    def call(self, module: nn.Module, tensors: Mapping[str, Any]) -> Any: ...
    def identity(self) -> dict[str, Any]: ...
    def lengths(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]: ...
    def texts(self, tower: str) -> TextPipeline | None: ...
    def set_texts(
        self, tower: str, context: int, bos: Bos | None, long: Long | None
    ) -> TextPipeline | None: ...


class TowerFeeds:
    """Feeds of a model with an adapter. `processor` and `tokenizer` are transformers' own, or None."""

    def __init__(self, towers: Mapping[str, BoundTower], processor: Any = None, tokenizer: Any = None):
        self.towers = towers
        self.by_tower: dict[str, TowerInputs] = {}
        for tower in towers.values():
            if tower.spec.input == "pixel_values" and processor is not None:
                images = ImagePipeline(processor, patch=pair(tower.config.patch_size))
                self.by_tower[tower.name] = TowerInputs(tower.name, images=images, prefix=tower.spec.prefix)
                tower.length = _fixed_length(images, tower)
            if tower.spec.input == "input_ids" and tokenizer is not None:
                texts = TextPipeline(tokenizer, tower.length)
                mask = None if tower.spec.fill else "attention_mask"
                feed = TowerInputs(tower.name, texts=texts, mask=mask, fill=tower.spec.fill)
                self.by_tower[tower.name] = feed

    def identity(self) -> dict[str, Any]:
        fed = {name: feed.images or feed.texts for name, feed in self.by_tower.items()}
        return {name: pipeline.identity for name, pipeline in fed.items() if pipeline is not None}

    def lengths(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
        """Rows of each sample where a tower itself knows no samples: see `mmxai.models.arrange`."""
        return {}

    def texts(self, tower: str) -> TextPipeline | None:
        feed = self.by_tower.get(tower)
        return None if feed is None else feed.texts

    def set_texts(self, tower: str, context: int, bos: Bos | None, long: Long | None) -> TextPipeline | None:
        feed = self.by_tower.get(tower)
        if feed is None or feed.texts is None:
            return None
        was = feed.texts
        bos, long = was.bos if bos is None else bos, long or was.long
        texts = TextPipeline(was.tokenizer, context, bos=bos, long=long)
        self.by_tower[tower] = replace(feed, texts=texts)
        return texts

    def encode(self, sample: Sample, towers: Sequence[str] | None) -> Encoded:
        if towers is None:
            towers = [t for t, tower in self.towers.items() if _has(sample, tower)]
        return pipelines.encode(sample, [self._feed(t) for t in towers])

    def collate(self, batch: Sequence[Encoded]) -> Inputs:
        fed = [t for t in self.towers if batch and self.towers[t].spec.input in batch[0].tensors]
        return pipelines.collate(batch, [self._feed(t) for t in fed])

    def prepare(self, inputs: Any) -> Inputs:
        if isinstance(inputs, torch.Tensor):
            inputs = {"pixel_values" if inputs.is_floating_point() else "input_ids": inputs}
        if isinstance(inputs, Mapping) and not {"image", "text"} & set(inputs):
            return self._from_tensors(inputs)
        return self.collate([self.encode(sample, None) for sample in samples_of(inputs)])

    def example(self) -> Inputs:
        """Two blank samples, for finding out the shapes inside."""
        tensors: dict[str, torch.Tensor] = {}
        for tower in self.towers.values():
            if tower.spec.input == "pixel_values":
                height, width = self._size(tower)
                tensors["pixel_values"] = torch.zeros(
                    2, getattr(tower.config, "num_channels", 3), height, width
                )
            else:
                tensors["input_ids"] = torch.ones(2, min(7, tower.length), dtype=torch.int64)
                tensors["attention_mask"] = torch.ones_like(tensors["input_ids"])
        return self._from_tensors(tensors)

    def call(self, module: nn.Module, tensors: Mapping[str, Any]) -> Any:
        return module(**tensors)

    def _size(self, tower: BoundTower) -> tuple[int, int]:
        feed = self.by_tower.get(tower.name)
        if feed is not None and feed.images is not None:
            return feed.images.place(1024, 1024).out
        return pair(tower.config.image_size)

    def _feed(self, tower: str) -> TowerInputs:
        if tower not in self.by_tower:
            what = "tokenizer" if self.towers[tower].spec.input == "input_ids" else "image processor"
            raise ModelError(
                f"tower {tower}: the model came without its {what}, got raw samples, expected ready tensors; "
                f"load it from a folder with the {what}'s files, or pass {what.split()[-1]}= to load_model"
            )
        return self.by_tower[tower]

    def _from_tensors(self, tensors: Mapping[str, Any]) -> Inputs:
        wrong = [k for k, v in tensors.items() if not isinstance(v, torch.Tensor)]
        if wrong or not tensors:
            raise ArgumentError(
                f"inputs: got {list(tensors)}, where {wrong} are no tensors; expected a dict of tensors"
            )
        out = Inputs(dict(tensors), {})
        for tower in self.towers.values():
            if tower.spec.input not in tensors:
                continue
            x = tensors[tower.spec.input]
            if tower.spec.input == "pixel_values":
                ph, pw = pair(tower.config.patch_size)
                grid = (x.shape[-2] // ph, x.shape[-1] // pw)
                out.rows[tower.name] = pipelines.vision_rows_of(tower.spec.prefix, grid, len(x))
            else:
                feed = self.by_tower.get(tower.name)
                rows = pipelines.text_rows_of(x, tensors.get("attention_mask"), feed.texts if feed else None)
                out.rows[tower.name] = rows if feed else _mark_special(rows, tower.config)
        if not out.rows:
            known = sorted(t.spec.input for t in self.towers.values())
            raise ArgumentError(
                f"inputs: got tensors {list(tensors)}, expected {' or '.join(known)} among them"
            )
        return out


def _fixed_length(images: ImagePipeline, tower: BoundTower) -> int:
    """Rows of a picture where the processor makes one size of all; else what the config's size gives."""
    sizes = {images.place(w, h).out for w, h in ((640, 480), (480, 640), (512, 512))}
    if len(sizes) > 1:
        return tower.length
    (height, width), (ph, pw) = sizes.pop(), images.patch
    return len(tower.spec.prefix) + (height // ph) * (width // pw)


def _mark_special(rows: torch.Tensor, config: Any) -> torch.Tensor:
    """Without a tokenizer the config's own ids are all that is known of special tokens."""
    named = (getattr(config, f"{n}_token_id", None) for n in ("bos", "eos", "pad", "cls", "sep"))
    ids = [i for n in named for i in (n if isinstance(n, list) else [n]) if i is not None]
    special = torch.isin(rows[..., _TOKEN], torch.tensor(ids, dtype=rows.dtype))
    special &= rows[..., _TYPE] == TOKEN_CODES["text"]
    rows[..., _TYPE] = torch.where(special, TOKEN_CODES["special"], rows[..., _TYPE])
    return rows


def _has(sample: Sample, tower: BoundTower) -> bool:
    if tower.spec.input in sample.tensors:
        return True
    if tower.spec.input == "pixel_values":
        return sample.has_image
    return sample.text is not None or sample.tokens is not None


def samples_of(inputs: Any) -> list[Sample]:
    """What a notebook passes -> samples."""
    if isinstance(inputs, Mapping) and not _is_row(inputs):
        columns = {k: v if isinstance(v, list | tuple) else [v] for k, v in inputs.items()}
        lengths = {len(v) for v in columns.values()}
        if set(columns) - {"image", "text"} or len(lengths) != 1:
            got = {k: len(v) for k, v in columns.items()}
            raise ArgumentError(f"inputs: got {got}, expected image= and text= of one length")
        given = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return [Sample(str(i), image=g.get("image"), text=g.get("text")) for i, g in enumerate(given)]
    items = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
    return [_sample(str(i), item) for i, item in enumerate(items)]


def _is_row(item: Mapping[str, Any]) -> bool:
    """A data set's row: it has a key, a picture or a text, and whatever other columns."""
    return isinstance(item.get("key"), str) and bool({"image", "text"} & set(item))


def _sample(key: str, item: Any) -> Sample:
    if isinstance(item, Sample):
        return item
    if isinstance(item, str):
        return Sample(key, text=item)
    if isinstance(item, Image.Image):
        return Sample(key, image=item)
    if isinstance(item, Mapping) and item and set(item) <= {"image", "text"}:
        return Sample(key, **item)
    if isinstance(item, Mapping) and _is_row(item):
        return Sample(item["key"], image=item.get("image"), text=item.get("text"))
    raise ArgumentError(
        f"inputs: got {type(item).__name__}, expected pictures (PIL), strings, dict(image=, text=), samples, "
        f"or a dict of tensors"
    )
