from __future__ import annotations

import pytest
import torch
import transformers
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForMaskedLM,
    ElectraConfig,
    ElectraModel,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaModel,
)

from mmxai.errors import UnknownSiteError
from mmxai.models import load_model
from mmxai.models.check import check

from .contract import AdapterTests, Block, Reference, layer_norm, linear, rms_norm, rope, shake

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
THETA = 10000.0


class TestLlama(AdapterTests):
    def make(self):
        return LlamaForCausalLM(LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True))

    def tensors(self):
        return self.text()

    def norm(self, module):
        return rms_norm(module)

    act = staticmethod(F.silu)

    def attention(self, b, i):
        a = b.self_attn
        return {
            "heads": 4,
            "q": linear(a.q_proj),
            "k": linear(a.k_proj),
            "v": linear(a.v_proj),
            "o": linear(a.o_proj),
            "turn": lambda x: rope(x, THETA),
        }

    def norms(self, b):
        return {"norm1": self.norm(b.input_layernorm), "norm2": self.norm(b.post_attention_layernorm)}

    def embed(self, module, ids):
        return module.model.embed_tokens.weight[ids]

    def references(self, module, tensors):
        blocks = [
            Block(
                **self.attention(b, i),
                **self.norms(b),
                up=linear(b.mlp.gate_proj),
                gated=linear(b.mlp.up_proj),
                down=linear(b.mlp.down_proj),
                act=self.act,
            )
            for i, b in enumerate(module.model.layers)
        ]
        start = lambda: (self.embed(module, tensors["input_ids"]),) * 2  # noqa: E731
        return [Reference("text", start, blocks, lambda x: {"ln_final": self.norm(module.model.norm)(x)})]

    def test_final_norm_is_the_last_hidden_state(self, model, module):
        tensors = self.tensors()
        run = model.run(tensors, capture="text.ln_final")
        with torch.no_grad():
            last = module(**tensors, output_hidden_states=True).hidden_states[-1]
        keep = self.keep(model, run, "text.ln_final")
        assert torch.equal(run.acts["text.ln_final"][keep], last[keep])


class TestMistral(TestLlama):
    def make(self):
        return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4))

    def attention(self, b, i):
        return {**super().attention(b, i), "window": 4}


class TestQwen2(TestLlama):
    def make(self):
        return Qwen2ForCausalLM(Qwen2Config(**SIZES))


def head_normed(projection, norm, head_dim):
    project = linear(projection)
    return lambda x: norm(project(x).unflatten(-1, (-1, head_dim))).flatten(-2)


class TestQwen3(TestLlama):
    def make(self):
        return Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=6))

    def attention(self, b, i):
        a = b.self_attn
        normed = {
            "q": head_normed(a.q_proj, self.norm(a.q_norm), 6),
            "k": head_normed(a.k_proj, self.norm(a.k_norm), 6),
        }
        return {**super().attention(b, i), **normed}


class TestGemma(TestLlama):
    head_dim = 10

    def make(self):
        return GemmaForCausalLM(GemmaConfig(**SIZES, head_dim=self.head_dim))

    def norm(self, module):
        return rms_norm(module, plus=1.0)

    @staticmethod
    def act(x):
        return F.gelu(x, approximate="tanh")

    def embed(self, module, ids):
        return module.model.embed_tokens.weight[ids] * 32**0.5


class TestGemma2(TestGemma):
    def make(self):
        return Gemma2ForCausalLM(
            Gemma2Config(
                **SIZES,
                head_dim=self.head_dim,
                sliding_window=3,
                query_pre_attn_scalar=7,
                attn_logit_softcapping=2.0,
            )
        )

    def attention(self, b, i):
        window = 3 if b.self_attn.layer_type == "sliding_attention" else None
        return {**super().attention(b, i), "scale": 7**-0.5, "softcap": 2.0, "window": window}

    def norms(self, b):
        return {
            "norm1": self.norm(b.input_layernorm),
            "norm2": self.norm(b.pre_feedforward_layernorm),
            "after_attn": self.norm(b.post_attention_layernorm),
            "after_mlp": self.norm(b.post_feedforward_layernorm),
        }

    def test_eager_and_sdpa_agree(self, model, module):
        pytest.skip("Gemma 2 has no sdpa: it cannot cap scores")


