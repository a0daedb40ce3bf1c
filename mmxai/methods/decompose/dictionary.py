"""`Dictionary`: directions of a site, and how much of each a row has.

| kind | codes of a row x | reconstruction |
| --- | --- | --- |
| pca, ica | encoder (x - offset) | codes @ directions + offset |
| nmf, seminmf | the h >= 0 with the least error (non-negative least squares) | the same |
| kmeans | 1 at the nearest centroid | that centroid |
| spherical | the projection on the direction of largest cosine, if positive | the same |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mmxai.errors import ArgumentError, DictionaryFormatError
from mmxai.methods.decompose.config import KINDS, Kind
from mmxai.methods.decompose.nonnegative import nonnegative_codes

FORMAT, VERSION = "mmxai-dictionary", 1
WEIGHTS, DOCUMENT = "dictionary.safetensors", "dictionary.json"
SIGNLESS = ("pca", "ica")
"""Kinds whose directions could as well point the other way: codes have both signs."""


class Dictionary:
    """`directions` float32 `[K, D]`: what one unit of each code adds to a row; `offset` float32 `[D]`.

    encoder: float32 `[K, D]`, of pca and ica. tokens: token types it was fitted on, comma-separated, None:
    all. facts: JSON about the fit (rows, iterations, whether it converged).
    """

    def __init__(
        self,
        kind: Kind,
        site: str,
        directions: torch.Tensor,
        offset: torch.Tensor,
        *,
        encoder: torch.Tensor | None = None,
        tokens: str | None = None,
        facts: Mapping[str, Any] | None = None,
    ):
        if kind not in KINDS or (encoder is not None) != (kind in SIGNLESS):
            raise ArgumentError(
                f"dictionary: got kind {kind!r}, {'an' if encoder is not None else 'no'} encoder, expected "
                f"one of {', '.join(KINDS)}, with an encoder for {' and '.join(SIGNLESS)} alone"
            )
        shapes = [tuple(t.shape) for t in (directions, offset) if t is not None]
        wrong = directions.ndim != 2 or offset.shape != directions.shape[1:]
        if wrong or (encoder is not None and encoder.shape != directions.shape):
            raise ArgumentError(
                f"dictionary: got directions and offset of shapes {shapes}, encoder "
                f"{None if encoder is None else tuple(encoder.shape)}, expected (K, D), (D,) and (K, D)"
            )
        self.kind, self.site, self.tokens = kind, site, tokens
        self.directions, self.offset = _own(directions), _own(offset)
        self.encoder = None if encoder is None else _own(encoder)
        self.facts = dict(facts or {})

    @property
    def units(self) -> int:
        return self.directions.shape[0]

    @property
    def width(self) -> int:
        return self.directions.shape[1]

    @property
    def signed(self) -> bool:
        """Whether a direction's sign means something."""
        return self.kind not in SIGNLESS

    def encode_dense(self, x: torch.Tensor) -> torch.Tensor:
        """Codes float32 `[N, K]`, on the CPU, of rows `[N, D]` of any float dtype and device."""
        if x.ndim != 2 or x.shape[1] != self.width or not x.is_floating_point():
            raise ArgumentError(
                f"dictionary: got {x.dtype} of shape {tuple(x.shape)}, expected rows (N, {self.width}) of "
                f"{self.site}"
            )
        centred = x.detach().to("cpu", torch.float32) - self.offset
        if self.encoder is not None:
            return centred @ self.encoder.T
        if self.kind in ("nmf", "seminmf"):
            return nonnegative_codes(centred, self.directions)
        if self.kind == "spherical":
            near, which = (centred @ self.directions.T).max(1)
            codes = near.clamp(min=0)
        else:
            which = nearest(centred, self.directions)[0]
            codes = torch.ones(len(x))
        return torch.zeros(len(x), self.units).scatter_(1, which[:, None], codes[:, None])

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Rows float32 `[N, D]`, on the CPU, of codes `[N, K]`."""
        if codes.ndim != 2 or codes.shape[1] != self.units:
            raise ArgumentError(
                f"dictionary: got codes of shape {tuple(codes.shape)}, expected (N, {self.units})"
            )
        return torch.addmm(self.offset, codes.detach().to("cpu", torch.float32), self.directions)

    def save(self, folder: str | Path) -> Path:
        """Write `dictionary.safetensors` (directions, offset, encoder) and `dictionary.json` to `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"directions": self.directions, "offset": self.offset}
        if self.encoder is not None:
            tensors["encoder"] = self.encoder
        staged = folder / f"{WEIGHTS}.tmp"
        save_file(tensors, staged, {"format": "pt"})
        staged.replace(folder / WEIGHTS)
        document = {
            "format": FORMAT, "version": VERSION, "kind": self.kind, "site": self.site,
            "tokens": self.tokens, "facts": self.facts,
        }  # fmt: skip
        text = folder / f"{DOCUMENT}.tmp"
        text.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        text.replace(folder / DOCUMENT)
        return folder

    def __repr__(self) -> str:
        return f"Dictionary({self.kind} of {self.site}: {self.units} units of width {self.width})"


def _own(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", torch.float32).contiguous()


def load_dictionary(folder: str | Path) -> Dictionary:
    """The dictionary saved in `folder`; DictionaryFormatError where there is none, or it is damaged."""
    folder = Path(folder)
    try:
        document = json.loads((folder / DOCUMENT).read_text(encoding="utf-8"))
        if document["format"] != FORMAT or document["version"] != VERSION:
            raise ValueError(f"format {document['format']!r}, version {document['version']!r}")
        tensors = load_file(folder / WEIGHTS)
        return Dictionary(
            document["kind"], document["site"], tensors.pop("directions"), tensors.pop("offset"),
            tokens=document["tokens"], facts=document["facts"], **tensors,
        )  # fmt: skip
    except (FileNotFoundError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DictionaryFormatError(
            f"{folder}: {error!r}, expected {DOCUMENT} and {WEIGHTS} of version {VERSION}, as "
            "`mmxai decompose dictionary` writes them"
        ) from error


def nearest(x: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of rows `[N, D]` the nearest of `[K, D]`: index int64 `[N]` and squared distance float32 `[N]`."""
    apart = torch.addmm(centroids.square().sum(1), x, centroids.T, alpha=-2)
    least, which = apart.min(1)
    return which, (least + x.square().sum(1)).clamp(min=0)
