"""Long documents -> contexts of a fixed number of tokens. Every token appears in at least one.

A context is `prefix + payload + suffix`, where prefix and suffix are the special tokens of the pipeline
(its `bos` option decides about BOS) and the payload has up to `length - len(prefix) - len(suffix)` tokens.
Context k holds the payload tokens from `k * stride` on; `stride` equal to the payload (the default) means
no overlap, smaller repeats the last `payload - stride` tokens of the context before.

pack=False: contexts never cross documents; the last of a document may be short, and an empty document is one
context without payload. Key `<document>#<k>`; the text is the piece of the original text; the document's
columns are kept. pack=True: the documents are joined, an EOS after each, and cut; only the last context of
all is short. Key `packed#<k>`; the text is decoded.

Column `context`: `{"documents": [{"key", "tokens": [start, stop], "at"}]}`: which tokens of which document
(EOS not counted) lie from place `at` of the sequence on.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol, overload

import numpy as np

from mmxai.data.sample import Sample
from mmxai.data.source import Source, Stream, checked
from mmxai.errors import ArgumentError, DataError, UnreadableSampleError

Spans = list[tuple[int, int]]

_COUNT_AT_ONCE = 256
_CACHE_TOKENS = 1 << 21


class Tokenizing(Protocol):
    """The part of `mmxai.models.texts.TextPipeline` that cutting needs."""

    context: int
    prefix: list[int]
    suffix: list[int]

    @property
    def eos_id(self) -> int | None: ...
    @property
    def identity(self) -> dict[str, Any]: ...
    def tokenize_spans(self, text: str) -> tuple[list[int], Spans | None]: ...
    def count(self, texts: list[str]) -> list[int]: ...
    def decode(self, ids: list[int]) -> str: ...


class _Cut:
    """The settings, and one context made from them."""

    def __init__(self, pipeline: Tokenizing, length: int | None, stride: int | None, pack: bool):
        length = pipeline.context if length is None else length
        fixed = len(pipeline.prefix) + len(pipeline.suffix)
        if not fixed < length <= pipeline.context:
            raise ArgumentError(
                f"length: got {length}, expected {fixed + 1} to {pipeline.context} (the model's context)"
            )
        payload = length - fixed
        stride = payload if stride is None else stride
        if not 1 <= stride <= payload:
            raise ArgumentError(f"stride: got {stride}, expected 1 to {payload} (a context's tokens of text)")
        if pack and pipeline.eos_id is None:
            raise ArgumentError(
                "pack: got True and the tokenizer has no EOS token, expected one to part documents"
            )
        self.pipeline, self.length, self.payload, self.stride, self.pack = (
            pipeline,
            length,
            payload,
            stride,
            pack,
        )

    def contexts(self, tokens: int) -> int:
        """How many contexts that many tokens make."""
        return 1 + max(0, -(-(tokens - self.payload) // self.stride))

    def identity(self, of: dict[str, Any]) -> dict[str, Any]:
        return {
            "kind": "contexts",
            "of": of,
            "length": self.length,
            "stride": self.stride,
            "pack": self.pack,
            "tokens": self.pipeline.identity,
        }

    def piece(self, document: Sample, ids: list[int], spans: Spans | None, k: int) -> Sample:
        """Context k of one document."""
        start = k * self.stride
        part = ids[start : start + self.payload]
        text = self.pipeline.decode(part)
        if spans is not None:
            inside = spans[start : start + len(part)]
            text = _text(document)[inside[0][0] : inside[-1][1]] if inside else ""
        origin = [(document.key, start, start + len(part), 0)]
        return self._sample(f"{document.key}#{k}", part, text, document.columns, origin)

    def packed(self, k: int, part: list[int], origin: list[tuple[str, int, int, int]]) -> Sample:
        return self._sample(f"packed#{k}", part, self.pipeline.decode(part), {}, origin)

    def _sample(
        self,
        key: str,
        part: list[int],
        text: str,
        columns: dict[str, Any],
        origin: list[tuple[str, int, int, int]],
    ) -> Sample:
        if "context" in columns:
            raise DataError(
                f"{key}: got a column named 'context', expected none; contexts are described there"
            )
        shift = len(self.pipeline.prefix)
        documents = [{"key": d, "tokens": [a, b], "at": shift + at} for d, a, b, at in origin]
        return Sample(
            key,
            text=text,
            columns={**columns, "context": {"documents": documents}},
            tokens=[*self.pipeline.prefix, *part, *self.pipeline.suffix],
        )


class ContextSource(Source):
    """Contexts of a source with a length. A first pass counts every document's tokens and keeps the counts
    alone; documents are then tokenized again when one of their contexts is read (recent ones are kept).
    """

    def __init__(self, source: Source, cut: _Cut):
        self._source, self._cut = source, cut
        counts = []
        for first in range(0, len(source), _COUNT_AT_ONCE):
            batch = range(first, min(first + _COUNT_AT_ONCE, len(source)))
            counts += cut.pipeline.count([self._text_to_count(i) for i in batch])
        tokens = np.array(counts, dtype=np.int64)
        if cut.pack:
            tokens += 1  # the EOS
            self._total = int(tokens.sum())
            self._starts = np.cumsum(tokens) - tokens
            self._length = cut.contexts(self._total)
        else:
            contexts = np.array([cut.contexts(n) for n in counts], dtype=np.int64)
            self._starts = np.cumsum(contexts) - contexts
            self._length = int(contexts.sum())
        self._recent: OrderedDict[int, tuple[Sample, list[int], Spans | None]] = OrderedDict()
        self._recent_tokens = 0
        self._lock = threading.Lock()

    @property
    def identity(self) -> dict[str, Any]:
        return {**self._cut.identity(self._source.identity), "count": len(self)}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        index = checked(index, len(self))
        if self._cut.pack:
            return self._packed(index)
        document = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._cut.piece(*self._document(document), index - int(self._starts[document]))

    def _text_to_count(self, i: int) -> str:
        try:
            return _text(self._source[i])
        except UnreadableSampleError:
            if self._cut.pack:
                raise
            return ""  # one context, which is unreadable in its turn, by the loader's policy

    def _packed(self, k: int) -> Sample:
        start = k * self._cut.stride
        stop = min(start + self._cut.payload, self._total)
        document = int(np.searchsorted(self._starts, start, side="right")) - 1
        part: list[int] = []
        origin = []
        while start + len(part) < stop:
            sample, ids, _ = self._document(document)
            a = start + len(part) - int(self._starts[document])
            joined = [*ids, self._cut.pipeline.eos_id or 0][a : a + stop - start - len(part)]
            origin.append((sample.key, min(a, len(ids)), min(a + len(joined), len(ids)), len(part)))
            part += joined
            document += 1
        return self._cut.packed(k, part, origin)

    def _document(self, i: int) -> tuple[Sample, list[int], Spans | None]:
        with self._lock:
            if i in self._recent:
                self._recent.move_to_end(i)
                return self._recent[i]
        sample = self._source[i]
        ids, spans = self._cut.pipeline.tokenize_spans(_text(sample))
        with self._lock:
            if i not in self._recent:
                self._recent[i] = (sample, ids, spans)
                self._recent_tokens += len(ids)
            while self._recent_tokens > _CACHE_TOKENS and len(self._recent) > 1:
                self._recent_tokens -= len(self._recent.popitem(last=False)[1][1])
        return sample, ids, spans


class ContextStream(Stream):
    """Contexts of a stream, made as documents arrive; those that a source of the same documents gives."""

    def __init__(self, stream: Stream, cut: _Cut):
        self._stream, self._cut = stream, cut

    @property
    def identity(self) -> dict[str, Any]:
        return self._cut.identity(self._stream.identity)

    def __iter__(self) -> Iterator[Sample]:
        return _Packed(self._stream, self._cut) if self._cut.pack else _Pieces(self._stream, self._cut)


class _Pieces(Iterator[Sample]):
    """An object rather than a generator, which an unreadable document would end for good."""

    def __init__(self, documents: Stream, cut: _Cut):
        self._documents, self._cut = iter(documents), cut
        self._ready: Iterator[Sample] = iter(())

    def __next__(self) -> Sample:
        while (sample := next(self._ready, None)) is None:
            document = next(self._documents)
            ids, spans = self._cut.pipeline.tokenize_spans(_text(document))
            self._ready = map(
                partial(self._cut.piece, document, ids, spans), range(self._cut.contexts(len(ids)))
            )
        return sample


class _Packed(Iterator[Sample]):
    def __init__(self, documents: Stream, cut: _Cut):
        self._documents, self._cut, self._k, self._ended = iter(documents), cut, 0, False
        self._buffer: list[int] = []
        self._origin: list[tuple[str, int, int, int]] = []  # places count from the start of the buffer

    def __next__(self) -> Sample:
        payload, stride = self._cut.payload, self._cut.stride
        # A context is the last unless more than its payload is at hand.
        while len(self._buffer) <= payload and not self._ended:
            document = next(self._documents, None)
            if document is None:
                self._ended = True
                break
            ids, _ = self._cut.pipeline.tokenize_spans(_text(document))
            self._origin.append((document.key, 0, len(ids), len(self._buffer)))
            self._buffer += [*ids, self._cut.pipeline.eos_id or 0]
        if not self._buffer:
            raise StopIteration
        sample = self._cut.packed(self._k, self._buffer[:payload], _clip(self._origin, payload))
        self._k += 1
        more = len(self._buffer) > payload
        self._buffer = self._buffer[stride:] if more else []
        self._origin = _shift(self._origin, stride) if more else []
        return sample


def _clip(origin: list[tuple[str, int, int, int]], stop: int) -> list[tuple[str, int, int, int]]:
    """Pieces that begin before place `stop`, ended there."""
    return [(key, a, min(b, a + stop - at), at) for key, a, b, at in origin if at < stop]


def _shift(origin: list[tuple[str, int, int, int]], by: int) -> list[tuple[str, int, int, int]]:
    """Pieces after the first `by` places are gone; a piece is its tokens and one EOS."""
    out = []
    for key, a, b, at in origin:
        gone = max(0, by - at)
        if gone <= b - a:  # the EOS at least is left
            out.append((key, a + gone, b, max(0, at - by)))
    return out


def _text(document: Sample) -> str:
    if document.text is None:
        raise DataError(
            f"{document.key}: got no text, expected one to cut into contexts; name it with text_column="
        )
    return document.text


@overload
def contexts(
    source: Source,
    pipeline: Tokenizing,
    length: int | None = None,
    *,
    stride: int | None = None,
    pack: bool = False,
) -> ContextSource: ...
@overload
def contexts(
    source: Stream,
    pipeline: Tokenizing,
    length: int | None = None,
    *,
    stride: int | None = None,
    pack: bool = False,
) -> ContextStream: ...
def contexts(
    source: Source | Stream,
    pipeline: Tokenizing,
    length: int | None = None,
    *,
    stride: int | None = None,
    pack: bool = False,
) -> ContextSource | ContextStream:
    """Cut documents into contexts of `length` tokens (None: the model's context), special tokens included.

    `stride`: tokens of text from one context's start to the next's (None: no overlap). `pack`: fill contexts
    across documents, EOS between. BOS is the pipeline's affair: `TextPipeline(..., bos=True)` begins every
    context with one, as SAELens does (which, unlike here, drops the last, short context).
    """
    cut = _Cut(pipeline, length, stride, pack)
    return ContextSource(source, cut) if isinstance(source, Source) else ContextStream(source, cut)
