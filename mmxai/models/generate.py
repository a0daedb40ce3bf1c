"""Text from a language model: prompts as `Model.prepare` takes them, decoded by transformers' `generate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mmxai.capture.hooks import held
from mmxai.errors import ArgumentError, ModelError
from mmxai.models.inputs import Inputs
from mmxai.types import ROW_COLUMNS, TOKEN_CODES

if TYPE_CHECKING:
    from mmxai.models.model import Model

_SAMPLE, _POSITION, _TYPE, _TOKEN, _STEP = (
    ROW_COLUMNS.index(c) for c in ("sample", "position", "token_type", "token_id", "step")
)


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
    inputs = model.prepare(prompts)
    tensors = inputs.to(model.device, model.dtype).tensors
    if "input_ids" not in tensors:
        raise ArgumentError(f"generate: got {sorted(tensors)}, expected a text to go on from")
    given = tensors["input_ids"]
    mask = tensors.get("attention_mask", torch.ones_like(given)).bool()
    if not mask.any(1).all():
        raise ArgumentError("generate: got an empty prompt, expected one token at least in each")
    order = torch.argsort(mask.int(), dim=1, stable=True)
    ids, mask = _right_aligned(given, order), _right_aligned(mask, order)
    splice = model.adapter.splice if model.adapter else None
    if splice is not None:  # what the forward takes besides: pictures, and what stands beside ids
        beside = {k: _right_aligned(v, order) for k, v in tensors.items() if k in splice.beside_ids}
        pictures = {k: v for k, v in tensors.items() if k in splice.join}
        # A placeholder that no picture stands behind means nothing, in this text or in a forward of it.
        options = {"suppress_tokens": [splice.token(model.config)], **pictures, **beside, **options}
    module: Any = model.module
    speaker: Any = module
    if splice is not None and not pictures and model.towers["text"].spec.method:
        speaker = getattr(module, model.towers["text"].spec.method)
    settings = module.generation_config
    ends = options.get("eos_token_id", settings.eos_token_id)
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    pad = settings.pad_token_id if settings.pad_token_id is not None else (ends or [0])[0]
    options = {"do_sample": False, "max_new_tokens": 32, "pad_token_id": pad, **options}
    # Waits where another thread's intervention holds the module: it would edit this text, too.
    with held(module), torch.no_grad(), model.arranged(inputs):
        out = speaker.generate(input_ids=ids, attention_mask=mask.long(), **options)
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


def continued(model: Model, inputs: Inputs, steps: int) -> tuple[Inputs, Generated]:
    """See `Model.continued`."""
    if "text" not in inputs.rows:
        raise ArgumentError(f"generate: got {sorted(inputs.tensors)}, expected a text to go on from")
    longest, most = inputs.rows["text"].shape[1] + steps, model.towers["text"].length
    if longest > most:
        raise ArgumentError(
            f"generate: got {steps} tokens behind texts of {longest - steps}, expected at most {most} "
            "together (the model's context); generate fewer, or give shorter texts"
        )
    made = generate(model, inputs, {"max_new_tokens": steps})
    rows = appended(inputs.rows["text"], made.ids)
    tokens = rows[..., _TOKEN].to(torch.int64)
    there = rows[..., _TYPE] != TOKEN_CODES["pad"]
    device = inputs.tensors["input_ids"].device
    pipeline = model.feeds.texts("text")
    pad = 0 if pipeline is None else pipeline.pad_id
    splice = model.adapter.splice if model.adapter else None
    old = inputs.tensors["input_ids"].shape
    tensors = {
        "input_ids": torch.where(there, tokens, pad).to(device),
        "attention_mask": there.to(torch.int64).to(device),
    }
    beside = {} if splice is None else splice.beside_ids
    tensors |= {k: v(model.config, rows).to(device) for k, v in beside.items()}
    stale = [k for k, v in inputs.tensors.items() if v.shape == old and k not in tensors]
    if stale:
        raise ArgumentError(f"generate: got {stale} beside the ids, expected none that the text outgrows")
    tables = {s: t for s, t in inputs.rows.items() if s != "text"}
    return Inputs({**inputs.tensors, **tensors}, {**tables, "text": rows}, inputs.counts), made


def appended(rows: torch.Tensor, ids: list[torch.Tensor]) -> torch.Tensor:
    """Row table int32 `[B, T', 8]` of texts `[B, T, 8]` with the tokens generated behind each.

    All padding is behind them, wherever it was.
    """
    lengths = (rows[..., _TYPE] != TOKEN_CODES["pad"]).sum(1).tolist()
    longest = max(n + len(new) for n, new in zip(lengths, ids, strict=True))
    out = torch.full((len(rows), max(longest, 1), rows.shape[2]), -1, dtype=torch.int32)
    out[..., _SAMPLE] = rows[:, :1, _SAMPLE]
    out[..., _TYPE] = TOKEN_CODES["pad"]
    for b, (n, new) in enumerate(zip(lengths, ids, strict=True)):
        out[b, :n] = rows[b][rows[b, :, _TYPE] != TOKEN_CODES["pad"]]
        out[b, n : n + len(new), _TYPE] = TOKEN_CODES["generated"]
        out[b, n : n + len(new), _TOKEN] = new.to(torch.int32)
        out[b, n : n + len(new), _STEP] = torch.arange(len(new), dtype=torch.int32)
    out[..., _POSITION] = torch.arange(out.shape[1], dtype=torch.int32)
    return out


def _right_aligned(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Padding moved in front of the prompts, so that what comes next stands beside the last token of each."""
    return x.gather(1, order)


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
