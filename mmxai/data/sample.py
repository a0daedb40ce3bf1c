"""`Sample`: what a data source yields. The only type that models and data share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import torch
from PIL import Image

from mmxai.data.decode import decode_image, upright_rgb


class Sample:
    """One sample: a picture, a text, or both.

    `image` may be given as a Pillow picture or as the bytes of an image file; bytes are decoded at the first
    look at `.image`, so that a text model over captioned pictures never decodes one. `columns` holds every
    other input column and must be JSON. `tokens` are ready token ids, special tokens included (contexts cut
    from long documents carry them, for tokenising their text again need not give the same ids). `tensors` are
    ready model inputs by argument name, without a batch dimension; nothing is known of where their pixels
    came from, so such samples have no geometry.
    """

    __slots__ = ("_digest", "_image", "_upright", "columns", "key", "nbytes", "tensors", "text", "tokens")

    def __init__(
        self,
        key: str,
        image: Image.Image | bytes | None = None,
        text: str | None = None,
        columns: Mapping[str, Any] | None = None,
        digest: str | None = None,
        tokens: Sequence[int] | None = None,
        tensors: Mapping[str, torch.Tensor] | None = None,
    ):
        self.key = key
        self._image = image
        self._upright = False
        self.text = text
        self.columns = dict(columns or {})
        self.tokens = tokens
        self.tensors = dict(tensors or {})
        self._digest = digest
        self.nbytes = (
            len(image) if isinstance(image, bytes) else 0 if image is None else 3 * image.width * image.height
        )
        self.nbytes += len(text.encode("utf-8", "surrogatepass")) if text else 0
        self.nbytes += sum(x.nbytes for x in self.tensors.values())
        if isinstance(image, bytes):
            self._digest = self.digest  # once decoded the bytes are gone

    @property
    def has_image(self) -> bool:
        return self._image is not None

    @property
    def image(self) -> Image.Image | None:
        """The picture, upright and RGB, or None. Raises `UnreadableSampleError`."""
        if isinstance(self._image, bytes):
            self._image = decode_image(self._image, key=self.key)
        elif self._image is not None and not self._upright:
            self._image = upright_rgb(self._image, key=self.key)
        self._upright = True
        return self._image

    @property
    def digest(self) -> str:
        """BLAKE2b-128 (hex) of the raw content: bytes of the image file or pixels, text, tokens, tensors."""
        if self._digest is None:
            raw = self._image if isinstance(self._image, bytes) else _raw(self.image)
            text = None if self.text is None else self.text.encode("utf-8", "surrogatepass")
            tokens = None if self.tokens is None else ",".join(map(str, self.tokens)).encode()
            ready = [part for name, x in self.tensors.items() for part in (name.encode(), _bytes(x))]
            self._digest = digest(raw, text, tokens, *ready)
        return self._digest

    def __repr__(self) -> str:
        has = [
            name
            for name in ("image", "text", "tokens", "tensors")
            if getattr(self, "_image" if name == "image" else name)
        ]
        return f"Sample({self.key!r}: {', '.join(has) or 'empty'}; columns {list(self.columns)})"


def digest(*fields: bytes | None) -> str:
    """BLAKE2b-128 (hex) over fields, each framed by its length, so that moving a byte between two is
    noticed.
    """
    state = blake2b(digest_size=16)
    for field in fields:
        state.update(b"-" if field is None else b"%d:" % len(field))
        state.update(field or b"")
    return state.hexdigest()


def _raw(image: Image.Image | None) -> bytes | None:
    return None if image is None else f"{image.size}".encode() + image.tobytes()


def _bytes(x: torch.Tensor) -> bytes:
    return x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
