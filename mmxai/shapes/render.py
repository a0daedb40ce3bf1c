"""Pictures from scenes, in integers only: exact coverage of 16 sample points a pixel.

A point is in a shape or not by integer arithmetic, the picture's anti-aliasing is the count of points,
and occlusion is which object has the point: nothing is rounded differently anywhere. Every object is
opaque; where its fill leaves a gap it shows its own near-white paper.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mmxai.shapes.scene import COLOUR, PALETTE, RED, SIDE, Scenes

_SAMPLES = 16  # a lattice with 16 different x and 16 different y, so that upright edges get 17 levels too
_STEP = 7
_LAST = next(s for s in range(_SAMPLES) if s * _STEP % _SAMPLES == _SAMPLES - 1)  # the lowest point
_BITS = SIDE.bit_length() - 1
_LATTICE = 128  # points a side on which areas and occlusion are counted, at every resolution alike


@njit(cache=True, nogil=True)
def _inside(shape: int, x: int, y: int, r: int, t: int) -> bool:
    """Is (x, y), relative to the centre, in the shape of radius r shrunk by t on all sides?"""
    ax = abs(x)
    if shape == 0:  # circle
        q = (r * 922 >> 10) - t
        return q > 0 and x * x + y * y <= q * q
    if shape == 1:  # square
        q = (r * 819 >> 10) - t
        return ax <= q and abs(y) <= q
    if shape == 2:  # triangle
        return y <= (r * 768 >> 10) - t and 887 * ax - 511 * y <= 460 * r - 1024 * t
    if shape == 3:  # diamond
        return 1024 * (ax + abs(y)) <= 1024 * r - 1448 * t
    if shape == 4:  # star: the nearest of the three tips (mirrored) decides the edge
        u0, u1, u2 = -1024 * y, 974 * ax - 316 * y, 602 * ax + 828 * y
        if u0 >= u1 and u0 >= u2:
            u, v = u0, 1024 * ax
        elif u1 >= u2:
            u, v = u1, abs(316 * ax + 974 * y)
        else:
            u, v = u2, abs(602 * y - 828 * ax)
        return 918 * (v >> 10) + 453 * (u >> 10) <= 453 * r - 1024 * t
    if shape == 5:  # cross
        long, wide, ay = (r * 973 >> 10) - t, (r * 358 >> 10) - t, abs(y)
        return wide > 0 and ((ax <= long and ay <= wide) or (ax <= wide and ay <= long))
    if shape == 6:  # heart: two circles, and the triangle under them to the tip
        q = (r * 512 >> 10) - t
        cx, cy = ax - (r * 481 >> 10), y + (r * 338 >> 10)
        if q > 0 and cx * cx + cy * cy <= q * q:
            return True
        return 754 * ax + 693 * y <= 638 * r - 1024 * t and cy >= 0 and (cx <= 0 or 754 * cy >= 693 * cx)
    # moon: a disc without another
    q, p = (r * 973 >> 10) - t, (r * 819 >> 10) + t
    ox, hx, hy = x - (r * 164 >> 10), x - (r * 624 >> 10), y + (r * 102 >> 10)
    return q > 0 and ox * ox + y * y <= q * q and hx * hx + hy * hy > p * p


@njit(cache=True, nogil=True)
def _inked(shape: int, fill: int, x: int, y: int, r: int) -> bool:
    """Is the point of an object in its colour, rather than its paper?"""
    if fill == 1:  # striped
        # Neither along the edges of a square nor of a diamond, which would look like other shapes.
        period = r * 1310 >> 10
        return (x + 2 * y + 64 * period + period * 3 // 10) % period < period * 3 // 5
    if fill == 2:  # dotted
        period, dot = r * 676 >> 10, r * 205 >> 10
        dx = (x + 64 * period + period // 2) % period - period // 2
        dy = (y + 64 * period + period // 2) % period - period // 2
        return dx * dx + dy * dy > dot * dot
    if fill == 3:  # outlined
        return not _inside(shape, x, y, r, r * 225 >> 10)
    return True


@njit(cache=True, nogil=True)
def _hash(word: np.uint64, k: int) -> np.int64:
    """SplitMix64 of a key and a counter: the low 10 bits."""
    z = word + np.uint64(k) * np.uint64(0xD1B54A32D192ED03)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64((z ^ (z >> np.uint64(31))) & np.uint64(1023))


@njit(cache=True, nogil=True)
def _ground(kind: int, direction: int, noise: np.ndarray, x: int, y: int) -> int:
    """Where between its two colours the background is at a point: 0..1024."""
    if kind == 0:
        return 0
    if kind == 1:
        right, down, back_x, back_y = x, y, SIDE - x, SIDE - y
        if direction == 0:
            return right >> 4
        if direction == 1:
            return (right + down) >> 5
        if direction == 2:
            return down >> 4
        if direction == 3:
            return (back_x + down) >> 5
        if direction == 4:
            return back_x >> 4
        if direction == 5:
            return (back_x + back_y) >> 5
        if direction == 6:
            return back_y >> 4
        return (right + back_y) >> 5
    # Noise: a 20 x 20 lattice of values, linear between them.
    u, v = x * 20, y * 20
    i, j, fx, fy = u >> _BITS, v >> _BITS, u & (SIDE - 1), v & (SIDE - 1)
    top = noise[j, i] * (SIDE - fx) + noise[j, i + 1] * fx
    low = noise[j + 1, i] * (SIDE - fx) + noise[j + 1, i + 1] * fx
    return (top * (SIDE - fy) + low * fy) >> (2 * _BITS)


@njit(cache=True, nogil=True)
def _paint(
    count: np.ndarray,
    things: np.ndarray,
    geometry: np.ndarray,
    inks: np.ndarray,
    ground: np.ndarray,
    noise_key: np.ndarray,
    size: int,
    images: np.ndarray,
    owners: np.ndarray,
) -> None:
    noise = np.zeros((22, 22), np.int64)
    mids = np.empty(size, np.int64)
    xs, ys = np.empty((size, _SAMPLES), np.int64), np.empty((size, _SAMPLES), np.int64)
    for p in range(size):
        mids[p] = (2 * p + 1) * SIDE // (2 * size)
        for s in range(_SAMPLES):
            xs[p, s] = (p * 2 * _SAMPLES + 2 * s + 1) * SIDE // (2 * _SAMPLES * size)
            ys[p, s] = (p * 2 * _SAMPLES + 2 * (s * _STEP % _SAMPLES) + 1) * SIDE // (2 * _SAMPLES * size)
    for n in range(len(count)):
        kind, direction = ground[n, 0], ground[n, 8]
        if kind == 2:
            for k in range(22 * 22):
                noise[k // 22, k % 22] = _hash(noise_key[n], k)
        for py in range(size):
            for px in range(size):
                w = _ground(kind, direction, noise, mids[px], mids[py])
                for c in range(3):
                    near, far = ground[n, 2 + c], ground[n, 5 + c]
                    images[n, py, px, c] = near + ((far - near) * w >> 10)
        if count[n]:
            _paint_objects(count[n], things[n], geometry[n], inks[n], xs, ys, images[n], owners[n])


@njit(cache=True, nogil=True)
def _paint_objects(
    count: int,
    things: np.ndarray,
    geometry: np.ndarray,
    inks: np.ndarray,
    xs: np.ndarray,
    ys: np.ndarray,
    image: np.ndarray,
    owners: np.ndarray,
) -> None:
    """Objects over a painted background: for each pixel the share of each ink, each paper, the ground."""
    size = len(xs)
    points = np.empty(_SAMPLES, np.int64)
    top = low = (geometry[0, 1]) * size // SIDE
    for k in range(count):
        top = min(top, (geometry[k, 1] - geometry[k, 2]) * size // SIDE)
        low = max(low, (geometry[k, 1] + geometry[k, 2]) * size // SIDE)
    for py in range(max(0, top), min(size - 1, low) + 1):
        for px in range(size):
            free = _SAMPLES
            red, green, blue = 0, 0, 0
            best, who = 0, 0
            for k in range(count - 1, -1, -1):
                x0, y0, r = geometry[k, 0], geometry[k, 1], geometry[k, 2]
                if xs[px, 0] > x0 + r or xs[px, _SAMPLES - 1] < x0 - r:
                    continue
                if ys[py, 0] > y0 + r or ys[py, _LAST] < y0 - r:
                    continue
                shape, fill = things[k, 0], things[k, 3]
                # The points still free are points[:free]; those that this object takes drop out.
                if free == _SAMPLES:
                    for s in range(_SAMPLES):
                        points[s] = s
                kept, inked, papered = 0, 0, 0
                for j in range(free):
                    s = points[j]
                    x, y = xs[px, s] - x0, ys[py, s] - y0
                    if not _inside(shape, x, y, r, 0):
                        points[kept] = s
                        kept += 1
                    elif fill == 0 or _inked(shape, fill, x, y, r):
                        inked += 1
                    else:
                        papered += 1
                free = kept
                red += inked * inks[k, 0, 0] + papered * inks[k, 1, 0]
                green += inked * inks[k, 0, 1] + papered * inks[k, 1, 1]
                blue += inked * inks[k, 0, 2] + papered * inks[k, 1, 2]
                if inked + papered > best:  # ties go to the front
                    best, who = inked + papered, k + 1
            if free == _SAMPLES:
                continue
            image[py, px, 0] = (red + free * np.int64(image[py, px, 0]) + _SAMPLES // 2) // _SAMPLES
            image[py, px, 1] = (green + free * np.int64(image[py, px, 1]) + _SAMPLES // 2) // _SAMPLES
            image[py, px, 2] = (blue + free * np.int64(image[py, px, 2]) + _SAMPLES // 2) // _SAMPLES
            owners[py, px] = who if best >= free else 0


@njit(cache=True, nogil=True)
def _measure(
    count: np.ndarray,
    things: np.ndarray,
    geometry: np.ndarray,
    area: np.ndarray,
    visible: np.ndarray,
    hidden: np.ndarray,
) -> None:
    for n in range(len(count)):
        objects = count[n]
        for k in range(objects):
            r = geometry[n, k, 2]
            x0, y0 = geometry[n, k, 0], geometry[n, k, 1]
            left, right = max(0, (x0 - r) * _LATTICE // SIDE), min(_LATTICE - 1, (x0 + r) * _LATTICE // SIDE)
            top, low = max(0, (y0 - r) * _LATTICE // SIDE), min(_LATTICE - 1, (y0 + r) * _LATTICE // SIDE)
            for j in range(top, low + 1):
                y = (2 * j + 1) * SIDE // (2 * _LATTICE)
                for i in range(left, right + 1):
                    x = (2 * i + 1) * SIDE // (2 * _LATTICE)
                    if not _inside(things[n, k, 0], x - x0, y - y0, r, 0):
                        continue
                    area[n, k] += 1
                    clear = True
                    for m in range(objects - 1, k, -1):
                        dx, dy, q = x - geometry[n, m, 0], y - geometry[n, m, 1], geometry[n, m, 2]
                        if abs(dx) <= q and abs(dy) <= q and _inside(things[n, m, 0], dx, dy, q, 0):
                            if clear:
                                hidden[n, k, m] += 1
                            clear = False
                    visible[n, k] += clear


def paint(scenes: Scenes, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 `[N, size, size, 3]` and owners uint8 `[N, size, size]`.

    An owner is 0 for the background, k + 1 for object k, whichever has most of the pixel.
    """
    n = len(scenes)
    images, owners = np.empty((n, size, size, 3), np.uint8), np.zeros((n, size, size), np.uint8)
    colours = (PALETTE[scenes.things[..., COLOUR]] + scenes.things[..., RED:]).astype(np.int64)
    inks = np.stack([colours, (255 * 4 + colours) // 5], axis=2)  # colour, paper
    _paint(
        scenes.count.astype(np.int64), scenes.things.astype(np.int64), scenes.geometry().astype(np.int64),
        inks, scenes.ground.astype(np.int64), scenes.noise, size, images, owners,
    )  # fmt: skip
    return images, owners


def measure(scenes: Scenes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of a 128 x 128 lattice: area int64 `[N, 3]`, visible `[N, 3]`, hidden by `[N, 3, 3]`.

    `hidden[n, a, b]`: points of object a whose frontmost cover is object b.
    """
    n = len(scenes)
    area, visible = np.zeros((n, 3), np.int64), np.zeros((n, 3), np.int64)
    hidden = np.zeros((n, 3, 3), np.int64)
    things, geometry = scenes.things.astype(np.int64), scenes.geometry().astype(np.int64)
    _measure(scenes.count.astype(np.int64), things, geometry, area, visible, hidden)
    return area, visible, hidden
