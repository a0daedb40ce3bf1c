"""Parametrises the conformance tests: every backend that exists, the CPU extension in both builds."""

import pytest

from mmxai.kernels import _native
from mmxai.kernels._dispatch import ORDER, unavailable


def pytest_generate_tests(metafunc):
    if metafunc.cls is None or not hasattr(metafunc.cls, "op"):
        return
    if "backend" in metafunc.fixturenames:
        # Triton's interpreter is too slow for all of it: test_triton.py takes it through less.
        left = {("reference", "cpu"), ("triton", "cpu")}
        exist = [(b, d) for d in ORDER for b in metafunc.cls.op.backends(d) if (b, d) not in left]
        if not metafunc.cls.op.backends("cuda")[:-1]:
            exist = [(b, d) for b, d in exist if d == "cpu"]
        names = [n for b, _ in exist for n in (["cpu-base", "cpu-v3"] if b == "cpu" else [b])]
        names = ["reference-cuda" if n == "reference" else n for n in names]
        metafunc.parametrize("backend", names, indirect=True)
    if "case" in metafunc.fixturenames:
        cases = list(metafunc.cls.cases())
        metafunc.parametrize("case", [c for _, c in cases], ids=[i for i, _ in cases])


@pytest.fixture
def backend(request, monkeypatch):
    """(backend, device); skipped where this machine has not got it."""
    name, _, build = request.param.partition("-")
    device = "cuda" if name in ("cuda", "triton") or build == "cuda" else "cpu"
    if name == "cpu":
        if build == "v3" and not _native._cpu_is_v3():
            pytest.skip("this processor is not x86-64-v3")
        native = _native._load(f"_cpu_{build}", build)
        if native.module is None:
            pytest.skip(native.reason)
        monkeypatch.setattr(_native, "cpu", lambda: native)
        unavailable.cache_clear()
        request.addfinalizer(unavailable.cache_clear)
        reason = request.cls.op.unavailable("cpu")
        if reason is not None:
            pytest.skip(reason)
    elif device == "cuda" and _native.cuda_devices() == 0:
        pytest.skip("no CUDA device")
    elif unavailable(name) is not None:
        pytest.skip(unavailable(name))
    return name, device