class TestGemma3(TestGemma2):
    def make(self):
        return Gemma3ForCausalLM(
            Gemma3TextConfig(
                **SIZES,
                head_dim=self.head_dim,
                sliding_window=3,
                query_pre_attn_scalar=7,
                layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            )
        )

    def attention(self, b, i):
        a = b.self_attn
        theta = 10_000.0 if a.is_sliding else 1_000_000.0
        return {
            **super().attention(b, i),
            "softcap": None,
            "turn": lambda x: rope(x, theta),
            "q": head_normed(a.q_proj, self.norm(a.q_norm), self.head_dim),
            "k": head_normed(a.k_proj, self.norm(a.k_norm), self.head_dim),
        }

    test_eager_and_sdpa_agree = AdapterTests.test_eager_and_sdpa_agree


class TestGPT2(AdapterTests):
    def make(self):
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, n_positions=16, n_inner=44)
        )

    def tensors(self):
        return self.text()

    def references(self, module, tensors):
        t = module.transformer

        def start():
            embed = t.wte.weight[tensors["input_ids"]]
            return embed, embed + t.wpe.weight[: embed.shape[1]]

        def part(b, i):
            fused = linear(b.attn.c_attn)
            return lambda x: fused(x)[..., i * 32 : (i + 1) * 32]

        blocks = [
            Block(
                heads=4,
                q=part(b, 0),
                k=part(b, 1),
                v=part(b, 2),
                o=linear(b.attn.c_proj),
                up=linear(b.mlp.c_fc),
                down=linear(b.mlp.c_proj),
                act=lambda x: F.gelu(x, approximate="tanh"),
                norm1=layer_norm(b.ln_1),
                norm2=layer_norm(b.ln_2),
            )
            for b in t.h
        ]
        return [Reference("text", start, blocks, lambda x: {"ln_final": layer_norm(t.ln_f)(x)})]


class TestNeoX(AdapterTests):
    parallel = True

    def make(self):
        kwargs = {
            **SIZES,
            "rope_parameters": {"rope_type": "default", "rope_theta": THETA, "partial_rotary_factor": 0.5},
        }
        del kwargs["num_key_value_heads"]
        return GPTNeoXForCausalLM(GPTNeoXConfig(**kwargs, use_parallel_residual=self.parallel))

    def tensors(self):
        return self.text()

    def references(self, module, tensors):
        n = module.gpt_neox

        def part(b, i):
            fused = linear(b.attention.query_key_value)
            columns = [h * 24 + i * 8 + d for h in range(4) for d in range(8)]
            return lambda x: fused(x)[..., columns]

        blocks = [
            Block(
                heads=4,
                q=part(b, 0),
                k=part(b, 1),
                v=part(b, 2),
                o=linear(b.attention.dense),
                up=linear(b.mlp.dense_h_to_4h),
                down=linear(b.mlp.dense_4h_to_h),
                act=F.gelu,
                norm1=layer_norm(b.input_layernorm),
                norm2=layer_norm(b.post_attention_layernorm),
                turn=lambda x: rope(x, THETA, 0.5),
                residual="parallel" if self.parallel else "sequential",
            )
            for b in n.layers
        ]
        start = lambda: (n.embed_in.weight[tensors["input_ids"]],) * 2  # noqa: E731
        return [Reference("text", start, blocks, lambda x: {"ln_final": layer_norm(n.final_layer_norm)(x)})]

    def test_resid_mid(self, model):
        assert ("text.0.resid_mid" in model.sites()) != self.parallel
        if self.parallel:
            with pytest.raises(UnknownSiteError):
                model.resolve("blocks.0.hook_resid_mid")


