from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from transformers import OPTConfig, OPTForCausalLM, OPTModel

from mmxai.errors import UnknownSiteError
from mmxai.models import load_model
from mmxai.models.check import check

from .contract import AdapterTests, Block, Reference, close, layer_norm, linear, shake

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "ffn_dim": 44,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    "activation_function": "gelu",  # as Galactica's: finite differences cannot step over ReLU's kinks
    "dropout": 0.0,
}
POST_NORM = {"do_layer_norm_before": False, "word_embed_proj_dim": 20}


class TestOPT(AdapterTests):
    post_norm = False

    def make(self):
        return OPTForCausalLM(OPTConfig(**SIZES | (POST_NORM if self.post_norm else {})))

    def tensors(self):
        return self.text()

    def references(self, module, tensors):
        d = module.model.decoder
        post = not module.config.do_layer_norm_before

        def start():
            embed = d.embed_tokens.weight[tensors["input_ids"]]
            x = embed if d.project_in is None else linear(d.project_in)(embed)
            # Two rows of the table stand in front of position 0; padding keeps the row of "no position".
            at = (torch.arange(x.shape[1]) + 2) * tensors["attention_mask"]
            return embed, x + d.embed_positions.weight[at.clamp(min=1)]

        blocks = [
            Block(
                heads=4,
                q=linear(b.self_attn.q_proj),
                k=linear(b.self_attn.k_proj),
                v=linear(b.self_attn.v_proj),
                o=linear(b.self_attn.out_proj),
                up=linear(b.fc1),
                down=linear(b.fc2),
                act=F.gelu,
                norm1=layer_norm(b.self_attn_layer_norm),
                norm2=layer_norm(b.final_layer_norm),
                residual="post-norm" if post else "sequential",
            )
            for b in d.layers
        ]
        end = (lambda x: {}) if post else (lambda x: {"ln_final": layer_norm(d.final_layer_norm)(x)})
        return [Reference("text", start, blocks, end)]

    def test_an_edit_holds_through_a_generation(self, model):
        """Each step has its own number of rows, which modules that see them in one dimension must follow."""
        ids = self.text()["input_ids"][:2, :4]
        plain = model.module.generate(input_ids=ids, max_new_tokens=3, do_sample=False)
        with model.intervene({"text.1.mlp_post": lambda x: x.clone()}) as requests:
            same = model.module.generate(input_ids=ids, max_new_tokens=3, do_sample=False)
        assert torch.equal(plain, same)
        assert requests["text.1.mlp_post"].fired == 3
        shapes = []
        with model.intervene({"text.1.mlp_pre": lambda x: (shapes.append(tuple(x.shape)), x)[1]}):
            model.module.generate(input_ids=ids, max_new_tokens=3, do_sample=False)
        assert shapes == [(2, 4, 44), (2, 1, 44), (2, 1, 44)]


class TestOPTProjected(TestOPT):
    """OPT-350m: norms behind the sums, and embeddings narrower than the stream."""

    post_norm = True

    def test_transformer_lens_names_mean_the_normed_stream(self, model):
        assert model.resolve("blocks.1.hook_normalized_resid_post") == ["text.1.resid_post"]
        with pytest.raises(UnknownSiteError):
            model.resolve("blocks.1.hook_resid_post")
        assert "text.ln_final" not in model.sites()


def test_the_readout_is_declared_where_it_is_a_norm_and_one_matrix():
    model = load_model(shake(TestOPT().make()))
    run = model.run(TestOPT().text(), capture="text.ln_final")
    readout = model.towers["text"].spec.readout
    assert readout is not None and readout.matrix == "/lm_head"
    close(F.linear(run.acts["text.ln_final"], model.module.lm_head.weight), run.out.logits)
    assert load_model(shake(TestOPTProjected().make())).towers["text"].spec.readout is None


def test_without_a_head_and_with_relu():
    model = load_model(shake(OPTModel(OPTConfig(**SIZES | {"activation_function": "relu"}))))
    assert model.sites() == load_model(shake(TestOPT().make())).sites()
    report = check(model)
    assert report.ok, str(report)
