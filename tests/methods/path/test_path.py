"""The split against what each model itself puts out, and term by term against autograd and the weights."""

from __future__ import annotations

import copy
from pathlib import Path as File

import pytest
import torch
from transformers import Dinov2ForImageClassification, ViTForImageClassification

from mmxai.errors import ArgumentError, ModelError
from mmxai.methods.path import Path
from mmxai.models import families, load_model, wrap
from tests.models import (
    test_blip_2,
    test_clip,
    test_elsewhere,
    test_gemma3,
    test_llava,
    test_llava_next,
    test_opt,
    test_paligemma,
    test_qwen_vl,
    test_siglip,
    test_t5,
    test_text,
    test_vision,
)
from tests.models.contract import shake


class Classifier(test_vision.TestViT):
    def make(self):
        return ViTForImageClassification(self.config())


class TimmLogits(test_elsewhere.TimmViT):
    def __init__(self):
        super().__init__()
        self.global_pool, self.head = "token", torch.nn.Linear(32, 10)

    def forward(self, x):
        return self.head(super().forward(x)[:, 0])


class TimmClassifier(test_elsewhere.TestTimm):
    def make(self):
        return TimmLogits()


FAMILIES = {
    "clip": test_clip.TestCLIP,
    "open_clip": test_elsewhere.TestOpenCLIP,
    "timm": test_elsewhere.TestTimm,
    "timm-classifier": TimmClassifier,
    "vit": test_vision.TestViT,
    "vit-classifier": Classifier,
    "dinov2": test_vision.TestDinov2,
    "dinov2-swiglu": test_vision.TestDinov2SwiGLU,
    "dinov2-registers": test_vision.TestDinov2Registers,
    "llama": test_text.TestLlama,
    "mistral": test_text.TestMistral,
    "qwen2": test_text.TestQwen2,
    "qwen3": test_text.TestQwen3,
    "gemma": test_text.TestGemma,
    "gemma2": test_text.TestGemma2,
    "gemma3": test_text.TestGemma3,
    "gpt2": test_text.TestGPT2,
    "neox": test_text.TestNeoX,
    "neox-sequential": test_text.TestNeoXSequential,
    "bert": test_text.TestBert,
    "roberta": test_text.TestRoberta,
    "electra": test_text.TestElectra,
    "umt5": test_t5.TestUMT5,
    "llava": test_llava.TestLlava,
    "llava-next": test_llava_next.TestLlavaNext,
    "opt": test_opt.TestOPT,
    "t5": test_t5.TestT5,
    "qwen2_vl": test_qwen_vl.TestQwen2VL,
    "paligemma": test_paligemma.TestPaliGemma,
    "gemma3_mm": test_gemma3.TestGemma3,
    "blip_2": test_blip_2.TestBlip2,
}
BOTH, VISION = ("clip", "open_clip"), ("timm", "vit", "dinov2")
CASES = [(name, "vision") for name in FAMILIES if name.startswith((*BOTH, *VISION))]
CASES += [(name, "text") for name in FAMILIES if not name.startswith(VISION)]


def made(name: str, tower: str):
    case = FAMILIES[name]()
    torch.manual_seed(1)
    model = load_model(shake(case.make()))
    return Path(model, tower), case.tensors()


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest error of a row over the row's norm."""
    return float(((a - b).norm(dim=-1) / b.norm(dim=-1)).max())


@pytest.mark.parametrize(("name", "tower"), CASES)
def test_the_terms_sum_to_the_models_own_output(name, tower):
    path, tensors = made(name, tower)
    batch = path.read(tensors)
    assert batch["output"].shape == (3, path.out)
    split = path.split(batch, path.everything())
    assert split.shape == (3, len(path.terms), path.out)
    assert relative(path.shown(split.sum(1)), batch["output"]) < 1e-4
    assert relative(path.shown(path.output(batch)), batch["output"]) < 1e-4
    assert (split.abs().amax((0, 2)) > 0).all()  # no term is there for nothing
    # An error of one term would be seen: none is small against the tolerance.
    dims = path.model.towers[tower].dims
    heads = [t for t in path.terms if t.kind == "head"]
    assert len(heads) == dims.heads * dims.blocks
    sizes = split.norm(dim=(0, 2)) / split.sum(1).norm()
    kinds = [size for size, term in zip(sizes, path.terms, strict=True) if term.kind in ("head", "mlp")]
    assert min(kinds) > 1e-4


