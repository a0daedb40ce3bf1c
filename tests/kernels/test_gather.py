import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.kernels import gather as module
from mmxai.kernels.gather import STORED, PartTable, gather
from tests.kernels.conformance import KernelTests, numbers, poisoned, values

LAYOUTS = {"one": [50], "several": [0, 20, 1, 0, 29, 0], "many": [1] * 12 + [38]}
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.int32]


def table_of(lengths, width, dtype):
    held = values((sum(lengths), width), torch.float32 if dtype.itemsize == 4 else dtype)
    array = numbers(held).view(STORED[dtype])
    return PartTable(np.split(array, np.cumsum(lengths)[:-1]), dtype)


class TestGather(KernelTests):
    op = module.OP

    @staticmethod
    def cases():
        rng = np.random.default_rng(0)
        rows = {
            "random": rng.integers(0, 50, 200),
            "slice": np.arange(3, 47),
            "runs": np.concatenate([np.arange(10, 30), [5, 5], np.arange(50), [49, 0]]),
            "none": np.empty(0, np.int64),
        }
        for layout in LAYOUTS:
            for kind, some in rows.items():
                for dtype in DTYPES:
                    yield f"{layout}-{kind}-{str(dtype)[6:]}", (layout, some, dtype, dtype)
                    if dtype.itemsize == 2:
                        yield (
                            f"{layout}-{kind}-{str(dtype)[6:]}-widened",
                            (layout, some, dtype, torch.float32),
                        )

    def call(self, case, backend, device, poison):
        layout, rows, dtype, out_dtype = case
        outputs = []
        for width in (1, 33, 400):
            for threads in (1, 2):
                out = poisoned((len(rows), width), out_dtype, poison)
                gather(table_of(LAYOUTS[layout], width, dtype), rows, out, threads=threads, backend=backend)
                outputs.append(numbers(out))
        return outputs

    @pytest.mark.parametrize("out_dtype", [torch.bfloat16, torch.float32])
    def test_long_runs_over_threads(self, backend, out_dtype):
        """Runs long enough to be copied as blocks, cut by parts and by the threads' slices."""
        table = table_of([700, 1, 2000], 400, torch.bfloat16)
        rows = np.concatenate([np.arange(2701), [3], np.arange(600, 800), np.arange(2701)[::-1]])
        got, want = (poisoned((len(rows), 400), out_dtype, 0) for _ in range(2))
        gather(table, rows, got, threads=2, backend=backend[0])
        gather(table, rows, want, backend="reference")
        np.testing.assert_array_equal(numbers(got), numbers(want))

    def test_offsets_past_4_gib(self, backend, tmp_path):
        length, width = 1_200_000, 1024  # a sparse file of 4.9 GB
        np.memmap(tmp_path / "part", np.float32, "w+", shape=(length, width))[length - 1] = 7
        table = PartTable(
            [np.memmap(tmp_path / "part", np.float32, "r", shape=(length, width))], torch.float32
        )
        out = torch.empty(3, width)
        gather(table, np.array([length - 1, 0, length - 2]), out, backend=backend[0])
        assert out[:, 5].tolist() == [7, 0, 0]


def test_table():
    table = table_of([2, 0, 3], 4, torch.bfloat16)
    assert (len(table), table.width, table.starts.tolist()) == (5, 4, [0, 2, 2, 5])
    empty = PartTable([], torch.float32, width=3)
    gather(empty, np.empty(0, np.int64), torch.empty(0, 3))


@pytest.mark.parametrize(
    ("parts", "dtype"),
    [
        ([np.zeros((2, 3), np.float32)], torch.bfloat16),
        ([np.zeros((2, 3), np.float64)], torch.float64),
        ([np.zeros(3, np.float32)], torch.float32),
        ([np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32)], torch.float32),
        ([np.zeros((4, 3), np.float32)[::2]], torch.float32),
        ([], torch.float32),
    ],
)
def test_bad_tables(parts, dtype):
    with pytest.raises(ArgumentError, match="table"):
        PartTable(parts, dtype)


@pytest.mark.parametrize(
    ("rows", "out"),
    [
        ([0, 1], torch.empty(2, 3)),
        (np.array([0, 1], np.int32), torch.empty(2, 3)),
        (np.array([[0, 1]]), torch.empty(2, 3)),
        (np.array([0, 5]), torch.empty(2, 3)),
        (np.array([0, -1]), torch.empty(2, 3)),
        (np.array([0, 1]), torch.empty(3, 3)),
        (np.array([0, 1]), torch.empty(2, 4)),
        (np.array([0, 1]), torch.empty(2, 3, dtype=torch.bfloat16)),
        (np.array([0, 1]), torch.empty(3, 2).T),
        (np.array([0, 1]), torch.empty(2, 3, device="meta")),
    ],
)
def test_bad_arguments(rows, out):
    table = PartTable([np.zeros((5, 3), np.float32)], torch.float32)
    with pytest.raises(ArgumentError, match="expected"):
        gather(table, rows, out)


def test_many_callers_at_once():
    table = table_of([900], 1000, torch.bfloat16)
    draws = [np.random.default_rng(seed).integers(0, 900, 1500) for seed in range(8)]
    want = [numbers(torch.from_numpy(table.parts[0][rows])) for rows in draws]

    def call(i):
        out = poisoned((1500, 1000), torch.bfloat16, 0)
        gather(table, draws[i % 8], out, threads=1 + i % 4)
        return np.array_equal(numbers(out), want[i % 8])

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(call, range(200)))


def _gather_with_threads(table):
    rows = np.random.default_rng(0).integers(0, len(table), 9000)  # 4.6 MB: enough for helpers to be called
    gather(table, rows, torch.empty(len(rows), table.width, dtype=table.dtype), threads=2)


def test_a_forked_child_does_not_wait_for_threads_it_has_not_got():
    table = table_of([500], 256, torch.bfloat16)
    _gather_with_threads(table)  # now this process has a pool
    child = multiprocessing.get_context("fork").Process(target=_gather_with_threads, args=(table,))
    child.start()
    child.join(30)
    if child.is_alive():
        child.kill()
    assert child.exitcode == 0
