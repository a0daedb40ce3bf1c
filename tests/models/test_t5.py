"""The encoders of T5, mT5 and UMT5, alone and inside a whole model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    MT5Config,
    MT5EncoderModel,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5EncoderModel,
)

from mmxai.models import load_model
from mmxai.models.check import check

from .contract import AdapterTests, Block, Reference, close, linear, rms_norm, run_block, shake

SIZES = {
    "vocab_size": 64,
    "d_model": 32,
    "d_kv": 6,
    "d_ff": 44,
    "num_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 9,
    "dropout_rate": 0.1,
}


def bucket(distance: int, count: int = 8, most: int = 9) -> int:
    """The number of a key's offset from its query: half of them for keys behind, growing ever coarser."""
    half = count // 2
    first, far = (half if distance > 0 else 0), abs(distance)
    exact = half // 2
    if far < exact:
        return first + far
    grown = exact + int(math.log(far / exact) / math.log(most / exact) * (half - exact))
    return first + min(grown, half - 1)


class TestT5(AdapterTests):
    activation = staticmethod(F.relu)
    gated = False
    shared = True

    def make(self) -> nn.Module:
        return T5EncoderModel(T5Config(**SIZES))

    def tensors(self):
        return self.text(length=9)

    step = 1e-5

    def doubled(self, module):
        """ReLU's kinks ask for small steps, and those for norms that are not taken in float32."""
        copied = super().doubled(module)
        for norm in (m for m in copied.modules() if type(m).__name__.endswith("LayerNorm")):
            norm.forward = rms_norm(norm)
        return copied

    def skipping(self, x):
        return x, None, None

    def bias(self, block, length):
        """What is added to the scores, float `[heads, T, T]`."""
        table = block.layer[0].SelfAttention.relative_attention_bias.weight
        numbers = [[bucket(key - query) for key in range(length)] for query in range(length)]
        return table[torch.tensor(numbers)].permute(2, 0, 1)

    def references(self, module, tensors):
        encoder, ids = module.encoder, tensors["input_ids"]
        blocks = []
        for block in encoder.block:
            a, m = block.layer[0].SelfAttention, block.layer[1].DenseReluDense
            owner = encoder.block[0] if self.shared else block
            blocks.append(
                Block(
                    heads=4,
                    q=linear(a.q),
                    k=linear(a.k),
                    v=linear(a.v),
                    o=linear(a.o),
                    up=linear(m.wi_0 if self.gated else m.wi),
                    gated=linear(m.wi_1) if self.gated else None,
                    down=linear(m.wo),
                    act=self.activation,
                    norm1=rms_norm(block.layer[0].layer_norm),
                    norm2=rms_norm(block.layer[1].layer_norm),
                    scale=1.0,
                    bias=self.bias(owner, ids.shape[1]),
                )
            )
        start = lambda: (encoder.embed_tokens.weight[ids],) * 2  # noqa: E731
        end = lambda x: {"ln_final": rms_norm(encoder.final_layer_norm)(x)}  # noqa: E731
        return [Reference("text", start, blocks, end, causal=False)]

    def test_check_finds_nothing(self, model):
        report = check(model)
        assert report.ok, report

    def test_final_norm_is_the_last_hidden_state(self, model, module):
        tensors = self.tensors()
        run = model.run(tensors, capture="text.ln_final")
        with torch.no_grad():
            last = module.encoder(**tensors).last_hidden_state
        keep = self.keep(model, run, "text.ln_final")
        assert torch.equal(run.acts["text.ln_final"][keep], last[keep])

    def test_length(self, model):
        assert model.rows_per_sample("text") == 512
        model.set_length("text", 9)
        assert model.sites()["text.0.pattern"] == 4 * 9


class TestT5v11(TestT5):
    """With the gated MLP of T5 v1.1 (and of Flan-T5), as diffusion models have it."""

    gated = True

    @staticmethod
    def activation(x):
        return F.gelu(x, approximate="tanh")

    def make(self):
        return T5EncoderModel(T5Config(**SIZES, feed_forward_proj="gated-gelu"))


class TestMT5(TestT5v11):
    def make(self):
        return MT5EncoderModel(MT5Config(**SIZES))


class TestUMT5(TestT5v11):
    """A bias table of its own in each block."""

    shared = False

    def skipping(self, x):
        return x

    def make(self):
        return UMT5EncoderModel(UMT5Config(**SIZES))


def test_the_encoder_of_a_whole_model():
    """A model with its decoder runs its encoder alone, and what comes out is what the decoder would read."""
    module = shake(T5ForConditionalGeneration(T5Config(**SIZES)))
    model, inputs = load_model(module), {"input_ids": torch.randint(3, 60, (2, 6))}
    run = model.run(inputs, capture=["text.2.resid_post", "text.ln_final"])
    with torch.no_grad():
        expected = module(**inputs, decoder_input_ids=torch.zeros(2, 1, dtype=torch.int64))
    close(run.acts["text.ln_final"], expected.encoder_last_hidden_state)
    close(run.out.last_hidden_state, expected.encoder_last_hidden_state)
    assert not [s for s in model.sites() if "decoder" in s] and list(model.towers) == ["text"]
    assert check(model).ok
    with pytest.raises(AssertionError):
        close(run.acts["text.2.resid_post"], run.acts["text.ln_final"])


def test_block_reads_the_bias():
    """The reference's own extension: scores with a bias are what adding it by hand gives."""
    torch.manual_seed(0)
    same = lambda x: x  # noqa: E731
    parts = dict.fromkeys(("q", "k", "v", "o", "up", "down", "act", "norm1", "norm2"), same)
    x, bias = torch.randn(1, 3, 4), torch.randn(2, 3, 3)
    seen = run_block(x, Block(heads=2, bias=bias, **parts), torch.ones(1, 3, 3, dtype=torch.bool))
    heads = x.unflatten(-1, (2, 2)).transpose(1, 2)
    expected = (heads @ heads.transpose(-1, -2) / math.sqrt(2) + bias).softmax(-1)
    close(seen["pattern"], expected)
