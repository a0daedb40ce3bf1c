"""The engine's shortcuts give what plain runs give, whatever a family does to put pictures into its text."""

from __future__ import annotations

import pytest
import torch

from mmxai.methods.trace import trace
from mmxai.methods.trace.metrics import logit_difference
from mmxai.methods.trace.spans import Span, attention
from mmxai.models import load_model
from mmxai.types import ROW_COLUMNS, TOKEN_CODES
from tests.models.contract import shake
from tests.models.test_blip_2 import TestBlip2 as Blip2
from tests.models.test_gemma3 import TestGemma3 as Gemma3
from tests.models.test_paligemma import TestPaliGemma as PaliGemma
from tests.models.test_qwen_vl import TestQwen2VL as Qwen2VL
from tests.models.test_qwen_vl import TestQwen25VL as Qwen25VL

TYPE = ROW_COLUMNS.index("token_type")


@pytest.fixture(
    scope="module", params=[Qwen2VL, Qwen25VL, Gemma3, PaliGemma, Blip2], ids=lambda c: c.__name__
)
def case(request):
    """A model, its inputs, the same with other pictures, and spans: the pictures' tokens, the last."""
    made = request.param()
    torch.manual_seed(1)
    model = load_model(shake(made.make()))
    clean = model.prepare(made.tensors())
    torch.manual_seed(4)
    pixels = torch.randn_like(clean.tensors["pixel_values"])
    other = model.prepare({**made.tensors(), "pixel_values": pixels})
    kinds = clean.rows["text"][..., TYPE]
    lengths = (kinds != TOKEN_CODES["pad"]).sum(1)
    last = torch.arange(kinds.shape[1]) == lengths[:, None] - 1
    return model, clean, other, Span("picture", kinds == TOKEN_CODES["image"]), Span("last", last)


METRIC = logit_difference([5, 6, 7], [8, 9, 10])


def test_restoring_states(case):
    model, clean, other, picture, last = case
    results = [
        trace(
            model,
            clean,
            other,
            metric=METRIC,
            kinds=("resid_pre", "attn_out"),
            spans=[picture, last],
            method=method,
        )
        for method in ("quick", "cellwise")
    ]
    quick, plain = (torch.as_tensor(r.effect) for r in results)
    torch.testing.assert_close(quick, plain, rtol=1e-5, atol=1e-5)
    assert plain.abs().max() > 0.01


def test_knocking_attention_to_the_picture_out(case):
    model, clean, _, picture, last = case
    results = [
        trace(
            model,
            clean,
            None,
            metric=METRIC,
            kinds=("attention",),
            spans=[attention(last, picture)],
            mode="patch",
            method=method,
        )
        for method in ("quick", "cellwise")
    ]
    quick, plain = (torch.as_tensor(r.effect) for r in results)
    torch.testing.assert_close(quick, plain, rtol=1e-5, atol=1e-5)
    assert plain.abs().max() > 0.01
