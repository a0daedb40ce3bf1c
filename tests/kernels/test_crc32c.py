import ml_dtypes
import numpy as np
import pytest

from mmxai.errors import ArgumentError
from mmxai.kernels import crc32c as module
from mmxai.kernels.crc32c import crc32c, crc32c_chunks
from tests.kernels.conformance import KernelTests

DATA = np.random.default_rng(0).integers(0, 256, 200_003, dtype=np.uint8)


class TestCrc32c(KernelTests):
    op = module.OP

    @staticmethod
    def cases():
        # Around the widths the implementations work in: words, the tripled streams of 256 and 8192 bytes.
        for length in (0, 1, 7, 8, 9, 255, 767, 768, 769, 24_575, 24_576, 24_577, 200_000):
            for offset in (0, 3):
                yield f"{length}@{offset}", (DATA[offset : offset + length], 0xDEADBEEF)

    def call(self, case, backend, device, poison):
        data, value = case
        return [
            np.array(crc32c(data, value, backend=backend)),
            crc32c_chunks(data, 4097, backend=backend),
            crc32c_chunks(data, 4097, threads=1, backend=backend),
        ]

    @pytest.mark.parametrize(
        ("data", "checksum"),
        [
            (b"\x00" * 32, 0x8A9136AA),
            (b"\xff" * 32, 0x62A8AB43),
            (bytes(range(32)), 0x46DD794E),
            (bytes(range(31, -1, -1)), 0x113FDB5C),
            (b"123456789", 0xE3069283),
        ],
    )
    def test_vectors_of_rfc_3720(self, backend, data, checksum):
        assert crc32c(data, backend=backend[0]) == checksum

    def test_continues(self, backend):
        whole = crc32c(DATA, backend=backend[0])
        assert crc32c(DATA[70_001:], crc32c(DATA[:70_001], backend=backend[0]), backend=backend[0]) == whole


def test_any_buffer():
    floats = np.arange(24, dtype=np.float32).reshape(4, 6)
    expected = crc32c(floats.tobytes())
    assert crc32c(floats) == crc32c(memoryview(floats)) == crc32c(bytearray(floats.tobytes())) == expected
    brain = floats.astype(ml_dtypes.bfloat16)
    assert crc32c(brain) == crc32c(brain.tobytes())
    assert crc32c(np.float32(1).reshape(())) == crc32c(np.float32(1).tobytes())
    assert crc32c(np.empty((0, 5))) == 0
    assert crc32c_chunks(b"", 16).shape == (0,)


@pytest.mark.parametrize("data", [DATA[::2], memoryview(DATA)[::2], "text", 5, None])
def test_not_a_contiguous_buffer(data):
    with pytest.raises(ArgumentError, match="expected"):
        crc32c(data)


def test_bad_numbers():
    with pytest.raises(ArgumentError, match="value -1"):
        crc32c(b"", -1)
    with pytest.raises(ArgumentError, match="chunk_bytes 0"):
        crc32c_chunks(b"", 0)
    with pytest.raises(ArgumentError, match="threads: got 0"):
        crc32c_chunks(b"", 1, threads=0)
