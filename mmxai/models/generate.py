"""Text from a language model: prompts as `Model.prepare` takes them, decoded by transformers' `generate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mmxai.capture.hooks import held
from mmxai.errors import ArgumentError, ModelError

if TYPE_CHECKING:
    from mmxai.models.model import Model


@dataclass(frozen=True)
class Generated:
    """What was generated after each prompt.

    ids: per prompt int64 `[n]`, the new tokens without what follows the end of the text. prompts: per prompt
    its ids. texts: the new tokens as text; None for a model without a tokenizer.
    """

    prompts: list[torch.Tensor]
    ids: list[torch.Tensor]
    texts: list[str] | None

    def __str__(self) -> str:
        return "\n".join(self.texts if self.texts is not None else [str(i.tolist()) for i in self.ids])


def generate(model: Model, prompts: Any, options: dict[str, Any]) -> Generated:
    """See `Model.generate`."""
    can = getattr(model.module, "can_generate", None)
    if not (callable(can) and can()):
        raise ModelError(
            f"{model.name}: got {type(model.module).__name__}, which generates no text, expected a language "
            "model (…ForCausalLM)"
        )
    if "inputs" in options or "input_ids" in options or options.get("return_dict_in_generate"):
        raise ArgumentError(
            f"generate: got {sorted(options)}, expected options of decoding; the prompts come first; "
            "transformers' own result: model.module.generate"
        )
    tensors = model.prepare(prompts).to(model.device).tensors
    given = tensors["input_ids"]
    mask = tensors.get("attention_mask", torch.ones_like(given)).bool()
    if not mask.any(1).all():
        raise ArgumentError("generate: got an empty prompt, expected one token at least in each")
    ids, mask = _right_aligned(given, mask)
    module: Any = model.module
    settings = module.generation_config
    ends = options.get("eos_token_id", settings.eos_token_id)
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    pad = settings.pad_token_id if settings.pad_token_id is not None else (ends or [0])[0]
    options = {"do_sample": False, "max_new_tokens": 32, "pad_token_id": pad, **options}
    # Waits where another thread's intervention holds the module: it would edit this text, too.
    with held(module), torch.no_grad():
        out = module.generate(input_ids=ids, attention_mask=mask.long(), **options)
    new = [_until(row, ends) for row in out[:, ids.shape[1] :].cpu()]
    starts = [row[keep].cpu() for row, keep in zip(ids, mask, strict=True)]
    if len(new) != len(starts):
        raise ArgumentError(
            f"generate: got {len(new)} texts of {len(starts)} prompts, expected one a prompt; without "
            "num_return_sequences"
        )
    pipeline = model.feeds.texts("text")
    # One text a prompt; a leading space is part of it.
    texts = None if pipeline is None else [_decode(pipeline, p, n) for p, n in zip(starts, new, strict=True)]
    return Generated(starts, new, texts)


def _right_aligned(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Padding moved in front of the prompts, so that what comes next stands beside the last token of each."""
    order = torch.argsort(mask.int(), dim=1, stable=True)
    return ids.gather(1, order), mask.gather(1, order)


def _until(row: torch.Tensor, ends: list[int]) -> torch.Tensor:
    """The tokens in front of the first end token."""
    if not ends:
        return row
    stop = torch.isin(row, torch.tensor(ends)).nonzero()
    return row[: int(stop[0])] if len(stop) else row


def _decode(pipeline: Any, prompt: torch.Tensor, new: torch.Tensor) -> str:
    """The new tokens as text. Decoded behind the prompt: tokenizers strip the space of a first word."""
    whole = pipeline.decode(torch.cat([prompt, new]).tolist())
    start = pipeline.decode(prompt.tolist())
    return whole[len(start) :] if whole.startswith(start) else pipeline.decode(new.tolist())
