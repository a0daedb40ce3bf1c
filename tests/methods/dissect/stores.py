"""A store of small pictures of different sizes, each in two tiles with a class token, and label maps for
them."""

import math

import numpy as np
import torch

from mmxai.concepts import Concept, Concepts, ImageLabels
from mmxai.store import create_store
from mmxai.types import TOKEN_CODES, Rows

SITE, GRID, CLASSES, CATEGORIES = "vision.1.mlp_post", (3, 4), 9, ("colour", "thing", "scene")
SIZES = ((40, 30), (32, 32), (21, 50))
MAPS = ((24, 24), (17, 23), (30, 12))


def tiles(size):
    """The middle of the picture in 3 x 4 cells, its sides cut off; and all of it, with cells of padding
    below."""
    width, height = size
    crop = {"affine": [5 / width, 0, -0.5, 0, 3 / height, 0], "grid": list(GRID)}
    padded = {"affine": [4 / width, 0, 0, 0, 1.7 / height, 0.1], "grid": list(GRID)}
    return [crop, padded]


class Maps(Concepts):
    """Random blobs: two layers, of which the second is of things alone; a scene of some; one picture
    unknown."""

    about, licence = "random blobs", "none needed"
    unknown = (4,)

    def __init__(self, pictures, seed=0):
        draw = np.random.default_rng(seed)
        names = [("colour", 3), ("thing", 4), ("scene", 2)]
        self.concepts = tuple(
            Concept(f"{category} {k}", category, number)
            for number, (category, k) in enumerate((c, k) for c, n in names for k in range(n))
        )
        self.categories = CATEGORIES
        self.held = []
        for i in range(pictures):
            h, w = MAPS[i % 3]
            coarse = draw.integers(-1, 3, (1, 4, 4))
            things = draw.integers(-6, 4, (1, 6, 6))
            things = np.where(things >= 0, things + 3, -1)
            # A colour may be repeated as a further layer's thing: overlapping masks.
            layers = [_stretch(x, h, w) for x in (coarse, things)]
            maps = np.concatenate(layers).astype(np.int32)
            annotated = np.array([True, i % 2 == 0, i % 3 == 0])
            if not annotated[1]:
                maps[1] = -1
            whole = np.array([7] if annotated[2] else [], np.int64)
            self.held.append(ImageLabels(maps, whole, annotated))

    @property
    def identity(self):
        return {"source": "random", "pictures": len(self.held)}

    def labels(self, sample):
        return None if sample in self.unknown else self.held[sample]


def _stretch(x, h, w):
    rows, cols = np.arange(h) * x.shape[1] // h, np.arange(w) * x.shape[2] // w
    return x[:, rows][:, :, cols]


