"""`decode_codes` and `decode_error`."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.kernels import decode_codes as decoding
from mmxai.kernels import decode_error as error
from mmxai.kernels.decode_codes import decode_codes
from mmxai.kernels.decode_error import decode_error
from tests.kernels.conformance import SumTests, codes, poisoned

KINDS = {
    "sparse": dict(rows=37, latents=50, density=0.1),
    "dense": dict(rows=9, latents=20, density=0.9),
    "fixed": dict(rows=40, latents=64, density=0, fixed=13),
    "empty": dict(rows=5, latents=8, density=0),
    "no rows": dict(rows=0, latents=8, density=0, fixed=3),
}


def inputs(kind, width):
    held = codes(**KINDS[kind])
    g = torch.Generator().manual_seed(width)
    shapes = {"W_dec": (held.width, width), "bias": (width,), "base": (held.rows, width)}
    tensors = {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}
    return held, tensors, torch.randn(held.rows, width, generator=g)


def put(held, device):
    return replace(held, **{n: getattr(held, n).to(device) for n in ("values", "indices", "offsets")})


class TestDecodeCodes(SumTests):
    op = decoding.OP

    @staticmethod
    def cases():
        for kind in KINDS:
            for width in (1, 13, 256, 300):
                yield f"{kind}-{width}", (kind, width)

    def call(self, case, backend, device, poison, threads=1):
        held, tensors, _ = inputs(*case)
        held, on = put(held, device), {n: x.to(device) for n, x in tensors.items()}
        outputs = []
        for names in ((), ("bias",), ("bias", "base")):
            given = {n: on[n] for n in names}
            outputs.append(decode_codes(held, on["W_dec"], **given, threads=threads, backend=backend))
        return [x.cpu().numpy() for x in outputs]


class TestDecodeError(SumTests):
    op = error.OP

    @staticmethod
    def cases():
        for kind in KINDS:
            for width in (1, 13, 300):
                for groups in (1, 3):
                    yield f"{kind}-{width}-{groups}", (kind, width, groups)

    def call(self, case, backend, device, poison, threads=1):
        kind, width, groups = case
        held, tensors, target = inputs(kind, width)
        ends = (held.width,) if groups == 1 else (3, held.width // 2, held.width)
        on = {n: x.to(device) for n, x in tensors.items()}
        outputs = []
        for base in (None, on["base"]):
            errors = poisoned((held.rows, groups, width), torch.float32, poison).to(device)
            got = decode_error(
                put(held, device), on["W_dec"], target.to(device), bias=on["bias"], base=base, prefixes=ends,
                weights=(0.5, 0.25, 2.0)[:groups], errors=errors, threads=threads, backend=backend,
            )  # fmt: skip
            outputs += [x.cpu().numpy() for x in got]
        return outputs


def test_decode_is_a_product():
    held, tensors, _ = inputs("sparse", 13)
    want = held.dense().double() @ tensors["W_dec"].double() + tensors["bias"] + tensors["base"]
    got = decode_codes(held, **tensors)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_error_is_what_autograd_finds():
    held, tensors, target = inputs("sparse", 13)
    ends, weights = (10, 50), (0.3, 0.7)
    acts = held.dense().double().requires_grad_()
    bias = tensors["bias"].double().requires_grad_()
    recons = [bias + acts[:, :end] @ tensors["W_dec"][:end].double() for end in ends]
    losses = [(r - target).square().sum(1) for r in recons]
    sum(w * x.sum() for w, x in zip(weights, losses, strict=True)).backward()
    got = decode_error(held, tensors["W_dec"], target, bias=tensors["bias"], prefixes=ends, weights=weights)
    np.testing.assert_allclose(got.losses, torch.stack(losses, 1).detach(), rtol=1e-5)
    np.testing.assert_allclose(got.d_values, held.gather(acts.grad), atol=1e-5)
    np.testing.assert_allclose(got.errors[:, 0].sum(0), bias.grad, atol=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        dict(target=torch.ones(37, 4)),
        dict(bias=torch.ones(4)),
        dict(W_dec=torch.ones(49, 3)),
        dict(W_dec=torch.ones(3, 50).T),
        dict(base=torch.ones(37, 3).double()),
        dict(prefixes=(3, 40)),
        dict(prefixes=(3, 3, 50), weights=(1.0, 1.0, 1.0)),
        dict(prefixes=(3, 50)),
        dict(errors=torch.ones(37, 3)),
        dict(codes=replace(codes(37, 50, 0.1), indices=codes(37, 50, 0.1).indices + 50)),
        dict(codes=replace(codes(37, 50, 0.1), offsets=codes(37, 50, 0.1).offsets + 1)),
        dict(codes=replace(codes(37, 50, 0.1), offsets=codes(37, 50, 0.1).offsets.flip(0))),
    ],
)
def test_bad_arguments(wrong):
    given = dict(
        codes=codes(37, 50, 0.1), W_dec=torch.ones(50, 3), target=torch.ones(37, 3), bias=torch.ones(3)
    )
    with pytest.raises(ArgumentError, match="expected"):
        decode_error(**(given | wrong))
