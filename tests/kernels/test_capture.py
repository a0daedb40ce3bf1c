import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.kernels import capture as module
from mmxai.kernels._args import FLOATS
from mmxai.kernels._dispatch import unavailable
from mmxai.kernels.capture import NeuronState, capture
from mmxai.kernels.capture._passes import depth, passes
from mmxai.kernels.pack import pack
from tests.kernels.conformance import KernelTests, numbers, poisoned, values
from tests.kernels.test_pack import KEEPS, LAYOUTS, back_and_forth, on_device

OUTPUTS = (*FLOATS, torch.int8, None)
OPTIONS = {"rows": {}, "both ends": {"bottom": True}, "samples": {"bottom": True, "per_sample": True}}
EXACT = (
    "tallies", "extremes", "top_values", "top_rows", "top_samples",
    "bottom_values", "bottom_rows", "bottom_samples",
)  # fmt: skip


def bits(x: torch.Tensor) -> np.ndarray:
    return numbers(x) if x.dtype in FLOATS else x.cpu().numpy()


def exact(state: NeuronState) -> list[np.ndarray]:
    held = [getattr(state, name) for name in EXACT]
    return [bits(x) for x in held if x is not None] + [np.array([state.count, state.next_row])]


def check_moments(got: NeuronState, want: NeuronState, bound: float = 1e-5) -> None:
    """`want` is the reference's, in float64 throughout."""
    n, m2 = want.finite.clamp(min=1).cpu(), want.moments[1].cpu()
    np.testing.assert_allclose(got.moments[1].cpu(), m2, rtol=bound)
    off = (got.moments[0] - want.moments[0]).abs().cpu()
    # Beside the bound, float64's own rounding.
    assert (off <= bound * (m2 / n).sqrt() + 1e-14 * want.moments[0].abs().cpu()).all()


def run(x, keep, target, backend, *, device="cpu", k=5, poison=0, calls=2, **options):
    """(outputs that are exact, state) of several calls with the same rows."""
    state = NeuronState(x.shape[2], k, device=device, **options)
    kept = None if keep is None else keep.to(device)
    count = x.shape[0] * x.shape[1] if keep is None else int(keep.sum())
    samples = torch.arange(count, device=device) // 7 * 5 % 23 if options.get("per_sample") else None
    outputs = []
    for call in range(calls):
        out = scales = None
        if target == torch.int8:
            out = torch.full((count, x.shape[2]), 99 + poison, dtype=torch.int8, device=device)
            scales = torch.full((count,), torch.nan, device=device)
        elif target is not None:
            out = poisoned((count, x.shape[2]), target, poison).to(device)
        row0 = (3 << 32) + call * (count + 9)
        overflow = capture(
            on_device(x, device), kept, out, state, row0, samples=samples, scales=scales, threads=2,
            backend=backend,
        )  # fmt: skip
        outputs += [bits(t) for t in (out, scales) if t is not None] + [np.array(overflow)]
    return outputs + exact(state), state