class TestNeoXSequential(TestNeoX):
    parallel = False


class TestBert(AdapterTests):
    start_at = 0
    name = "bert"

    def make(self):
        return BertForMaskedLM(BertConfig(**{k: v for k, v in SIZES.items() if k != "num_key_value_heads"}))

    def tensors(self):
        return self.text()

    def references(self, module, tensors):
        bert = getattr(module, self.name) if self.name else module
        e = bert.embeddings

        def start():
            ids = tensors["input_ids"]
            embed = e.word_embeddings.weight[ids]
            position = e.position_embeddings.weight[self.start_at : self.start_at + ids.shape[1]]
            return embed, layer_norm(e.LayerNorm)(embed + position + e.token_type_embeddings.weight[0])

        blocks = []
        for b in bert.encoder.layer:
            a = b.attention.self
            blocks.append(
                Block(
                    heads=4,
                    q=linear(a.query),
                    k=linear(a.key),
                    v=linear(a.value),
                    o=linear(b.attention.output.dense),
                    up=linear(b.intermediate.dense),
                    down=linear(b.output.dense),
                    act=F.gelu,
                    norm1=layer_norm(b.attention.output.LayerNorm),
                    norm2=layer_norm(b.output.LayerNorm),
                    residual="post-norm",
                )
            )
        return [Reference("text", start, blocks, causal=False)]

    def test_transformer_lens_names_mean_the_normed_stream(self, model):
        assert model.resolve("blocks.1.hook_normalized_resid_post") == ["text.1.resid_post"]
        with pytest.raises(UnknownSiteError):
            model.resolve("blocks.1.hook_resid_post")


class TestRoberta(TestBert):
    start_at = 2
    name = ""

    def make(self):
        sizes = {k: v for k, v in SIZES.items() if k != "num_key_value_heads"} | {"pad_token_id": 1}
        return RobertaModel(RobertaConfig(**sizes))


def test_chunked_feed_forward_is_an_error_and_not_half_the_rows():
    from mmxai.errors import SiteNotFiredError

    module = TestBert().make().eval()
    for layer in module.bert.encoder.layer:
        layer.chunk_size_feed_forward = 1
    with pytest.raises(SiteNotFiredError, match="chunk_size_feed_forward"):
        load_model(module).run(TestBert().tensors(), capture="text.0.mlp_post")


def test_padding_does_not_reach_real_tokens():
    model = load_model(shake(TestLlama().make()))
    long = model.run(
        {"input_ids": torch.tensor([[5, 6, 7, 0, 0]]), "attention_mask": torch.tensor([[1, 1, 1, 0, 0]])},
        capture="text.2.resid_post",
    )
    short = model.run({"input_ids": torch.tensor([[5, 6, 7]])}, capture="text.2.resid_post")
    torch.testing.assert_close(long.acts["text.2.resid_post"][:, :3], short.acts["text.2.resid_post"])


class TestElectra(TestBert):
    """Embeddings narrower than the stream, and a projection between them."""

    name = ""

    def make(self):
        sizes = {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}
        return ElectraModel(ElectraConfig(**sizes, embedding_size=20))

    def references(self, module, tensors):
        (reference,) = super().references(module, tensors)
        start = reference.start

        def projected():
            embed, x = start()
            return embed, linear(module.embeddings_project)(x)

        reference.start = projected
        return [reference]


@pytest.mark.parametrize("kind", ["XLMRoberta", "Camembert"])
def test_other_names_of_the_same_structure(kind):
    sizes = {k: v for k, v in SIZES.items() if k != "num_key_value_heads"} | {"pad_token_id": 1}
    module = getattr(transformers, f"{kind}ForMaskedLM")(getattr(transformers, f"{kind}Config")(**sizes))
    report = check(load_model(shake(module)))
    assert report.ok, str(report)
