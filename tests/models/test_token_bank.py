"""Token embeddings as the unembedding of encoders of texts: what a reference from the weights gives."""

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    ElectraConfig,
    ElectraModel,
    T5Config,
    T5EncoderModel,
    ViTConfig,
    ViTModel,
)

from mmxai.errors import ArgumentError
from mmxai.methods.lens import lens
from mmxai.models import load_model
from mmxai.models.token_bank import token_embedding
from tests.models.contract import layer_norm, rms_norm, shake

SIZES = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4}
CLIP = CLIPTextConfig(vocab_size=64, max_position_embeddings=12, **SIZES)
T5 = T5Config(vocab_size=64, d_model=24, d_kv=6, d_ff=40, num_layers=3, num_heads=4)
BERT = BertConfig(vocab_size=64, max_position_embeddings=12, **SIZES)
CASES = {
    "clip": (
        lambda: CLIPTextModel(CLIP), "embeddings.token_embedding",
        lambda m: layer_norm(m.get_submodule(_path(m, "final_layer_norm"))),
    ),
    "t5": (
        lambda: T5EncoderModel(T5), "encoder.embed_tokens", lambda m: rms_norm(m.encoder.final_layer_norm),
    ),
    "bert": (lambda: BertModel(BERT), "embeddings.word_embeddings", lambda m: lambda x: x),
}  # fmt: skip


def _path(module, end):
    return next(name for name, _ in module.named_modules() if name.endswith(end))


@pytest.mark.parametrize("name", CASES)
def test_the_lens_on_encoders(name):
    make, table, norm = CASES[name]
    module = shake(make())
    model, ids = load_model(module), torch.randint(3, 60, (2, 8))
    end = token_embedding(model)
    found = lens(model, {"input_ids": ids}, unembed=end, k=4, sites="text.*.resid_post")
    states = model.run({"input_ids": ids}, capture="text.*.resid_post").acts
    weight = module.get_submodule(_path(module, table)).weight
    for i in range(3):
        x = norm(module)(states[f"text.{i}.resid_post"].flatten(0, 1))
        logits = F.cosine_similarity(x[:, None], weight[None], dim=2).log_softmax(1)
        best = logits.topk(4, dim=1)
        at = found.states.index(f"text.{i}.resid_post")
        torch.testing.assert_close(found.logprobs[at], best.values, atol=1e-5, rtol=1e-5)
        assert torch.equal(found.ids[at].long(), best.indices)


def test_by_product_and_its_scale():
    model = load_model(shake(T5EncoderModel(T5)))
    end, x = token_embedding(model, unit=False), torch.randn(5, 24)
    expected = rms_norm(model.module.encoder.final_layer_norm)(x) @ model.module.encoder.embed_tokens.weight.T
    torch.testing.assert_close(end.logits(x), expected)
    assert end.blocks == 3 and end.size == 64


def test_towers_without_such_a_table():
    sizes = {**SIZES, "image_size": 16, "patch_size": 8}
    with pytest.raises(ArgumentError, match=r"tower 'text'.*\['vision'\]"):
        token_embedding(load_model(ViTModel(ViTConfig(**sizes))))
    with pytest.raises(ArgumentError, match="tower 'vision'"):
        token_embedding(load_model(ViTModel(ViTConfig(**sizes))), "vision")
    narrow = ElectraConfig(vocab_size=64, embedding_size=12, max_position_embeddings=12, **SIZES)
    with pytest.raises(ArgumentError, match="12 wide for a stream of 24"):
        token_embedding(load_model(ElectraModel(narrow)))
