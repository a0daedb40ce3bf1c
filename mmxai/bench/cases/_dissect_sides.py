"""The sides of case `dissect`: ours, dense torch, NetDissect's loop, and brute force.

Each counts, over some pictures, the pixels of every concept under every unit's mask, `[units, concepts + 1]`,
the last column being the masks' areas; thresholds are given.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from mmxai.bench.cases._dissect_data import Work
from mmxai.kernels.bilinear_counts import bilinear_counts
from mmxai.kernels.cell_labels import block_labels_of_all, cell_labels
from mmxai.kernels.mask_counts import mask_counts

BATCH = 50


class Ours:
    """A batch of pictures at a time, as they stream from a store."""

    def __init__(self, work: Work, device: str = "cpu"):
        self.work, self.device = work, device
        self.x = work.activations.to(device)
        self.thresholds = work.thresholds.to(device)

    def nearest(self, pictures: slice) -> torch.Tensor:
        work, counts = self.work, self._none()
        grid, whole = (work.grid, work.grid), [work.concepts]
        for part in _batches(pictures):
            cells = cell_labels(work.maps[part], work.cells, work.cells, grid, whole=whole)
            mask_counts(self.x[part].flatten(0, 1), self.thresholds, cells.to(self.device), counts)
        return counts

    def bilinear(self, pictures: slice) -> torch.Tensor:
        work, counts = self.work, self._none()
        grid, whole = (work.grid, work.grid), [work.concepts]
        for part in _batches(pictures):
            labels = block_labels_of_all(work.maps[part], work.positions, work.positions, grid, whole=whole)
            blocks = [b.to(self.device) for b in labels] if self.device != "cpu" else labels
            bilinear_counts(list(self.x[part]), self.thresholds, blocks, counts)
        return counts

    def _none(self) -> torch.Tensor:
        return torch.zeros((self.work.units, self.work.columns), dtype=torch.int64, device=self.device)


def _batches(pictures: slice) -> list[slice]:
    return [slice(a, min(a + BATCH, pictures.stop)) for a in range(pictures.start, pictures.stop, BATCH)]


class Dense:
    """Interpolate, compare, multiply with the one-hot maps of the labels present: picture by picture."""

    def __init__(self, work: Work, device: str = "cpu"):
        self.work, self.device = work, device
        grid = (work.grid, work.grid)
        self.x = work.activations.to(device)
        self.planes = self.x.transpose(1, 2).unflatten(2, grid)
        self.thresholds = work.thresholds.to(device)[:, None, None]

    def nearest(self, pictures: slice) -> torch.Tensor:
        return self._run(pictures, "nearest")

    def bilinear(self, pictures: slice) -> torch.Tensor:
        return self._run(pictures, "bilinear")

    def _run(self, pictures: slice, mode: str) -> torch.Tensor:
        work = self.work
        counts = torch.zeros((work.units, work.columns), dtype=torch.int64, device=self.device)
        for p in range(pictures.start, pictures.stop):
            # Contiguous before the clock would favour neither: a network's own maps are [units, y, x].
            up = F.interpolate(self.planes[p : p + 1].contiguous(), size=(work.size, work.size), mode=mode)[0]
            mask = (up > self.thresholds).flatten(1).float()
            maps = torch.from_numpy(work.maps[p]).to(self.device)
            present = maps.unique()
            present = present[present >= 0]
            onehot = (maps.flatten(1)[None] == present[:, None, None]).any(1).float()
            counts[:, present.long()] += (mask @ onehot.T).long()  # exact: fewer than 2^24 pixels
            counts[:, -1] += mask.sum(1).long()
        return counts


class Loop:
    """NetDissect's: unit by unit, where a unit's map is above its threshold anywhere, PIL's bilinear resize,
    the places above, and a count of the labels there: `tally_job` of NetDissect-Lite (Bau et al. 2017).
    """

    def __init__(self, work: Work):
        self.work = work
        self.planes = work.activations.transpose(1, 2).unflatten(2, (work.grid, work.grid))
        self.thresholds = work.thresholds.numpy()

    def bilinear(self, pictures: slice) -> torch.Tensor:
        work = self.work
        counts = np.zeros((work.units, work.columns), np.int64)
        for p in range(pictures.start, pictures.stop):
            pixels = work.maps[p] + 1  # 0: no label
            features = self.planes[p].contiguous().numpy()
            for unit in range(work.units):
                if features[unit].max() <= self.thresholds[unit]:
                    continue
                image = Image.fromarray(features[unit], mode="F")
                mask = np.asarray(image.resize((work.size, work.size), Image.Resampling.BILINEAR))
                indexes = np.argwhere(mask > self.thresholds[unit])
                counts[unit, -1] += len(indexes)
                under = pixels[:, indexes[:, 0], indexes[:, 1]].ravel()
                counts[unit, :-1] += np.bincount(under, minlength=work.columns)[1:]
        return torch.from_numpy(counts)


def brute_force(work: Work, pictures: slice, mode: str) -> torch.Tensor:
    """Float64, every unit, concept and pixel on its own: no product, no list of what is present."""
    counts = torch.zeros((work.units, work.columns), dtype=torch.int64)
    grid = (work.grid, work.grid)
    planes = work.activations[pictures].transpose(1, 2).unflatten(2, grid).double()
    maps = torch.from_numpy(work.maps[pictures])
    for x, layers in zip(planes, maps, strict=True):
        up = F.interpolate(x[None], size=(work.size, work.size), mode=mode)[0]
        mask = up > work.thresholds.double()[:, None, None]
        for concept in range(work.concepts):
            counts[:, concept] += mask[:, (layers == concept).any(0)].sum(1)
        counts[:, -1] += mask.sum((1, 2))
    return counts