def test_every_family_is_among_the_cases():
    files = {p.stem for p in File(families.__file__).parent.glob("*.py")} - {"__init__"}
    covered = {load_model(FAMILIES[name]().make()).family for name, _ in CASES}
    assert files == covered | {"siglip"}  # which pools by attention: no row is read out linearly
    with pytest.raises(ArgumentError, match="linear behind its norm"):
        Path(load_model(test_siglip.TestSigLIP().make()), "vision")


@pytest.mark.parametrize(("name", "tower"), CASES)
def test_targets_of_each_row_and_single_columns_agree_with_the_whole(name, tower):
    path, tensors = made(name, tower)
    batch = path.read(tensors)
    whole = path.split(batch, path.everything())
    torch.manual_seed(3)
    directions = torch.randn(3, 2, path.out)
    expected = torch.einsum("nco,nko->nck", whole, directions)
    scale = float(expected.abs().max())
    got = path.split(batch, path.towards(directions))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * scale)
    which = torch.tensor([[0, 3], [2, 1], [4, 4]])
    got = path.split(batch, path.outputs(which))
    expected = torch.stack([whole[i][:, w] for i, w in enumerate(which)])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * scale)
    shares = path.split(batch, path.itself(batch)).sum(1)
    torch.testing.assert_close(shares, torch.ones(3, 1), rtol=1e-4, atol=1e-4)
    names = [t.name for t in path.terms]
    for targets in (path.everything(), path.towards(directions)):
        split = path.split(batch, targets)
        for site in (f"{tower}.1.mlp_post", f"{tower}.0.z"):
            columns = path.columns(batch, site, targets)
            heads = [i for i, t in enumerate(names) if t == site or t.rpartition(".")[0] == site]
            heads = [i for i in heads if path.terms[i].kind in ("head", "mlp")]
            if site.endswith("z"):
                columns = columns.unflatten(-1, (len(heads), -1))
                torch.testing.assert_close(
                    columns.sum(-1).transpose(1, 2), split[:, heads], rtol=1e-4, atol=1e-4 * scale
                )
            else:
                torch.testing.assert_close(columns.sum(-1), split[:, heads[0]], rtol=1e-4, atol=1e-4 * scale)
                torch.testing.assert_close(columns, path.neurons(batch, 1, targets))


