"""Texts -> token ids, never cut silently."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

import torch

from mmxai.errors import ArgumentError, DataError, ModelError

Bos = bool | Literal["auto"]
Long = Literal["error", "split", "truncate"]

_UNLIMITED = 10**9  # tokenizers without a limit say 10**30


@dataclass(frozen=True)
class EncodedText:
    """`ids` int64 `[T]`, `special` bool `[T]`; `cut`: tokens of the whole text where it was truncated, else
    None.
    """

    ids: torch.Tensor
    special: torch.Tensor
    cut: int | None = None


class TextPipeline:
    """A transformers tokenizer with a context length.

    `context`: most tokens the model takes, special tokens included (default: what the tokenizer says, if it
    says). `bos`: "auto" adds the special tokens that the tokenizer's own template adds; True makes sure
    that a text begins with the tokenizer's BOS token; False leaves a BOS of the template out. `long`: what
    to do with a text longer than `context`: "error"; "truncate" (the sample record says so); "split", which
    cuts the *source* into contexts before encoding, see `mmxai.data.contexts`.

    A token counts as special where its id is a special token of the tokenizer other than `unk`.
    """

    def __init__(
        self, tokenizer: Any, context: int | None = None, *, bos: Bos = "auto", long: Long = "error"
    ):
        if context is None:
            limit = getattr(tokenizer, "model_max_length", None)
            if limit is None or limit >= _UNLIMITED:
                raise ArgumentError(
                    "context: got None and the tokenizer knows no limit, expected the model's positions"
                )
            context = int(limit)
        if bos not in ("auto", True, False):
            raise ArgumentError(f'bos: got {bos!r}, expected "auto", True or False')
        if long not in ("error", "split", "truncate"):
            raise ArgumentError(f'long: got {long!r}, expected "error", "split" or "truncate"')
        self.tokenizer, self.context, self.bos, self.long = tokenizer, context, bos, long
        self.special_ids = _special_ids(tokenizer)
        self.prefix, self.suffix = self._template()
        if context <= len(self.prefix) + len(self.suffix):
            raise ArgumentError(
                f"context: got {context}, expected more than the special tokens of an empty text"
            )

    @property
    def pad_id(self) -> int:
        """Id that fills padding; masked, so 0 serves tokenizers that have none."""
        return self.tokenizer.pad_token_id or 0

    @property
    def eos_id(self) -> int | None:
        return self.tokenizer.eos_token_id

    @property
    def identity(self) -> dict[str, Any]:
        """JSON: everything that decides the tokens."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        table = (
            json.dumps(self.tokenizer.get_vocab(), sort_keys=True) if backend is None else backend.to_str()
        )
        return {
            "tokenizer": type(self.tokenizer).__name__,
            "fingerprint": blake2b(table.encode(), digest_size=16).hexdigest(),
            "context": self.context,
            "prefix": self.prefix,
            "suffix": self.suffix,
            "long": self.long,
        }

    def tokenize(self, text: str) -> list[int]:
        """Token ids without special tokens of the template, whatever the length."""
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def tokenize_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]] | None]:
        """As `tokenize`, with the character span of each token where the tokenizer tracks them."""
        if not self.tokenizer.is_fast:
            return self.tokenize(text), None
        out = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return out["input_ids"], out["offset_mapping"]

    def count(self, texts: list[str]) -> list[int]:
        """Number of tokens of each text, without special tokens of the template."""
        return [
            len(ids) for ids in self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        ]

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids)

    def __call__(self, text: str, *, key: str = "text") -> EncodedText:
        ids = self.tokenize(text)
        room = self.context - len(self.prefix) - len(self.suffix)
        total = len(ids) + len(self.prefix) + len(self.suffix)
        if len(ids) > room:
            if self.long != "truncate":
                raise self._too_long(key, total)
            ids = ids[-room:] if self.tokenizer.truncation_side == "left" else ids[:room]
        out = self.ready(self.prefix + ids + self.suffix, key=key)
        return EncodedText(out.ids, out.special, cut=total if total > self.context else None)

    def ready(self, ids: list[int], *, key: str = "text") -> EncodedText:
        """Ids that are complete already (a context of a long document)."""
        if len(ids) > self.context:
            raise self._too_long(key, len(ids))
        special = [i in self.special_ids for i in ids]
        return EncodedText(torch.tensor(ids, dtype=torch.int64), torch.tensor(special, dtype=torch.bool))

    def _too_long(self, key: str, tokens: int) -> DataError:
        return DataError(
            f"{key}: got {tokens} tokens, expected at most {self.context} (the model's context); "
            'cut texts into contexts with long="split", or keep only their beginning with long="truncate"'
        )

    def _probe(self) -> str:
        """A text of one token, from the vocabulary itself: a small one may not even know unknown words."""
        for i in sorted(set(self.tokenizer.get_vocab().values()) - self.special_ids):
            text = self.tokenizer.decode([i]).strip()
            if text and self.tokenize(text) == [i]:
                return text
        raise ModelError(f"tokenizer {type(self.tokenizer).__name__}: no token of its vocabulary is text")

    def _template(self) -> tuple[list[int], list[int]]:
        """Ids before and after every text."""
        probe = self._probe()
        body = self.tokenize(probe)
        whole = self.tokenizer(probe, verbose=False)["input_ids"]
        at = next((i for i in range(len(whole)) if whole[i : i + len(body)] == body), None)
        if at is None:
            raise ModelError(
                f"tokenizer {type(self.tokenizer).__name__}: special tokens do not surround the text"
            )
        prefix, suffix = whole[:at], whole[at + len(body) :]
        if self.bos == "auto":
            return prefix, suffix
        bos = self.tokenizer.bos_token_id
        if self.bos and bos is None:
            raise ArgumentError(
                'bos: got True and the tokenizer has no BOS token, expected bos="auto" or False'
            )
        has = bos is not None and prefix[:1] == [bos]
        if self.bos:
            return (prefix if has else [bos, *prefix]), suffix
        return (prefix[1:] if has else prefix), suffix


def _special_ids(tokenizer: Any) -> frozenset[int]:
    ids = set(tokenizer.all_special_ids)
    ids |= {i for i, token in getattr(tokenizer, "added_tokens_decoder", {}).items() if token.special}
    roles = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
    if tokenizer.unk_token_id not in {getattr(tokenizer, role, None) for role in roles}:
        ids.discard(tokenizer.unk_token_id)  # an unknown word is text
    return frozenset(ids)
