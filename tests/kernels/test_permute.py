import numpy as np
import pytest

from mmxai.errors import ArgumentError
from mmxai.kernels import permute as module
from mmxai.kernels.permute import feistel
from tests.kernels.conformance import KernelTests

KEYS = np.random.default_rng(0).integers(0, 2**64, 4, dtype=np.uint64)


def half_of(n: int) -> int:
    return max(1, -(-(max(n, 2) - 1).bit_length() // 2))


class TestPermute(KernelTests):
    op = module.OP

    @staticmethod
    def cases():
        # 4**k needs no walking, 4**k + 1 the most; the large ones exceed 32 bits.
        for n in (0, 1, 2, 5, 16, 17, 255, 257, 4096, 4097, 70_001, 2**33 + 7, 2**62):
            for forward in (True, False):
                yield f"{n}-{'forward' if forward else 'inverse'}", (n, forward)

    def call(self, case, backend, device, poison):
        n, forward = case
        some = np.random.default_rng(1).integers(0, max(n, 1), 70_001 if n else 0).astype(np.uint64)
        return [feistel(some, n, half_of(n), KEYS, forward, backend=backend, threads=t) for t in (None, 1)]

    @pytest.mark.parametrize("n", [1, 2, 3, 100, 4097])
    def test_is_a_permutation_and_its_inverse(self, backend, n):
        there = feistel(np.arange(n, dtype=np.uint64), n, half_of(n), KEYS, True, backend=backend[0])
        assert sorted(there) == list(range(n))
        back = feistel(there.astype(np.uint64), n, half_of(n), KEYS, False, backend=backend[0])
        np.testing.assert_array_equal(back, np.arange(n))

    def test_strided_values(self, backend):
        wide = np.arange(200, dtype=np.uint64)
        got = feistel(wide[::2], 200, half_of(200), KEYS, True, backend=backend[0])
        np.testing.assert_array_equal(got, feistel(wide, 200, half_of(200), KEYS, True)[::2])


def test_bad_arguments():
    good = np.arange(5, dtype=np.uint64)
    for args in [
        (good.astype(np.int64), 5, 2, KEYS),
        (good.reshape(1, 5), 5, 2, KEYS),
        (good, 5, 2, KEYS[:3]),
        (good, 5, 1, KEYS),
        (good, 5, 32, KEYS),
        (good, 4, 1, KEYS),
        (good, -1, 1, KEYS),
    ]:
        with pytest.raises(ArgumentError, match="expected"):
            feistel(*args, True)
