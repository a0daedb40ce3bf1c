"""Reads outlines back: SVG paths as polygons, and which points they hold."""

import re

import numpy as np


def polygons(path):
    """Of `M`, `h`, `v`, `l` and `z`: float64 `[n, 2]` (x, y) each."""
    made = []
    for part in path.split("z")[:-1]:
        points = []
        for letter, numbers in re.findall(r"([Mhvl])([^Mhvl]*)", part):
            values = [float(n) for n in re.findall(r"-?\d+", numbers)]
            if letter == "M":
                points.append(np.array(values))
            elif letter == "l":
                for step in np.array(values).reshape(-1, 2):
                    points.append(points[-1] + step)
            else:
                (n,) = values
                points.append(points[-1] + ([n, 0] if letter == "h" else [0, n]))
        made.append(np.array(points))
    return made


def area(path):
    """By the shoelace formula: holes, walked the other way round, take away."""
    total = 0.0
    for points in polygons(path):
        x, y = points.T
        total += (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2
    return total


def holds(path, points):
    """bool: whether each of the points `[..., 2]` (x, y) is inside, by crossings of a ray to the right."""
    x, y = points[..., 0], points[..., 1]
    inside = np.zeros(x.shape, bool)
    for corners in polygons(path):
        for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, 0), strict=True):
            if ay != by:
                crosses = (ay > y) != (by > y)
                inside ^= crosses & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    return inside


def cells(path, height, width):
    """bool `[h, w]`: which cells' middles are inside."""
    at = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1)
    return holds(path, at)
