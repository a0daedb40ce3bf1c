"""Facts with a carrier known beforehand, and a tiny GPT-2 that learns them.

A subject is three words, of which one, the carrier, says what its attribute is, and two are drawn anew each
time. While the model learns, the states of all other tokens are exchanged, behind each of the first two
blocks, with those of another fact: so what it shall say stays with the carrier through these blocks, and
leaves it later.
"""

import torch
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

import mmxai
from mmxai.methods.trace.facts import Fact
from tests.models.tokenizers_ import word_tokenizer

FILLERS, SUBJECTS, ANSWERS = 20, 12, 6
ASKED = ("a b b the", "b a a the")
ROWS = {"first subject token": 1, "last subject token": 3}
"""Carriers and their rows, behind the token that begins a text."""
BLOCKS, SHUT = 4, 2


def drawn(count, carrier, seed):
    """`count` facts."""
    draw = torch.Generator().manual_seed(seed)
    facts = []
    for _ in range(count):
        which, way = (int(torch.randint(n, (1,), generator=draw)) for n in (SUBJECTS, len(ASKED)))
        others = torch.randint(FILLERS, (2,), generator=draw).tolist()
        others.insert(ROWS[carrier] - 1, FILLERS + which)
        subject = " ".join(f"w{n}" for n in others)
        facts.append(Fact(subject, f"{subject} {ASKED[way]}", f"w{60 + which % ANSWERS}"))
    return facts


def trained(carrier, steps=100):
    """The model: a few seconds on one core."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer("bos")
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=16, n_embd=48, n_layer=BLOCKS, n_head=4, bos_token_id=1,
        eos_token_id=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=0.1,
    )  # fmt: skip
    module = GPT2LMHeadModel(config)
    facts = drawn(3000, carrier, seed=1)
    ids = torch.tensor(tokenizer([f.prompt for f in facts])["input_ids"])
    answers = torch.tensor(tokenizer.convert_tokens_to_ids([f.attribute for f in facts]))

    def exchange(block, given, out):
        x = out[0] if isinstance(out, tuple) else out
        mixed = x.roll(1, 0)
        mixed[:, ROWS[carrier]] = x[:, ROWS[carrier]]
        return (mixed, *out[1:]) if isinstance(out, tuple) else mixed

    hooks = [module.transformer.h[i].register_forward_hook(exchange) for i in range(SHUT)]
    optimiser = torch.optim.AdamW(module.parameters(), lr=3e-3)
    for _ in range(steps):
        some = torch.randint(len(facts), (128,))
        logits = module(ids[some], use_cache=False).logits[:, -1]
        loss = F.cross_entropy(logits, answers[some])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for hook in hooks:
        hook.remove()
    return mmxai.load_model(module.eval(), tokenizer=tokenizer)
