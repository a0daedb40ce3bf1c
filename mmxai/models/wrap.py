"""`wrap`: any torch module as a `Model`, its sites the outputs of its modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mmxai.capture.hooks import original
from mmxai.data.sample import Sample
from mmxai.errors import ArgumentError, ModelError, UnreadableSampleError
from mmxai.models.feeds import samples_of
from mmxai.models.images import ImagePipeline
from mmxai.models.inputs import Encoded, Inputs
from mmxai.models.model import Model
from mmxai.models.modules import rows_of
from mmxai.models.texts import Bos, Long, TextPipeline

Prepare = ImagePipeline | Callable[[Any], torch.Tensor | Mapping[str, torch.Tensor]]
_ONLY = "input"


def wrap(
    module: nn.Module, *, name: str | None = None, prepare: Prepare | None = None, example: Any = None
) -> Model:
    """A model with sites `module:<dotted.path>` for every submodule whose output can be rows.

    prepare: an `ImagePipeline` (`ImagePipeline.make(224, mean=, std=)`), which also remembers where each
    pixel came from; or a function `Sample` -> the tensor (or dict of tensors) of one sample, without the
    batch dimension. Needed for harvesting pictures and texts, not for data that are tensors. example: a batch
    of inputs as the module takes them (tensor or dict of tensors), from which shapes are found; without it
    the first inputs run serve.
    """
    if not isinstance(module, nn.Module) or isinstance(module, torch.jit.ScriptModule):
        raise ModelError(
            f"wrap: got {type(module).__name__}, expected a torch.nn.Module (not a scripted or traced "
            f"one: hooks do not run in those)"
        )
    module = original(module)
    return Model(
        module, name=name or type(module).__name__, family=None, towers={}, feeds=PlainFeeds(prepare, example)
    )


class PlainFeeds:
    """Feeds of a wrapped module: tensors as they are, samples through the user's `prepare`."""

    def __init__(self, prepare: Prepare | None, example: Any = None):
        self._prepare = prepare
        self._example = None if example is None else self.prepare(example)

    def encode(self, sample: Sample, towers: Sequence[str] | None) -> Encoded:
        if self._prepare is None and sample.tensors:
            ready = list(sample.tensors.values())
            tensors = {_ONLY: ready[0]} if len(ready) == 1 else sample.tensors
            return Encoded(sample.key, sample.digest, sample.text, sample.columns, tensors=tensors)
        if self._prepare is None:
            raise ModelError(
                "wrapped model: got samples, expected a way to make tensors of them; wrap(module, prepare="
                "function from a Sample (.image, .text, .columns) to the tensor of one sample)"
            )
        if isinstance(self._prepare, ImagePipeline):
            return self._picture(self._prepare, sample)
        made = self._prepare(sample)
        tensors = dict(made) if isinstance(made, Mapping) else {_ONLY: made}
        wrong = [k for k, v in tensors.items() if not isinstance(v, torch.Tensor)]
        if wrong:
            raise ModelError(
                f"prepare: returned no tensor for {wrong}, expected a tensor or a dict of tensors"
            )
        size = sample.image.size if sample.image is not None else None
        return Encoded(sample.key, sample.digest, sample.text, sample.columns, size=size, tensors=tensors)

    def _picture(self, pipeline: ImagePipeline, sample: Sample) -> Encoded:
        if sample.image is None:
            raise UnreadableSampleError(
                f"{sample.key}: got a sample without a picture, expected one for the network's pipeline",
                key=sample.key,
            )
        made = pipeline(sample.image, key=sample.key)
        return Encoded(
            sample.key,
            sample.digest,
            sample.text,
            sample.columns,
            size=made.size,
            tiles=made.tiles,
            tensors={_ONLY: made.pixels},
        )

    def collate(self, batch: Sequence[Encoded]) -> Inputs:
        shapes = {tuple((k, tuple(v.shape)) for k, v in e.tensors.items()) for e in batch}
        if len(shapes) != 1:
            raise ModelError(
                f"prepare: returned tensors of different shapes {sorted(shapes)}, expected one shape"
            )
        inputs = Inputs({k: torch.stack([e.tensors[k] for e in batch]) for k in batch[0].tensors}, {})
        indices = [i if e.index is None else e.index for i, e in enumerate(batch)]
        # Every network has this space; it tells the other spaces which samples these are.
        inputs.rows["module.vector"] = rows_of(
            "module.vector", len(batch), torch.tensor(indices, dtype=torch.int32)
        )
        return self._seen(inputs)

    def prepare(self, inputs: Any) -> Inputs:
        if isinstance(inputs, torch.Tensor):
            return self._seen(Inputs({_ONLY: inputs}, {}))
        if isinstance(inputs, Mapping) and all(isinstance(v, torch.Tensor) for v in inputs.values()):
            return self._seen(Inputs(dict(inputs), {}))
        items = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        if not all(isinstance(i, Sample) for i in items):
            items = samples_of(inputs)
        return self.collate([self.encode(i, None) for i in items])

    def example(self) -> Inputs:
        if self._example is None:
            raise ArgumentError(
                "wrapped model: shapes are not known yet; got no example, expected wrap(module, example=a "
                "batch of inputs), or run the model once first"
            )
        return self._example

    def call(self, module: nn.Module, tensors: Mapping[str, Any]) -> Any:
        if set(tensors) == {_ONLY}:
            return module(tensors[_ONLY])
        return module(**tensors)

    def identity(self) -> dict[str, Any]:
        """Of a function its name alone: what it does is its owner's affair."""
        if isinstance(self._prepare, ImagePipeline):
            return {"prepare": self._prepare.identity}
        name = None if self._prepare is None else getattr(self._prepare, "__qualname__", "callable")
        return {"prepare": name}

    def lengths(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
        return {}

    def texts(self, tower: str) -> TextPipeline | None:
        return None

    def set_texts(self, tower: str, context: int, bos: Bos | None, long: Long | None) -> TextPipeline | None:
        raise ArgumentError(f"wrapped model: has no tower {tower!r}")

    def _seen(self, inputs: Inputs) -> Inputs:
        if getattr(self, "_example", None) is None:
            self._example = Inputs({k: v[:2].clone() for k, v in inputs.tensors.items()}, {})
        return inputs