class TestCapture(KernelTests):
    op = module.OP

    @staticmethod
    def cases():
        for source in FLOATS:
            for target in OUTPUTS:
                for layout in LAYOUTS:
                    yield f"{str(source)[6:]}-{str(target)[6:] or 'none'}-{layout}", (source, target, layout)

    def call(self, case, backend, device, poison):
        source, target, layout = case
        outputs = []
        for shape, (keep, options) in zip(
            ((2, 5, 16), (3, 70, 37), (3, 70, 37), (2, 5, 16)),
            zip(KEEPS.values(), [*OPTIONS.values(), {}], strict=True),
            strict=True,
        ):
            x = LAYOUTS[layout](values(shape, source))
            kept = keep(x.shape[0], x.shape[1])
            got, state = run(x, kept, target, backend, device=device, poison=poison, **options)
            _, want = run(x, kept, target, "reference", **options)
            check_moments(state, want)
            outputs += got
        return outputs

    @pytest.mark.parametrize("target", [torch.bfloat16, None])
    @pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
    @pytest.mark.parametrize("cut", [1, 7, 64])
    def test_any_split(self, backend, cut, target, options):
        """Rows one, 7 or 64 at a time, and parts merged, give what one call gives."""
        x = values((1, 300, 21), torch.float32, seed=2)
        x[:, :, 3] = x[:, :, 3].sign()  # ties
        samples = torch.arange(300) // 9
        whole = NeuronState(21, 6, **options)
        of = {"samples": samples} if whole.per_sample else {}
        out = None if target is None else torch.empty(300, 21, dtype=target)
        capture(x, None, out, whole, 0, **of, backend="reference")
        name, device = backend
        state = NeuronState(21, 6, device=device, **options)
        for r in range(0, 300, cut):
            rows = slice(r, r + cut)
            of = {"samples": samples[rows].to(device)} if state.per_sample else {}
            some = None if out is None else torch.empty_like(out[rows], device=device)
            capture(x[:, rows].to(device), None, some, state, r, **of, backend=name)
        for got, want in zip(exact(state), exact(whole), strict=True):
            np.testing.assert_array_equal(got, want)
        check_moments(state, whole)

    @pytest.mark.parametrize(
        "kind", ["offset", "drift", "outlier first", "tiny", "huge", "steps", "constant"]
    )
    def test_hard_moments(self, backend, kind):
        g = torch.Generator().manual_seed(0)
        n = 3000
        x = torch.randn(n, 24, generator=g)
        x = {
            "offset": lambda: x * 1e-2 + 1e4,
            "drift": lambda: x + torch.linspace(-1e3, 1e3, n)[:, None],
            "outlier first": lambda: torch.where(torch.arange(n)[:, None] == 0, 1e6, x),
            "tiny": lambda: x * 1e-30,
            "huge": lambda: (x * 1e38).clamp(-3.4e38, 3.4e38),
            "steps": lambda: 1e5 * (torch.arange(n)[:, None] // 500) + 1e-2 * x,
            "constant": lambda: torch.full((n, 24), 0.1),
        }[kind]()
        want = NeuronState(24)
        capture(x[None], None, None, want, 0, backend="reference")
        got = NeuronState(24, device=backend[1])
        for r in range(0, n, 700):
            capture(x[None, r : r + 700].to(backend[1]), None, None, got, r, backend=backend[0])
        check_moments(got, want)
        if kind == "constant":
            assert (got.moments[1] == 0).all()

    @pytest.mark.parametrize("source", FLOATS)
    def test_wide_over_threads(self, backend, source):
        """Wider than a strip, taller than a tile; lists cold and warm; values not finite here and there."""
        x = values((2, 400, 1061), source, seed=3)
        x[:, :, 500:700] = torch.randn(2, 400, 200, generator=torch.Generator().manual_seed(1)).to(source)
        got, state = run(x, None, torch.bfloat16, backend[0], device=backend[1], k=16, bottom=True)
        expected, want = run(x, None, torch.bfloat16, "reference", k=16, bottom=True)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)
        check_moments(state, want)

    @pytest.mark.parametrize("shape", [(0, 4, 8), (4, 0, 8)])
    def test_nothing(self, backend, shape):
        state = NeuronState(8, device=backend[1])
        out = torch.empty(0, 8, dtype=torch.bfloat16, device=backend[1])
        assert capture(torch.empty(shape, device=backend[1]), None, out, state, 5, backend=backend[0]) == 0
        assert state.count == 0

    @pytest.mark.parametrize("k", [1, 128])
    def test_length_of_lists(self, backend, k):
        x = values((1, 500, 9), torch.bfloat16, seed=4)
        got, _ = run(x, None, None, backend[0], device=backend[1], k=k, bottom=True)
        want, _ = run(x, None, None, "reference", k=k, bottom=True)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)

    def test_quantising_alone(self, backend):
        x = values((1, 50, 70), torch.float32, seed=5)
        x[0, 0], x[0, 1], x[0, 2] = 0, torch.nan, 1e-44
        x[0, 3, :2] = torch.tensor([127.0, 0.5])
        x[0, 3, 2:] = 1.5
        results = []
        for name, device in (backend, ("reference", "cpu")):
            out = torch.full((50, 70), 99, dtype=torch.int8, device=device)
            scales = torch.empty(50, device=device)
            capture(x.to(device), None, out, None, 0, scales=scales, backend=name)
            results.append((out.cpu(), scales.cpu()))
        assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
        out, scales = results[0]
        assert scales[:2].tolist() == [0, 0] and (out[:2] == 0).all()
        assert scales[3] == 1 and out[3, :3].tolist() == [127, 0, 2]  # halves to even


def brute(x: np.ndarray, samples: np.ndarray, k: int, sign: int, per_sample: bool):
    """Lists of one column by sorting: values, rows, samples."""
    rows = np.flatnonzero(np.isfinite(x))
    order = rows[np.lexsort((rows, -sign * x[rows]))]
    if per_sample:
        _, first = np.unique(samples[order], return_index=True)
        order = order[np.sort(first)]
    return x[order[:k]], order[:k], samples[order[:k]]


@pytest.mark.parametrize("per_sample", [False, True])
def test_the_specification_against_sorting(per_sample):
    x = values((1, 200, 12), torch.bfloat16, seed=6).float()
    x[0, :, 5], x[0, :3, 6], x[0, 3:, 6] = torch.nan, 1.0, torch.inf
    samples = np.random.default_rng(0).integers(0, 20, 200)
    samples.sort()
    state = NeuronState(12, 9, bottom=True, per_sample=per_sample)
    capture(
        x,
        None,
        None,
        state,
        0,
        samples=torch.from_numpy(samples) if per_sample else None,
        backend="reference",
    )
    for j in range(12):
        column = x[0, :, j].numpy()
        for sign, ranked, rows, owners in (
            (1, state.top_values, state.top_rows, state.top_samples),
            (-1, state.bottom_values, state.bottom_rows, state.bottom_samples),
        ):
            v, r, s = brute(column, samples, 9, sign, per_sample)
            n = len(v)
            np.testing.assert_array_equal(ranked[:n, j], v)
            np.testing.assert_array_equal(rows[:n, j], r)
            assert (rows[n:, j] == -1).all() and (ranked[n:, j] == -sign * np.inf).all()
            if owners is not None:
                np.testing.assert_array_equal(owners[:n, j], s)
    finite = np.isfinite(x[0].numpy())
    wide = np.where(finite, x[0].numpy(), 0).astype(np.float64)
    n = finite.sum(0)
    mean = wide.sum(0) / np.maximum(n, 1)
    np.testing.assert_allclose(state.moments[0], mean, rtol=1e-12)
    np.testing.assert_allclose(state.moments[1], (np.where(finite, wide - mean, 0) ** 2).sum(0), rtol=1e-12)
    assert (state.finite.numpy() == n).all()


