"""The lens as a map over a picture: what each cell of its grid says, in pixels of the original."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmxai.errors import ArgumentError
from mmxai.models.geometry import pixel_cells

if TYPE_CHECKING:
    from mmxai.methods.lens.results import LensResult


@dataclass(frozen=True)
class PictureMap:
    """A tile of a sample's picture, `[S, h, w]` cells of every state.

    ids int32 (-1: no row there) and probability float32: of what comes first; entropy; targets float32
    `[T, S, h, w]`, the probability of each. tile: affine and grid; size: of the original, (W, H); None where
    the source did not say.
    """

    sample: int
    image: int
    states: list[str]
    ids: np.ndarray
    probability: np.ndarray
    entropy: np.ndarray
    targets: np.ndarray
    tile: dict[str, Any] | None
    size: tuple[int, int] | None

    def pixels(self, values: np.ndarray) -> np.ndarray:
        """Values `[..., h, w]` of cells as `[..., H, W]`, one for each pixel of the original; NaN where the
        model saw nothing."""
        if self.tile is None or self.size is None:
            raise ArgumentError("lens: got a picture of which no tile is known, expected one that was read")
        width, height = self.size
        y, x = pixel_cells(self.tile, self.size, (height, width))
        found = values.astype(np.float32)[..., y[:, None], x[None]]
        return np.where((y[:, None] >= 0) & (x[None] >= 0), found, np.nan)


def images_of(result: LensResult, sample: int) -> list[int]:
    """Which tiles of a sample have cells among the rows."""
    rows = result.rows[result.of_sample(sample)]
    return sorted({int(i) for i in rows[(rows[:, 2] >= 0) & (rows[:, 3] >= 0)][:, 6]})


def picture_map(result: LensResult, sample: int, image: int = 0) -> PictureMap:
    """The map of one tile of a sample. ArgumentError where it has no cells among the rows."""
    at = result.of_sample(sample)
    rows = result.rows[at].numpy()
    kept = (rows[:, 6] == image) & (rows[:, 2] >= 0) & (rows[:, 3] >= 0)
    if not kept.any():
        raise ArgumentError(
            f"lens: got image {image} of sample {sample}, expected one of {images_of(result, sample)}"
        )
    at, y, x = at[kept], rows[kept, 2], rows[kept, 3]
    known = result.samples.get(sample, {})
    tiles = known.get("tiles") or []
    tile = tiles[image] if image < len(tiles) else None
    height, width = tile["grid"] if tile is not None else (int(y.max()) + 1, int(x.max()) + 1)
    count, asked = len(result.states), len(result.target_names)
    ids = np.full((count, height, width), -1, np.int32)
    probability, entropy = np.full((2, count, height, width), np.nan, np.float32)
    targets = np.full((asked, count, height, width), np.nan, np.float32)
    ids[:, y, x] = result.ids[:, at, 0].numpy()
    probability[:, y, x] = result.logprobs[:, at, 0].exp().numpy()
    entropy[:, y, x] = result.entropy[:, at].numpy()
    targets[:, :, y, x] = result.target_logprobs[:, at].exp().permute(2, 0, 1).numpy()
    size = known.get("size")
    return PictureMap(
        sample, image, result.states, ids, probability, entropy, targets, tile,
        None if size is None else (int(size[0]), int(size[1])),
    )  # fmt: skip
