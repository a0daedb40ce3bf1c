import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from mmxai.errors import ArgumentError, BackendError
from mmxai.kernels import _dispatch, _native, status
from mmxai.kernels._dispatch import Op


@pytest.fixture
def op(monkeypatch):
    """An op with all three CPU backends, of which `cpu` takes only even numbers."""
    backends = {
        "cpu": SimpleNamespace(supports=lambda x: "odd numbers are not supported" if x % 2 else None),
        "numba": SimpleNamespace(supports=lambda x: None),
        "reference": SimpleNamespace(supports=lambda x: None),
    }
    monkeypatch.setattr(Op, "backends", lambda self, device: list(backends))
    monkeypatch.setattr(Op, "_module", lambda self, backend: backends[backend])
    monkeypatch.setattr(_dispatch, "unavailable", lambda backend: None)
    op = Op("op")
    op.modules = backends
    return op


def test_auto_takes_the_first_that_can_and_records_why_not(op):
    assert op.pick("auto", "cpu", 2) is op.modules["cpu"]
    assert op.skipped == {}
    assert op.pick("auto", "cpu", 3) is op.modules["numba"]
    assert op.skipped == {"cpu": "odd numbers are not supported"}


def test_a_named_backend_runs_or_raises(op):
    assert op.pick("reference", "cpu", 2) is op.modules["reference"]
    with pytest.raises(BackendError, match='"cpu" cannot run: odd numbers'):
        op.pick("cpu", "cpu", 3)
    with pytest.raises(BackendError, match="there are cpu, numba, reference"):
        op.pick("triton", "cpu", 2)


def test_a_machine_without_it(op, monkeypatch):
    monkeypatch.setattr(_dispatch, "unavailable", {"cpu": "no compiler"}.get)
    assert op.pick("auto", "cpu", 2) is op.modules["numba"]
    assert op.skipped == {"cpu": "no compiler"}
    with pytest.raises(BackendError, match="no compiler"):
        op.pick("cpu", "cpu", 2)


def test_an_op_that_wants_more_of_the_machine(op, monkeypatch):
    op.modules["cpu"].unavailable = lambda: "no such instruction"
    assert op.pick("auto", "cpu", 2) is op.modules["numba"]
    assert op.skipped == {"cpu": "no such instruction"}
    with pytest.raises(BackendError, match='"cpu" cannot run: no such instruction'):
        op.pick("cpu", "cpu", 2)
    lines = [s for s in status() if s.op == "topk_product" and s.device == "cpu"]
    assert [(s.backend, s.reason, s.selected) for s in lines] == [
        ("cpu", "no such instruction", False), ("numba", None, True), ("reference", None, False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "native, reason",
    [(SimpleNamespace(), "not compiled in"),
     (SimpleNamespace(topk_product=None, topk_product_runs=lambda: False), "this processor has no AVX512"),
     (SimpleNamespace(topk_product=None, topk_product_runs=lambda: True), None)],
)  # fmt: skip
def test_why_there_is_no_topk_product(native, reason, monkeypatch):
    monkeypatch.setattr(_native, "cpu", lambda: _native.Native(native, "v3", None))
    monkeypatch.setattr(_dispatch, "unavailable", lambda backend: None)
    line = next(s for s in status() if (s.op, s.device, s.backend) == ("topk_product", "cpu", "cpu"))
    assert line.available == line.selected == (reason is None)
    assert (reason or "") in (line.reason or "")


def test_exceptions_propagate(op):
    def broken(x):
        raise ZeroDivisionError("in supports")

    op.modules["cpu"].supports = broken
    with pytest.raises(ZeroDivisionError):
        op.pick("auto", "cpu", 2)


def test_exceptions_of_a_running_kernel_propagate(monkeypatch):
    from mmxai.kernels import crc32c
    from mmxai.kernels.crc32c import _cpu

    def broken(data, value):
        raise MemoryError

    monkeypatch.setattr(_cpu, "crc32c", broken)
    monkeypatch.setattr(_dispatch, "unavailable", lambda backend: None)
    with pytest.raises(MemoryError):
        crc32c.crc32c(b"x")


def run(code: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_without_the_extension():
    code = """
from mmxai.kernels import status
from mmxai.kernels.crc32c import crc32c, OP
print([(s.backend, s.reason, s.selected) for s in status() if s.op == "crc32c"][:2])
print(crc32c(b"123456789"), OP.skipped)
"""
    first, second = run(code, MMXAI_CPU="none").splitlines()
    assert first == "[('cpu', 'MMXAI_CPU=none', False), ('numba', None, True)]"
    assert second == f"{0xE3069283} {{'cpu': 'MMXAI_CPU=none'}}"


@pytest.mark.parametrize("build", ["base", "v3"])
def test_choosing_the_build(build):
    if build == "v3" and not _native._cpu_is_v3():
        pytest.skip("this processor is not x86-64-v3")
    if not _native._built(f"_cpu_{build}"):
        pytest.skip(f"mmxai._cpu_{build} was not compiled")
    code = "from mmxai.kernels import _native; print(_native.cpu().name, _native.cpu().module.__name__)"
    assert run(code, MMXAI_CPU=build).split() == [build, f"mmxai._cpu_{build}"]


def test_an_unknown_build(monkeypatch):
    monkeypatch.setenv("MMXAI_CPU", "v9")
    with pytest.raises(ArgumentError, match="expected base, v3 or none"):
        _native.cpu.__wrapped__()


def test_status_covers_all_ops():
    assert {s.op for s in status()} == {
        "adam_rows", "bilinear_counts", "capture", "cell_labels", "code_gradients", "crc32c", "decode_codes",
        "decode_error", "gather", "log_products", "mask_counts", "pack", "permute", "select_above",
        "topk_product", "topk_rows", "unembed_topk",
    }  # fmt: skip
