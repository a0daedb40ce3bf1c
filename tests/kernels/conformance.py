"""What every op on every backend must do. A new op subclasses `KernelTests`."""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from mmxai.errors import BackendError
from mmxai.kernels import status
from mmxai.kernels._dispatch import Op
from mmxai.kernels.codes import Codes


class KernelTests:
    """`cases()` yields (name, arguments); `call` runs the op on them and returns its outputs as arrays.

    `call` fills outputs with NaN (or a pattern) first, so that an element that is not written is seen.
    """

    op: ClassVar[Op]

    @staticmethod
    def cases() -> Iterator[tuple[str, Any]]:
        raise NotImplementedError

    def call(self, case: Any, backend: str, device: str, poison: int) -> list[np.ndarray]:
        raise NotImplementedError

    def test_equals_the_reference_bit_for_bit(self, backend, case):
        expected = self.call(case, "reference", "cpu", poison=0)
        for poison in (0, 1):
            for got, want in zip(self.call(case, *backend, poison), expected, strict=True):
                assert got.dtype == want.dtype
                np.testing.assert_array_equal(as_bits(got), as_bits(want))

    def test_status_names_one_choice_for_the_cpu(self):
        lines = [s for s in status() if s.op == self.op.name and s.device == "cpu"]
        assert sum(s.selected for s in lines) == 1
        assert all((s.reason is None) == s.available for s in lines)

    def test_unknown_backend(self):
        with pytest.raises(BackendError, match=f"there are {', '.join(self.op.backends('cpu'))}"):
            self.op.pick("abacus", "cpu")


class SumTests(KernelTests):
    """Ops that add floats: near the reference, and the same bits whatever the number of threads.

    `call` takes `threads` as well, and its arguments' magnitudes are near 1.
    """

    tolerance: ClassVar[float] = 2e-6
    """Relative to the largest value of an output."""

    def call(self, case: Any, backend: str, device: str, poison: int, threads: int = 1) -> list[np.ndarray]:
        raise NotImplementedError

    def test_equals_the_reference_bit_for_bit(self, backend, case):
        expected = self.call(case, "reference", "cpu", poison=0)
        first = self.call(case, *backend, poison=0)
        for got, want in zip(first, expected, strict=True):
            assert got.dtype == want.dtype and got.shape == want.shape
            size = np.abs(want).max(initial=1e-6)
            np.testing.assert_allclose(got, want, rtol=0, atol=self.tolerance * size)
        for poison, threads in ((1, 1), (0, 3)):
            for got, want in zip(self.call(case, *backend, poison, threads), first, strict=True):
                np.testing.assert_array_equal(as_bits(got), as_bits(want))


def codes(rows: int, latents: int, density: float, seed: int = 0, fixed: int | None = None) -> Codes:
    """Random codes, in random order within a row; some rows have none, and some values are 0."""
    g = torch.Generator().manual_seed(seed)
    if fixed is not None:
        indices = torch.rand(rows, latents, generator=g).argsort(1)[:, :fixed]
        return Codes.fixed(torch.rand(rows, fixed, generator=g), indices.int(), latents)
    held = torch.rand(rows, latents, generator=g) < density
    held[rows // 2] = False
    counts, order = held.sum(1), torch.rand(rows, latents, generator=g).masked_fill(~held, 2).argsort(1)
    indices = torch.cat([o[:n] for o, n in zip(order, counts.tolist(), strict=True)])
    values = torch.randn(len(indices), generator=g)
    values[::7] = 0
    return Codes(
        values, indices.int(), torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]), latents
    )


def as_bits(x: np.ndarray) -> np.ndarray:
    return x.view(np.uint32) if x.dtype == np.float32 else x


def numbers(x: torch.Tensor) -> np.ndarray:
    """A tensor of any dtype as unsigned bits."""
    x = x.detach().cpu().contiguous()
    return x.view({4: torch.uint32, 2: torch.uint16}[x.dtype.itemsize]).numpy()


def poisoned(shape: tuple[int, ...], dtype: torch.dtype, poison: int) -> torch.Tensor:
    """NaN everywhere (-1 for integers); `poison` 1 gives other bits than 0, so that no value hides it."""
    bits = torch.full(shape, (-1, -2)[poison], dtype={4: torch.int32, 2: torch.int16}[dtype.itemsize])
    return bits.view(dtype)


SPECIAL_F32 = np.array(
    [
        0x00000000, 0x80000000, 0x3F800000, 0xBF800000,  # zeros, ones
        0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00000,  # infinities, quiet NaNs
        0x7F800001, 0xFF800001, 0x7FBFFFFF, 0xFFFFFFFF, 0x7FC12345, 0x7FA5A5A5,  # signalling NaNs, payloads
        0x00000001, 0x80000001, 0x007FFFFF, 0x00800000, 0x807FFFFF, 0x00010000, 0x00008000,  # denormals
        0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF,  # bfloat16 ties and neighbours
        0x3F801000, 0x3F803000, 0x3F801001, 0x3F800FFF,  # float16 ties and neighbours
        0x7F7FFFFF, 0xFF7FFFFF, 0x7F7F8000, 0x7F7F7FFF, 0x7F7F0000,  # edge of bfloat16
        0x477FE000, 0x477FEFFF, 0x477FF000, 0xC77FF000, 0x47800000, 0x7F000000,  # edge of float16
        0x38800000, 0x387FFFFF, 0x387FE000, 0x387FC000, 0x33800000, 0x33000000, 0x33000001,  # denormals
    ],
    np.uint32,
)  # fmt: skip
"""Bits of float32 values at which conversions go wrong."""


def values(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Random bits, i.e. every kind of value, and all of the special ones where there is room."""
    rng = np.random.default_rng(seed)
    count = int(np.prod(shape))
    if dtype == torch.float32:
        bits = rng.integers(0, 2**32, count, dtype=np.uint32)
        half = rng.normal(0, 3, count).astype(np.float32).view(np.uint32)
        bits = np.where(rng.random(count) < 0.5, bits, half)
        bits[: len(SPECIAL_F32)] = SPECIAL_F32[:count]
        return torch.from_numpy(bits).view(dtype).reshape(shape)
    bits = rng.integers(0, 2**16, count, dtype=np.uint16)
    return torch.from_numpy(bits).view(dtype).reshape(shape)