def test_a_million_rows_against_numpy():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (1_000_000, 5)).astype(np.float32)
    x[:, 4] = np.maximum(x[:, 4], 0)
    state = NeuronState(5, 16)
    for r in range(0, len(x), 40_000):
        capture(torch.from_numpy(x[None, r : r + 40_000]), None, None, state, r)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(state.moments[0], wide.mean(0), rtol=1e-6)
    np.testing.assert_allclose(state.moments[1] / len(x), wide.var(0), rtol=1e-6)
    np.testing.assert_array_equal(state.extremes, [x.min(0), x.max(0)])
    np.testing.assert_array_equal(state.tallies[state.POSITIVE], (x > 0).sum(0))
    for j in range(5):
        np.testing.assert_array_equal(state.top_rows[:, j], np.lexsort((np.arange(len(x)), -x[:, j]))[:16])


def test_the_state_is_of_what_is_stored():
    x = torch.randn(1, 50, 8)
    out = torch.empty(50, 8, dtype=torch.float16)
    state, again = NeuronState(8), NeuronState(8)
    capture(x, None, out, state, 0)
    capture(out[None], None, None, again, 0)
    for a, b in zip(exact(state), exact(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_without_a_state_it_is_pack():
    x, out, want = (
        torch.randn(2, 5, 8),
        torch.empty(10, 8, dtype=torch.bfloat16),
        torch.empty(10, 8).bfloat16(),
    )
    assert capture(x, None, out, None, 0) == pack(x, None, want)
    assert torch.equal(out, want)


X, OUT = torch.ones(2, 3, 4), torch.ones(6, 4)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((torch.ones(2, 3), None, OUT, NeuronState(3), 0), {}),
        ((X, None, None, None, 0), {}),
        ((X, None, OUT, NeuronState(5), 0), {}),
        ((X, torch.ones(2, 3), OUT, NeuronState(4), 0), {}),
        ((X, None, OUT[:5], NeuronState(4), 0), {}),
        ((X, None, OUT.int(), NeuronState(4), 0), {}),
        ((X, None, OUT.to(torch.int8), NeuronState(4), 0), {}),
        ((X, None, OUT, NeuronState(4), 0), {"scales": torch.ones(6)}),
        ((X, None, OUT.to(torch.int8), NeuronState(4), 0), {"scales": torch.ones(5)}),
        ((X, None, OUT, NeuronState(4), 0), {"samples": torch.ones(6).long()}),
        ((X, None, OUT, NeuronState(4, per_sample=True), 0), {}),
        ((X, None, OUT, NeuronState(4, per_sample=True), 0), {"samples": torch.ones(6)}),
        ((X, None, OUT, NeuronState(4), -1), {}),
        ((X, None, OUT, NeuronState(4, device="meta"), 0), {}),
    ],
)
def test_bad_arguments(arguments, options):
    with pytest.raises(ArgumentError, match="expected"):
        capture(*arguments, **options)


@pytest.mark.parametrize(("width", "k"), [(0, 1), (1, 0), (1, 129)])
def test_bad_states(width, k):
    with pytest.raises(ArgumentError, match="expected width"):
        NeuronState(width, k)


@pytest.mark.parametrize("source", FLOATS)
def test_rows_of_an_expanded_map(source):
    x, keep = back_and_forth()
    x = x.to(source)
    want, _ = run(x, keep, torch.bfloat16, "reference")
    for backend in ("cpu", "numba"):
        if backend in module.OP.backends("cpu") and unavailable(backend) is None:
            got, _ = run(x, keep, torch.bfloat16, backend)
            for one, other in zip(got, want, strict=True):
                np.testing.assert_array_equal(one, other)


def test_a_launch_takes_so_many_rows():
    runs = list(passes(100_000_000, 0, 64))
    assert [a for a, _ in runs[1:]] == [b for _, b in runs[:-1]] and runs[-1][1] == 100_000_000
    assert max(-(-(b - a) // depth(b - a, 32)) for a, b in runs) <= 65_535


def test_what_packing_alone_does_not_take():
    x, out = torch.ones(1, 4, 2), torch.empty(4, 2)
    with pytest.raises(ArgumentError, match="expected neither"):
        capture(x, None, out, None, 0, scales=torch.ones(4))
