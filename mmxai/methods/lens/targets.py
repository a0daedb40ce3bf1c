"""What states are asked about: given tokens or texts, of all samples or each its own, or the next token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from mmxai.errors import ArgumentError
from mmxai.types import TOKEN_CODES, Rows

if TYPE_CHECKING:
    from mmxai.models import Model
    from mmxai.models.unembedding import Unembedding

NEXT = "next"
_UNKNOWN = [TOKEN_CODES["pad"], TOKEN_CODES["image"]]

Asked = str | Sequence[str | int] | Mapping[int, Sequence[str | int]] | None


class Targets:
    """names: what the T columns are called."""

    def __init__(self, asked: Asked, unembed: Unembedding, numbers: Callable[[str], int] | None):
        """asked: "next", words (or ids) of all samples, or sample -> words, as many of each. numbers: the
        id of a word, None where nothing knows."""
        self.next = asked == NEXT
        self._own: dict[int, list[int]] | None = None
        self._all: list[int] = []
        self.names: list[str] = ["the next token"] if self.next else []
        if asked is None or self.next:
            return

        def ids(words: Sequence[str | int]) -> list[int]:
            return [_number(word, unembed, numbers) for word in words]

        if isinstance(asked, Mapping):
            self._own = {int(sample): ids(words) for sample, words in asked.items()}
            lengths = {len(own) for own in self._own.values()}
            if len(lengths) != 1:
                raise ArgumentError(
                    f"lens: got {sorted(lengths)} targets of samples, expected as many of each"
                )
            self.names = [f"target {i + 1}" if i else "target" for i in range(lengths.pop())]
            return
        self._all = ids([asked] if isinstance(asked, str) else asked)
        self.names = [unembed.names(i) for i in self._all]

    @property
    def words(self) -> list[int]:
        """Every id that is asked for by itself."""
        return [*self._all, *(i for own in (self._own or {}).values() for i in own)]

    def of(self, rows: Rows, following: Rows | None = None) -> torch.Tensor:
        """int64 `[N, T]` for rows in the order of their samples' positions; -1: none.

        following: `rows` one later, for the next token (the last of a store: itself).
        """
        if self.next:
            assert following is not None
            # The row behind, where that is of the same sample and one position later.
            joined = (following.sample == rows.sample) & (following.position == rows.position + 1)
            kind = following.token_type
            joined &= ~torch.isin(kind, torch.tensor(_UNKNOWN, dtype=kind.dtype))
            return torch.where(joined, following.token_id, -1).long()[:, None]
        if self._own is None:
            return torch.tensor(self._all, dtype=torch.int64).expand(len(rows), -1)
        none = [-1] * len(self.names)
        return torch.tensor([self._own.get(int(s), none) for s in rows.sample.tolist()], dtype=torch.int64)


def shifted(rows: Rows) -> Rows:
    """The row behind each; of the last, itself."""
    return Rows(torch.cat([rows.table[1:], rows.table[-1:]]))


def numbers_of(model: Model | None, unembed: Unembedding) -> Callable[[str], int] | None:
    """How a word becomes a number: by the bank, or by the tokenizer, of which it must be one token."""
    if unembed.bank is not None or model is None:
        return None
    pipeline = model.feeds.texts(unembed.tower)
    if pipeline is None:
        return None
    unknown = getattr(pipeline.tokenizer, "unk_token_id", None)

    def number(word: str) -> int:
        # Some tokenizers put a space in front of a text themselves, others know words by the space before.
        for said in (word, word.lstrip(), f" {word}"):
            if len(own := pipeline.tokenize(said)) == 1:
                if own[0] == unknown and word != pipeline.tokenizer.unk_token:
                    raise ArgumentError(
                        f"target {word!r}: is not in the model's vocabulary ({unembed.size} tokens), "
                        "expected a word that it knows; spelling and capitals count"
                    )
                return int(own[0])
        cut = pipeline.tokenize(word)
        pieces = [unembed.names(i) for i in cut]
        raise ArgumentError(
            f"target {word!r}: is {len(cut)} tokens ({pieces}), expected one; give its first "
            "token, or another word"
        )

    return number


def _number(word: str | int, unembed: Unembedding, numbers: Callable[[str], int] | None) -> int:
    if isinstance(word, int):
        if not 0 <= word < unembed.size:
            raise ArgumentError(f"target {word}: expected a number from 0 to {unembed.size - 1}")
        return word
    if unembed.bank is not None:
        if word in unembed.bank:
            return unembed.bank.index(word)
        raise ArgumentError(
            f"target {word!r}: is none of the texts, expected one of {', '.join(unembed.bank[:8])}"
        )
    if numbers is not None:
        return numbers(word)
    known = [i for i in range(unembed.size) if unembed.names(i) == word]
    if len(known) == 1:
        return known[0]
    raise ArgumentError(
        f"target {word!r}: got no tokenizer, and {len(known)} tokens are called so, expected its number"
    )
