"""Tiny language models of every kind of attention, with prompts, twins and spans."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from mmxai.models import load_model

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
MLP = {"intermediate_size": 48}
GROUPED = {"num_key_value_heads": 2}


def gpt2(attention="sdpa"):
    config = GPT2Config(
        vocab_size=64, n_embd=32, n_layer=3, n_head=4, n_positions=64, bos_token_id=None, eos_token_id=None,
        attn_implementation=attention,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def llama(attention="sdpa"):
    return LlamaForCausalLM(LlamaConfig(**SIZES, **MLP, **GROUPED, attn_implementation=attention))


def neox(attention="sdpa"):
    return GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, **MLP, attn_implementation=attention))


def gemma2(attention="eager"):
    """Windows of 4 tokens in every other block, and a cap on scores, which only eager attention knows."""
    more = {"head_dim": 8, "sliding_window": 4, "attn_logit_softcapping": 2.0}
    return Gemma2ForCausalLM(Gemma2Config(**SIZES, **MLP, **GROUPED, **more, attn_implementation="eager"))


def opt(attention="sdpa"):
    sizes = {**SIZES, "pad_token_id": 1}
    return OPTForCausalLM(
        OPTConfig(**sizes, ffn_dim=48, word_embed_proj_dim=32, dropout=0.0, attn_implementation=attention)
    )


FAMILIES = {"gpt2": gpt2, "llama": llama, "neox": neox, "gemma2": gemma2, "opt": opt}


def shaken(module):
    """Weights large enough that attention and MLPs matter."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.15 * torch.randn(parameter.shape, generator=generator)
    return module


def prompts():
    """Three prompts, the second shorter; and twins that differ from them at tokens 2 (and 4 of the first)."""
    ids = torch.randint(3, 64, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    ids[1, 7:] = 2
    other = ids.clone()
    other[:, 2] = (ids[:, 2] - 3 + 17) % 61 + 3
    other[0, 4] = (ids[0, 4] - 3 + 5) % 61 + 3
    return {"input_ids": ids, "attention_mask": mask}, {"input_ids": other, "attention_mask": mask}


@pytest.fixture(scope="session", params=list(FAMILIES))
def family(request):
    torch.manual_seed(0)
    return load_model(shaken(FAMILIES[request.param]()))


@pytest.fixture(scope="session")
def model():
    torch.manual_seed(0)
    return load_model(shaken(llama()))
