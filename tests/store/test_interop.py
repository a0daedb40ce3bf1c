"""Every dtype, bit for bit, through zarr-python, zarrs, TensorStore and a memory map."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
import zarr

import mmxai
from mmxai.store import Plan, SiteSpec, StoreWriter, layout, read_commits

ROOT = Path(__file__).resolve().parents[2]
SPECIAL = {
    # NaN payloads quiet and signalling, negative NaN, -0, infinities, denormals, the largest finite.
    "bfloat16": [0x7FC0, 0x7FC1, 0x7F81, 0xFFFF, 0x8000, 0x7F80, 0xFF80, 0x0001, 0x7F7F],
    "float16": [0x7E00, 0x7E01, 0x7C01, 0xFFFF, 0x8000, 0x7C00, 0xFC00, 0x0001, 0x7BFF],
    "float32": [0x7FC00000, 0x7FC00001, 0x7F800001, 0xFFFFFFFF, 0x80000000, 0x7F800000, 0xFF800000, 1],
}
# Part 0 full, part 1 short (absent trailing chunks), part 2 empty, part 3 one row.
ROWS = (4096, 700, 0, 1)
WIDTH = 300
UINT = {2: np.uint16, 4: np.uint32}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """A store with every dtype, and per array the bits a Zarr reader must see."""
    path = tmp_path_factory.mktemp("interop") / "a.zarr"
    sites = tuple(SiteSpec(f"module:{d}", WIDTH, d, "rows") for d in layout.FLOAT_DTYPES)
    plan = Plan(4, 1, "sequential", 0, sites, {"rows": max(ROWS)})
    expected = {
        name: np.tile(layout.padding(1, a.width, a.dtype), (4 * a.capacity, 1))
        for name, a in plan.arrays.items()
    }
    rng = np.random.default_rng(0)
    with StoreWriter.open(path, plan) as writer:
        for part in writer.todo():
            n, at = ROWS[part], part * plan.capacity("rows")
            acts = {}
            for site in sites:
                kind = UINT[layout.ITEM_BYTES[site.dtype]]
                bits = rng.integers(0, np.iinfo(kind).max, (n, WIDTH), kind, endpoint=True)
                bits.reshape(-1)[: len(SPECIAL[site.dtype])] = SPECIAL[site.dtype][: bits.size]
                signed = bits.view(np.int32 if kind is np.uint32 else np.int16)
                acts[site.name] = torch.from_numpy(signed).view(getattr(torch, site.dtype))
                expected[site.name][at : at + n] = bits
            table = rng.integers(-1, 1 << 30, (n, 8), np.int32)
            expected["rows/rows"][at : at + n] = table.view(np.uint32)
            with writer.part(part) as attempt:
                attempt.write("rows", torch.from_numpy(table), acts)
                assert attempt.commit([{"sample": part, "key": str(part), "hash": "0"}])
    return path, expected


def bits_of(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).view(UINT[array.dtype.itemsize])


@pytest.mark.parametrize(
    "pipeline", ["zarr.core.codec_pipeline.BatchedCodecPipeline", "zarrs.ZarrsCodecPipeline"]
)
def test_zarr_python_and_zarrs_read_every_bit(
    store: tuple[Path, dict[str, np.ndarray]], pipeline: str
) -> None:
    if pipeline.startswith("zarrs"):
        pytest.importorskip("zarrs")
    path, expected = store
    with zarr.config.set({"codec_pipeline.path": pipeline}), warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open(path, mode="r")
        assert dict(group.members(max_depth=None)).keys() == {*expected, "rows", "mmxai"}
        for name, bits in expected.items():
            np.testing.assert_array_equal(bits_of(group[name][:]), bits)
            rows = slice(layout_rows(bits) - 3, layout_rows(bits) + 5)
            np.testing.assert_array_equal(bits_of(group[name][rows]), bits[rows])
        assert group.attrs["mmxai"]["plan"] == read_commits(path).plan.hash


def layout_rows(bits: np.ndarray) -> int:
    """Rows a part, of four."""
    return len(bits) // 4


def test_tensorstore_reads_every_bit(store: tuple[Path, dict[str, np.ndarray]]) -> None:
    tensorstore = pytest.importorskip("tensorstore")
    path, expected = store
    for name, bits in expected.items():
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / name)}}
        array = tensorstore.open(spec, read=True, open=True).result()
        assert array.domain.labels[0] == "row"
        np.testing.assert_array_equal(bits_of(array.read().result()), bits)


def test_a_shard_is_a_memory_map(store: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, expected = store
    for name, bits in expected.items():
        capacity = layout_rows(bits)
        for part, rows in enumerate(ROWS):
            file = path / name / f"c.{part}.0"
            if rows:
                found = np.memmap(file, bits.dtype, "r", shape=(rows, bits.shape[1]))
                np.testing.assert_array_equal(found, bits[part * capacity :][:rows])
            assert file.stat().st_size == read_commits(path).plan.arrays[name].file_bytes(rows)


def test_zarr_python_writes_and_reads_bfloat16(tmp_path: Path) -> None:
    array = zarr.create_array(
        tmp_path / "x", shape=(5, 3), chunks=(2, 3), dtype=ml_dtypes.bfloat16, fill_value=np.nan
    )
    array[1] = np.array([1, -0.0, np.inf], ml_dtypes.bfloat16)
    again = zarr.open_array(tmp_path / "x", mode="r")
    assert again.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(bits_of(again[1]), [0x3F80, 0x8000, 0x7F80])
    np.testing.assert_array_equal(bits_of(again[4]), [0x7FC0] * 3)


@pytest.mark.parametrize(
    ("stored", "bits"),
    [("NaN", 0x7FC0), ("0x7fc1", 0x7FC1), ("Infinity", 0x7F80), ("-Infinity", 0xFF80), (1.5, 0x3FC0)],
)
def test_bfloat16_fill_values_survive(stored: object, bits: int) -> None:
    from mmxai.store.bfloat16 import BFloat16

    scalar = BFloat16().from_json_scalar(stored, zarr_format=3)
    assert int(np.array(scalar).view(np.uint16)) == bits
    assert BFloat16().to_json_scalar(scalar, zarr_format=3) == stored


def test_importing_mmxai_needs_no_torch() -> None:
    code = "import sys, mmxai, zarr; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def newer_python() -> str:
    """A Python whose zarr is 3.4 or newer: $MMXAI_PYTHON_ZARR34, or python3.12 and later on the path."""
    check = "import ml_dtypes, zarr; assert tuple(map(int, zarr.__version__.split('.')[:2])) >= (3, 4)"
    named = os.environ.get("MMXAI_PYTHON_ZARR34")
    for python in [named] if named else map(shutil.which, ("python3.12", "python3.13", "python3.14")):
        if python and subprocess.run([python, "-c", check], capture_output=True, check=False).returncode == 0:
            return python
    pytest.skip("no Python with zarr >= 3.4 and ml_dtypes: name one in MMXAI_PYTHON_ZARR34")


READ = """
import sys, zarr, numpy as np
group = zarr.open(sys.argv[1], mode="r")
assert "mmxai" not in sys.modules or zarr.__version__ >= "3.4"
for name in group:
    if name.startswith("module:"):
        x = group[name][:]
        np.save(f"{sys.argv[2]}/{name}.npy", x.view({2: np.uint16, 4: np.uint32}[x.dtype.itemsize]))
print(zarr.__version__, "torch" in sys.modules)
"""


def test_plain_zarr_of_python_3_12_reads_bfloat16(
    store: tuple[Path, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    """zarr >= 3.4 finds the data type through the entry point: the reader never imports mmxai itself."""
    python = newer_python()
    metadata = tmp_path / "path" / f"mmxai-{mmxai.__version__}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: mmxai\nVersion: {mmxai.__version__}\n")
    (metadata / "entry_points.txt").write_text("[zarr.data_type]\nbfloat16 = mmxai.store.bfloat16:BFloat16\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(metadata.parent), str(ROOT)])}
    done = subprocess.run(
        [python, "-W", "error", "-c", READ, str(store[0]), str(tmp_path)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == "False"
    for name, bits in store[1].items():
        if name.startswith("module:"):
            np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), bits)
