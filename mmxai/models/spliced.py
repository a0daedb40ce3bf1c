"""Feeds of multimodal LLMs: pictures and prompts to `Inputs`, whose row tables say where the pictures are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mmxai.data.sample import Sample
from mmxai.errors import ArgumentError, DataError, ModelError, UnreadableSampleError
from mmxai.models import inputs as pipelines
from mmxai.models import placing
from mmxai.models import splice as splices
from mmxai.models.adapter import BoundTower
from mmxai.models.feeds import TowerFeeds
from mmxai.models.inputs import Encoded, Inputs, TowerInputs
from mmxai.models.prompts import Prompts, runs_of
from mmxai.models.splice import Extent, Layout, Pictures, Splice
from mmxai.models.texts import Bos, Long, TextPipeline


class SplicedFeeds(TowerFeeds):
    """Feeds of a model with a `Splice`. A sample with a picture and a text becomes a prompt; one with a text
    alone is that text, as for a plain language model. template: the chat template, where there is one.
    """

    def __init__(
        self,
        towers: Mapping[str, BoundTower],
        splice: Splice,
        config: Any,
        processor: Any = None,
        tokenizer: Any = None,
        template: str | None = None,
    ):
        super().__init__({t: b for t, b in towers.items() if t == "text"}, None, tokenizer)
        self.towers = towers
        self.splice, self.config = splice, config
        self.token = splice.token(config)
        self.pictures: Pictures | None = None if processor is None else splice.pictures(processor, config)
        if processor is not None and splice.limit is not None and "vision" in towers:
            towers["vision"].longest = longest = splice.limit(processor, config)
            towers["vision"].length = len(longest.vision)
        self.template = template or getattr(tokenizer, "chat_template", None)
        self.prompts: Prompts | None = None
        if tokenizer is not None:
            self.prompts = self._prompts(self.by_tower["text"])

    def _prompts(self, feed: TowerInputs) -> Prompts:
        if feed.texts is None:
            raise ModelError("prompts: got a tower without texts, expected the language tower")
        expand = self.splice.expand
        return Prompts(
            feed.texts,
            self.token,
            template=self.template,
            default=self.splice.prompt,
            mark=None if self.splice.mark is None else self.splice.mark(self.config),
            expand=None if expand is None else lambda name: expand(self.config, name),
            bare=self.splice.bare,
        )

    def identity(self) -> dict[str, Any]:
        out = {} if self.pictures is None else {"vision": self.pictures.identity}
        texts = super().identity()
        if self.prompts is not None:
            texts["text"] |= {"prompt": self.prompts.identity}
        if "text" in texts and self.pictures is not None:
            texts["text"] |= {"pictures": self.pictures.identity}  # they are in its sequence
        return {**out, **texts}

    def set_texts(self, tower: str, context: int, bos: Bos | None, long: Long | None) -> TextPipeline | None:
        texts = super().set_texts(tower, context, bos, long)
        if texts is not None:
            self.prompts = self._prompts(self.by_tower[tower])
        return texts

    # Samples

    def encode(self, sample: Sample, towers: Sequence[str] | None) -> Encoded:
        ready = "pixel_values" in sample.tensors
        picture = sample.has_image or ready
        if towers is None:
            said = sample.text is not None or sample.tokens is not None or "input_ids" in sample.tensors
            towers = [t for t, has in (("vision", picture), ("text", said)) if has]
        out = Encoded(sample.key, sample.digest, sample.text, sample.columns)
        if "vision" in towers and not picture:
            raise UnreadableSampleError(
                f"{sample.key}: got no picture, expected one for tower vision; name the column that holds it "
                "(image_column), or leave that tower's sites out",
                key=sample.key,
            )
        if ready:
            out.tensors.update({k: v for k, v in sample.tensors.items() if k in self.splice.join})
        elif picture:
            self._picture(sample, out)
        if "text" in towers:
            self._text(sample, out, picture)
        return out

    def _picture(self, sample: Sample, out: Encoded) -> None:
        if self.pictures is None:
            self._feed("vision")  # raises, naming what is missing
            return
        image = self.pictures(sample.image, key=sample.key)
        out.size, out.tiles = image.size, image.tiles
        out.tensors.update({"pixel_values": image.pixels, **image.extra})

    def _text(self, sample: Sample, out: Encoded, picture: bool) -> None:
        feed = self._feed("text")
        given = sample.tensors.get("input_ids")
        ids = sample.tokens if given is None else given.tolist()
        if ids is None and picture and sample.text is not None and self.prompts is not None:
            out.prompt = self.prompts.render(sample.text)
            soft = self._soft(out.tensors)
            ids = self.prompts.ids(out.prompt, soft, key=sample.key)
            if feed.texts is not None and len(ids) > feed.texts.context:  # nothing of a picture can be cut
                raise DataError(
                    f"{sample.key}: got a prompt of {len(ids)} tokens, {soft} of them its picture's, "
                    f"expected at most {feed.texts.context} (the model's context); give a shorter text or "
                    "a smaller picture"
                )
        if ids is None:
            made = pipelines.encode(sample, [feed])
            out.tensors["input_ids"], out.special, out.cut = made.tensors["input_ids"], made.special, made.cut
        elif feed.texts is not None:
            text = feed.texts.ready(list(ids), key=sample.key)
            out.tensors["input_ids"], out.special = text.ids, text.special
        out.placement = runs_of(out.tensors["input_ids"].tolist(), self.token) if picture else None

    def _soft(self, tensors: Mapping[str, torch.Tensor]) -> int:
        """How many placeholders the picture of a sample takes."""
        together = {k: splices.join([tensors[k]], how) for k, how in self.splice.join.items() if k in tensors}
        extents = self.splice.extents(self.config, together)
        return sum(len(self.splice.layout(self.config, e).text) for e in extents)

    # Batches

    def collate(self, batch: Sequence[Encoded]) -> Inputs:
        if not batch:
            raise ArgumentError("collate: got no samples, expected at least one")
        out, counts = Inputs({}, {}), torch.zeros(len(batch), dtype=torch.int64)
        if any("input_ids" in e.tensors for e in batch):
            if not all("input_ids" in e.tensors for e in batch):
                raise ArgumentError(
                    "collate: got samples with and without text, expected all of one kind in a batch"
                )
            out = pipelines.collate(batch, [self._feed("text")])
        with_picture = [e for e in batch if "pixel_values" in e.tensors]
        if not with_picture:
            self._beside(out)
            return out
        counts = torch.tensor([int("pixel_values" in e.tensors) for e in batch])
        for name, how in self.splice.join.items():
            parts = [e.tensors[name] for e in with_picture]
            if how == "stack" and len({tuple(p.shape) for p in parts}) > 1:
                sizes = {tuple(p.shape): e.key for p, e in zip(parts, with_picture, strict=True)}
                raise DataError(
                    f"tower vision: got pictures of different sizes in one batch ({sizes}), expected one "
                    "size; use a processor that crops or resizes to a fixed size, or a batch size of 1"
                )
            out.tensors[name] = splices.join(parts, how)
            lengths = iter(len(p) if how == "cat" else 1 for p in parts)
            out.counts[name] = torch.tensor([next(lengths) if n else 0 for n in counts])
        samples = torch.tensor(
            [i if e.index is None else e.index for i, e in enumerate(batch)], dtype=torch.int32
        )
        self._place(out, counts.tolist(), samples)
        return out

    def _from_tensors(self, tensors: Mapping[str, Any]) -> Inputs:
        if "pixel_values_videos" in tensors:
            raise ArgumentError(
                "inputs: got pixel_values_videos, expected pictures (pixel_values): row tables know no "
                "videos; give the frames as pictures"
            )
        if "pixel_values" not in tensors or not isinstance(tensors["pixel_values"], torch.Tensor):
            out = super()._from_tensors(tensors)
            self._beside(out)
            return out
        texts = {k: v for k, v in tensors.items() if k not in self.splice.join}
        out = super()._from_tensors(texts) if "input_ids" in texts else Inputs({}, {})
        out.tensors = dict(tensors)
        extents = self._extents(tensors)
        counts = [1] * len(extents)
        if "input_ids" in texts:
            counts = placing.counted(
                texts["input_ids"], self.token, [len(self._layout(e).text) for e in extents]
            )
        self._place(out, counts, torch.arange(len(counts), dtype=torch.int32))
        out.counts = self._entries(tensors, counts, extents)
        return out

    def _entries(
        self, tensors: Mapping[str, torch.Tensor], counts: list[int], extents: list[Extent]
    ) -> dict[str, torch.Tensor]:
        """Leading entries of each sample in every tensor of pictures."""
        out = {}
        for name, how in self.splice.join.items():
            if name not in tensors:
                continue
            each = [1] * len(extents)
            if how == "cat" and len(tensors[name]) != len(extents):
                each = [len(self._layout(e).vision) for e in extents]
            ends = torch.tensor([0, *each]).cumsum(0)
            stops = torch.tensor([0, *counts]).cumsum(0)
            out[name] = ends[stops[1:]] - ends[stops[:-1]]
        return out

    def _extents(self, tensors: Mapping[str, torch.Tensor]) -> list[Extent]:
        return self.splice.extents(self.config, tensors)

    def _layout(self, extent: Extent) -> Layout:
        return self.splice.layout(self.config, extent)

    # Row tables

    def _place(self, out: Inputs, counts: list[int], samples: torch.Tensor) -> None:
        """Add the row tables of pictures, and mark their soft tokens in the text's."""
        layouts = iter([self._layout(e) for e in self._extents(out.tensors)])
        mine = [placing.joined([next(layouts) for _ in range(n)]) for n in counts]
        for space in ("vision", "vision.pooled", "projector"):
            out.rows[space] = placing.table(
                [m[space] for m in mine], samples, positions=space != "vision.pooled"
            )
        if "text" in out.rows:
            special = list(self.splice.special(self.config))
            ids, texts = out.tensors["input_ids"].cpu(), [m["text"] for m in mine]
            placing.mark(out.rows["text"], ids, texts, self.token, special)
        self._beside(out)

    def _beside(self, out: Inputs) -> None:
        """Add what follows from the row table of the text and is not given."""
        for name, made in self.splice.beside_ids.items():
            if "text" in out.rows and name not in out.tensors:
                out.tensors[name] = made(self.config, out.rows["text"]).to(out.tensors["input_ids"].device)

    def lengths(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
        """Rows of each sample in the spaces of pictures, of ready tensors."""
        if "pixel_values" not in tensors:
            return {}
        layouts = [self._layout(e) for e in self._extents(tensors)]
        counts = [1] * len(layouts)
        if "input_ids" in tensors:
            counts = placing.counted(tensors["input_ids"], self.token, [len(one.text) for one in layouts])
        rest = iter(layouts)
        mine = [placing.joined([next(rest) for _ in range(n)]) for n in counts]
        return {s: tuple(len(m[s]) for m in mine) for s in ("vision", "vision.pooled", "projector")}

    def example(self) -> Inputs:
        one = self.splice.example(self.config)
        tensors = {k: splices.join([one[k], one[k]], how) for k, how in self.splice.join.items()}
        if "text" in self.towers:
            ids = torch.ones(self._soft(one) + 5, dtype=torch.int64)
            ids[2:-3] = self.token
            tensors["input_ids"] = ids.repeat(2, 1)
            tensors["attention_mask"] = torch.ones_like(tensors["input_ids"])
        return self._from_tensors(tensors)
