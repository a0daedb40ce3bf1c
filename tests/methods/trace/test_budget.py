"""Memory that a trace takes stays below the budget stated."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.memory import linux

BUDGET = 48 << 20
SCRIPT = """
import sys
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from mmxai.bench.memory import growth
from mmxai.methods.trace import logit_difference, spans, study
from mmxai.models import load_model

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
for budget in map(int, sys.argv[1:]):
    planned = study(model, clean, twin, metric=metric, kinds=("mlp_post",), spans=behind, budget=budget)
    result, grown = growth(planned.run)
    print(grown, result.forwards)
"""


@linux
def test_growth_stays_below_the_budget():
    """60 cells a block that begin at row 1, of the widest site: at once they take half a gigabyte."""
    # Freed memory goes back at once, or malloc would keep some of every batch.
    env = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "0",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", SCRIPT, str(BUDGET), str(2**30)]
    done = subprocess.run(
        command, env=env, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    (bounded, batches), (whole, few) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert bounded <= BUDGET and batches > 10
    assert BUDGET < whole <= 2**30 and few < 5