def test_a_heads_term_is_what_the_output_loses_without_it_where_nothing_reads_it():
    """The last block's heads, with the norm's scale held: against edits of the model and its own norm."""
    path, tensors = made("clip", "vision")
    batch = path.read(tensors)
    split = path.split(batch, path.everything())
    last = f"vision.{path.model.towers['vision'].dims.blocks - 1}"
    norm = path.model.module.vision_model.post_layernorm
    projection = path.model.module.visual_projection.weight
    resid = path.model.run(tensors, capture=f"{last}.resid_post").acts[f"{last}.resid_post"][:, 0]
    with torch.no_grad():
        scale = (resid.var(-1, correction=0) + norm.eps).sqrt()
        weight = path.model.module.vision_model.encoder.layers[-1].mlp.fc2.weight
        term = batch[f"{last}.mlp_post"] @ weight.T
        expected = (norm.weight * (term - term.mean(-1, keepdim=True)) / scale[:, None]) @ projection.T
    at = [t.name for t in path.terms].index(f"{last}.mlp_post")
    torch.testing.assert_close(split[:, at], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(path.scales(batch)["ln_final"], scale, rtol=1e-5, atol=0)


def test_logits_are_those_of_the_unembedding_and_centring_takes_their_mean():
    path, tensors = made("llama", "text")
    batch = path.read(tensors)
    every, centred = (path.split(batch, path.outputs(torch.arange(64), centred=c)) for c in (False, True))
    torch.testing.assert_close(centred, every - every.mean(-1, keepdim=True), rtol=1e-4, atol=1e-4)
    out = path.model.run(tensors).out.logits
    torch.testing.assert_close(every.sum(1)[1], out[1, 4], rtol=1e-4, atol=1e-3)  # padded behind position 4


def test_the_end_of_a_text_is_where_clip_pools():
    path, tensors = made("clip", "text")
    ends = (tensors["input_ids"] == test_clip.EOS).int().argmax(1)
    assert path.read(tensors).rows.position.tolist() == ends.tolist()
    path, tensors = made("open_clip", "text")
    tensors["input_ids"][0, 2] = 63  # the largest id, in front of the end
    assert path.read(tensors).rows.position.tolist() == [2, 6, 6]


def test_a_cap_on_logits_lies_behind_the_split():
    case = FAMILIES["gemma2"]()
    module = shake(case.make())
    assert module.config.final_logit_softcapping
    path = Path(load_model(module))
    batch = path.read(case.tensors())
    assert path.output(batch).abs().max() > batch["output"].abs().max()
    assert path.shown(path.output(batch)).sub(batch["output"]).abs().max() < 1e-3


def test_bfloat16_weights_are_split_in_float32():
    case = FAMILIES["llama"]()
    path = Path(load_model(copy.deepcopy(shake(case.make())).to(torch.bfloat16)))
    batch = path.read(case.tensors())
    split = path.split(batch, path.everything())
    assert split.dtype == torch.float32
    assert relative(split.sum(1), batch["output"]) < 0.05
    assert relative(split.sum(1), path.output(batch)) < 1e-4


def test_what_cannot_be_split_is_refused():
    path, tensors = made("clip", "vision")
    with pytest.raises(ArgumentError, match="expected tower="):
        Path(path.model)
    with pytest.raises(ArgumentError, match="the vision tower reads"):
        path.read({"input_ids": tensors["input_ids"]})
    with pytest.raises(ArgumentError, match=r"expected \(K, 20\)"):
        path.towards(torch.ones(2, 21))
    with pytest.raises(ArgumentError, match="expected one of"):
        path.columns(path.read(tensors), "vision.0.q", path.everything())
    module = shake(FAMILIES["gpt2"]().make())
    module.transformer.ln_f = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.Tanh())
    with pytest.raises(ModelError, match="expected a layer norm"):
        Path(load_model(module))


class Lora(torch.nn.Module):
    """As peft has it: it shows the base layer's weight and adds a product of its own."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.down, self.up = (torch.nn.Linear(n, m, bias=False) for n, m in ((32, 2), (2, 32)))

    weight = property(lambda self: self.base_layer.weight)
    bias = property(lambda self: self.base_layer.bias)

    def forward(self, x):
        return self.base_layer(x) + 0.1 * self.up(self.down(x))


def test_an_adapter_beside_a_matrix_is_refused():
    module = shake(FAMILIES["llama"]().make())
    attention = module.model.layers[1].self_attn
    attention.o_proj = Lora(attention.o_proj)
    with pytest.raises(ModelError, match="merge it first"):
        Path(load_model(module))


def test_a_classifier_on_more_than_the_class_token_is_split_up_to_its_norm():
    config = test_vision.TestDinov2().make().config
    model = load_model(shake(Dinov2ForImageClassification(config)))
    assert Path(model).out == config.hidden_size


@pytest.mark.parametrize(("part", "pool", "tower"), [("visual", "avg", "vision"), ("", "last", "text")])
def test_pooling_that_reads_no_one_token_is_refused(part, pool, tower):
    module = test_elsewhere.TestOpenCLIP().make()
    setattr(module.get_submodule(part), "pool_type" if part else "text_pool_type", pool)
    with pytest.raises(ArgumentError, match="linear behind its norm"):
        Path(load_model(module), tower)
    timm = test_elsewhere.TestTimm().make()
    timm.global_pool = "avg"
    with pytest.raises(ArgumentError, match="linear behind its norm"):
        Path(load_model(timm))


def test_a_wrapped_network_is_refused():
    model = wrap(torch.nn.Sequential(torch.nn.Linear(3, 3)), example=torch.zeros(2, 3))
    with pytest.raises(ArgumentError, match="expected a model of a known family"):
        Path(model)
