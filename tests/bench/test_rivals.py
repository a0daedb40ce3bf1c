"""The torch rivals do the work they are timed at."""

import pytest
import torch

from mmxai.bench.cases._rivals import Best, Compiled, Plain


@pytest.mark.parametrize("rival", [Plain, Best])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [700, 256, 33])
def test_a_rival_finds_what_the_whole_stream_has(rival, dtype, rows):
    check(rival, dtype, rows)


@pytest.mark.slow
def test_the_compiled_rival_too():
    check(Compiled, torch.bfloat16, 700)


def check(rival, dtype, rows):
    k, width = 5, 24
    generator = torch.Generator().manual_seed(1)
    batches = [(torch.randn(rows, width, generator=generator) * 3 + 10).to(dtype) for _ in range(4)]
    out = torch.empty(rows, width, dtype=torch.bfloat16)
    found = rival(width, k)
    for x in batches:
        found(x, out)
        assert torch.equal(out, x.to(torch.bfloat16))
    whole = torch.cat(batches).double()
    assert found.count == len(whole)
    torch.testing.assert_close(found.mean.double(), whole.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.m2.double(), whole.var(0) * (len(whole) - 1), rtol=1e-3, atol=0)
    assert torch.equal(found.low.double(), whole.amin(0))
    assert torch.equal(found.high.double(), whole.amax(0))
    values, _ = whole.topk(k, dim=0)
    assert torch.equal(found.values.double(), values)
    assert torch.equal(whole.gather(0, found.rows), values)  # each row holds the value it is named for