def make(path, pictures=12, units=10, seed=0, part=5, dtype="float32", site=SITE, **options):
    """Returns the values as they were given, float32 `[pictures, 2, cells, units]`. Unit 0 is 0, unit 1 only
    rarely is not, unit 2 is concept 3 cell by cell (roughly), the rest is noise; unit 3 ties at its top."""
    draw = torch.Generator().manual_seed(seed)
    cells = GRID[0] * GRID[1]
    x = torch.randn(pictures, 2, cells, units, generator=draw)
    x[..., 0] = 0
    x[..., 1] = torch.where(torch.rand(x.shape[:3], generator=draw) < 0.02, x[..., 1].abs(), 0)
    x[..., 3] = x[..., 3].round()
    for i, labels in enumerate(Maps(pictures).held):
        for t, tile in enumerate(tiles(SIZES[i % 3])):
            share = covered(tile, SIZES[i % 3], labels, 3)
            x[i, t, :, 2] = torch.from_numpy(share).float().ravel() + 0.05 * x[i, t, :, 2]
    x = x.to(torch.bfloat16).float()
    place = torch.arange(-1, cells)
    patch = (place >= 0).repeat(2 * pictures)
    cell = place.repeat(2 * pictures).clamp(min=0)
    rows = Rows.make(
        sample=torch.arange(pictures).repeat_interleave(2 * (cells + 1)),
        position=place.repeat(2 * pictures) + 1,
        image=torch.arange(2).repeat_interleave(cells + 1).repeat(pictures),
        y=torch.where(patch, cell // GRID[1], -1), x=torch.where(patch, cell % GRID[1], -1),
        token_type=torch.where(patch, TOKEN_CODES["patch"], TOKEN_CODES["cls"]),
    )  # fmt: skip
    stored = [
        {"key": f"p{i}", "size": list(SIZES[i % 3]), "tiles": tiles(SIZES[i % 3])} for i in range(pictures)
    ]
    held = torch.cat([torch.full((pictures, 2, 1, units), 100.0), x], 2).reshape(-1, units)
    with create_store(
        path, {site: units}, dtype=dtype, samples_per_part=part, durable=False, **options
    ) as writer:
        writer.write(stored, {site: held}, rows)
    return x.numpy()


def covered(tile, size, labels, concept):
    """Share of the pixels of each cell that a concept has, float64 `[h, w]`, pixel by pixel."""
    out, seen = np.zeros(GRID), np.zeros(GRID)
    for y, x, py, px in pixels(tile, size, labels.shape):
        seen[y, x] += 1
        out[y, x] += (labels.maps[:, py, px] == concept).any() or concept in labels.whole
    return out / np.maximum(seen, 1)


def pixels(tile, size, shape):
    """(cell y, cell x, map row, map column) of every pixel that the tile sees."""
    a, _, c, _, e, f = tile["affine"]
    for py in range(shape[0]):
        for px in range(shape[1]):
            gx = a * (px + 0.5) * size[0] / shape[1] + c
            gy = e * (py + 0.5) * size[1] / shape[0] + f
            x, y = math.floor(gx + 1e-9), math.floor(gy + 1e-9)  # on an edge: the cell after it
            if 0 <= x < tile["grid"][1] and 0 <= y < tile["grid"][0]:
                yield y, x, py, px


def interpolated(grid, gy, gx):
    """Between the centres of cells, those of the border going on: float32, as F.interpolate does."""
    h, w = grid.shape[:2]
    y, x = min(max(gy - 0.5, 0), h - 1), min(max(gx - 0.5, 0), w - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
    wy, wx = np.float32(y - y0), np.float32(x - x0)
    top = grid[y0, x0] + wx * (grid[y0, x1] - grid[y0, x0])
    bottom = grid[y1, x0] + wx * (grid[y1, x1] - grid[y1, x0])
    return top + wy * (bottom - top)


def brute(x, concepts, threshold, samples=None, mode="nearest", labels=None):
    """Counts, one pixel after another: dict of inter `[U, C]`, unit `[U]`, unit_in `[U, K]`, truth `[C]`,
    pixels, pixels_in `[K]`; and `values`, float32 `[pixels, U]` with `have`, bool `[pixels, C + K]`.
    `labels`: sample -> the sample whose labels it has."""
    units, c, k = x.shape[-1], len(concepts), len(concepts.categories)
    values, masks, have = [], [], []
    for i in range(len(x)) if samples is None else samples:
        held = concepts.labels(i if labels is None else labels(i))
        if held is None:
            continue
        size = SIZES[i % 3]
        for t, tile in enumerate(tiles(size)):
            grid = x[i, t].reshape(*GRID, units)
            a, _, cc, _, e, f = tile["affine"]
            for y, xx, py, px in pixels(tile, size, held.shape):
                own = grid[y, xx]
                if mode == "bilinear":
                    gx = a * (px + 0.5) * size[0] / held.shape[1] + cc
                    gy = e * (py + 0.5) * size[1] / held.shape[0] + f
                    masks.append(interpolated(grid, gy, gx) > threshold)
                else:
                    masks.append(own > threshold)
                there = np.zeros(c + k, bool)
                there[[n for n in held.maps[:, py, px] if n >= 0]] = True
                there[held.whole] = True
                there[c:] = held.annotated
                values.append(own)
                have.append(there)
    values, masks, have = np.array(values), np.array(masks), np.array(have)
    both = masks.T.astype(np.int64) @ have.astype(np.int64)
    return {
        "inter": both[:, :c], "unit": masks.sum(0), "unit_in": both[:, c:], "truth": have[:, :c].sum(0),
        "pixels": len(values), "pixels_in": have[:, c:].sum(0), "values": values, "have": have,
        "masks": masks,
    }  # fmt: skip
