"""What a lens page holds of a sample, for its script."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmxai.report.pictures import inverse, picture_uri
from mmxai.types import TOKEN_TYPES

if TYPE_CHECKING:
    from PIL import Image

    from mmxai.methods.lens import LensResult

MOST = 60_000
"""States times rows of a sample; of more, rows from its beginning are left out."""

_LONGEST = 160  # columns of the table of positions


def sample_data(
    found: LensResult, sample: int, pictures: Callable[[int], Image.Image] | None
) -> dict[str, Any]:
    """rows: per row [number of its token in `names`, type, y, x, image, position]; top `[S][N][k]` numbers in
    `names`, p their probabilities in thousandths; entropy, kl `[S][N]`, targets `[T][S][N]` [probability,
    rank]; images: tiles with the picture, its size, and the matrix from cells to pixels."""
    at = found.of_sample(sample)
    table = found.rows[at]
    text = np.flatnonzero(table[:, 2].numpy() < 0)
    # Cells of pictures stay; of texts the last positions.
    dropped = set(text[: max(0, len(text) - _LONGEST)].tolist())
    room = max(1, MOST // len(found.states))
    keep = [i for i in range(len(at)) if i not in dropped][-room:]
    at, table = at[keep], table[keep]
    names: dict[int, int] = {}

    def number(token: int) -> int:
        return names.setdefault(token, len(names))

    rows = [
        [number(token) if token >= 0 else -1, kind, y, x, image, position]
        for _, position, y, x, kind, token, image, _ in table.tolist()
    ]
    top = [[[number(t) for t in row] for row in state] for state in found.ids[:, at].tolist()]
    known = found.samples.get(sample, {})
    return {
        "sample": sample,
        "left": len(dropped),
        "rows": rows,
        "types": list(TOKEN_TYPES),
        "top": top,
        "p": (found.logprobs[:, at].exp() * 1000).round().int().tolist(),
        "entropy": _short(found.entropy[:, at]),
        "kl": None if found.kl is None else _short(found.kl[:, at]),
        "best": None if found.best is None else [number(t) for t in found.best[at].tolist()],
        "targets": [
            [
                _pairs(p, r)
                for p, r in zip(found.target_logprobs[:, at, t], found.target_ranks[:, at, t], strict=True)
            ]
            for t in range(len(found.target_names))
        ],
        "aims": [
            [number(int(i)) if i >= 0 else -1 for i in found.targets[at, t]]
            for t in range(len(found.target_names))
        ],
        "images": _images(table, known, pictures(sample) if pictures is not None else None),
        "names": [found.name(token) for token in names],
    }


def _short(x: torch.Tensor) -> list[list[float]]:
    return [[round(v, 3) for v in row] for row in x.tolist()]


def _pairs(logprobs: torch.Tensor, ranks: torch.Tensor) -> list[list[float] | None]:
    return [
        None if r < 0 else [float(f"{np.exp(p):.3g}"), r]
        for p, r in zip(logprobs.tolist(), ranks.tolist(), strict=True)
    ]


def _images(table: torch.Tensor, known: dict[str, Any], picture: Image.Image | None) -> list[dict[str, Any]]:
    """The tiles that rows are cells of; without a picture or its tile they are drawn as a bare grid."""
    cells = table[(table[:, 2] >= 0) & (table[:, 3] >= 0)]
    tiles, size = known.get("tiles") or [], known.get("size")
    uri = None if picture is None else picture_uri(picture)
    found = []
    for image in cells[:, 6].unique().tolist():
        own = cells[cells[:, 6] == image]
        grid = [int(own[:, 2].max()) + 1, int(own[:, 3].max()) + 1]
        matrix = inverse(tiles[image]["affine"]) if 0 <= image < len(tiles) and size is not None else None
        if matrix is None:
            width, height, matrix = grid[1], grid[0], (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)
            found.append({"image": image, "uri": None, "size": [width, height], "matrix": matrix})
        else:
            found.append({"image": image, "uri": uri, "size": list(size or ()), "matrix": matrix})
    return found
