"""Memory that a trace takes stays below the budget stated."""

from __future__ import annotations

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from mmxai.bench.memory import growth
from mmxai.methods.trace import logit_difference, spans, study
from mmxai.models import load_model
from tests.memory import linux

BUDGET = 48 << 20


@linux
def test_growth_stays_below_the_budget():
    """60 cells that all begin at row 1, of the widest site: at once they would take half a gigabyte."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=8000, n_embd=128, n_layer=4, n_head=4, n_positions=64, bos_token_id=None, eos_token_id=None
    )
    model = load_model(GPT2LMHeadModel(config))
    clean = torch.randint(8000, (8, 32))
    twin = clean.clone()
    twin[:, 1] = (clean[:, 1] + 1) % 8000
    behind = [spans.chosen((torch.arange(32) >= 1).expand(8, 32), str(i)) for i in range(60)]
    metric = logit_difference(3, 4)
    study(model, clean, twin, metric=metric, blocks=[3]).run()  # what a first run makes once
    bounded = study(model, clean, twin, metric=metric, kinds=("mlp_post",), spans=behind, budget=BUDGET)
    result, grown = growth(bounded.run)
    assert grown <= BUDGET and result.forwards > 10
    # The same intervention in every column.
    effects = result.effect.reshape(4, 60, 8)
    np.testing.assert_allclose(effects, effects[:, :1].repeat(60, 1), rtol=1e-5, atol=1e-5)
