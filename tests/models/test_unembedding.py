"""The end of each family against what the model itself puts out, and saved against what it was saved from."""

import pytest
import torch
from torch.nn.functional import normalize

from mmxai.errors import ArgumentError, ModelError
from mmxai.models import load_model, wrap
from mmxai.models.unembedding import is_unembedding, load_unembedding, unembedding

from . import (
    test_blip_2,
    test_clip,
    test_gemma3,
    test_llava,
    test_llava_next,
    test_opt,
    test_paligemma,
    test_qwen_vl,
    test_text,
)
from .contract import shake

FAMILIES = {
    "llama": test_text.TestLlama,
    "qwen3": test_text.TestQwen3,
    "gemma": test_text.TestGemma,
    "gemma2": test_text.TestGemma2,
    "gemma3": test_text.TestGemma3,
    "gpt2": test_text.TestGPT2,
    "neox": test_text.TestNeoX,
    "opt": test_opt.TestOPT,
    "opt-projected": test_opt.TestOPTProjected,
    "llava": test_llava.TestLlava,
    "llava-next": test_llava_next.TestLlavaNext,
    "onevision": test_llava_next.TestLlavaOnevision,
    "qwen2-vl": test_qwen_vl.TestQwen2VL,
    "qwen2.5-vl": test_qwen_vl.TestQwen25VL,
    "paligemma": test_paligemma.TestPaliGemma,
    "gemma3-pictures": test_gemma3.TestGemma3,
    "blip-2": test_blip_2.TestBlip2,
}


def made(name):
    case = FAMILIES[name]()
    torch.manual_seed(1)
    return load_model(shake(case.make())), case.tensors()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_state_gives_the_models_own_logits(name, tmp_path):
    model, tensors = made(name)
    end = unembedding(model)
    last = f"text.{end.blocks - 1}.resid_post"
    normed = [site for site in ("text.ln_final",) if site in model.sites()]
    run = model.run(tensors, capture=[last, *normed])
    keep = model.prepare(tensors).rows["text"][..., 4] != 7
    own = run.out.logits[keep]
    x = run.acts[last][keep]
    torch.testing.assert_close(end.logits(x), own, rtol=0, atol=1e-5)
    # What has been normed is not normed again.
    for site in normed:
        torch.testing.assert_close(end.logits(run.acts[site][keep], "ln_final"), own, rtol=0, atol=1e-5)
    saved = load_unembedding(end.save(tmp_path / "end"))
    torch.testing.assert_close(saved.logits(x), own, rtol=0, atol=1e-5)
    assert (saved.size, saved.blocks, saved.softcap) == (end.size, end.blocks, end.softcap)
    assert [saved.names(i) for i in range(5)] == [end.names(i) for i in range(5)]


def test_a_cap_is_the_models_own():
    assert unembedding(made("gemma2")[0]).softcap == 30.0 and unembedding(made("llama")[0]).softcap is None


def test_norms_are_differentiable():
    end = unembedding(made("gpt2")[0])
    x = torch.randn(2, end.width, requires_grad=True)
    end.logits(x).sum().backward()
    assert x.grad is not None and x.grad.abs().max() > 0


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_clip_towers_are_compared_with_a_bank(tower, tmp_path):
    case = test_clip.TestCLIP()
    torch.manual_seed(1)
    model = load_model(shake(case.make()))
    tensors = case.tensors()
    bank = torch.randn(4, model.sites()[f"{tower}.embeds"])
    end = unembedding(model, tower, bank)
    run = model.run(tensors, capture=[f"{tower}.{end.blocks - 1}.resid_post", f"{tower}.embeds"])
    own = normalize(run.acts[f"{tower}.embeds"][:, 0], dim=1) @ normalize(bank, dim=1).T
    own = own * model.module.logit_scale.exp().detach()
    x = run.acts[f"{tower}.{end.blocks - 1}.resid_post"]
    at = [0] * len(x)
    if tower == "text":  # as transformers pools
        at = tensors["input_ids"].argmax(1).tolist()
    rows = torch.stack([x[i, t] for i, t in enumerate(at)])
    torch.testing.assert_close(end.logits(rows), own, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        end.logits(run.acts[f"{tower}.embeds"][:, 0], "embeds"), own, rtol=1e-5, atol=1e-5
    )
    saved = load_unembedding(end.save(tmp_path))
    torch.testing.assert_close(saved.logits(rows), own, rtol=1e-5, atol=1e-5)
    assert saved.bank == end.bank == ("text 0", "text 1", "text 2", "text 3")


def test_refusals(tmp_path):
    model = made("gpt2")[0]
    with pytest.raises(ArgumentError, match=r"expected one of \['text'\]"):
        unembedding(model, "vision")
    with pytest.raises(ArgumentError, match="texts are the bank of a CLIP"):
        unembedding(model, texts=["a"])
    torch.manual_seed(0)
    clip = load_model(test_clip.TestCLIP().make())
    with pytest.raises(ArgumentError, match="got no texts"):
        unembedding(clip, "vision")
    bert = load_model(test_text.TestBert().make())
    with pytest.raises(ArgumentError, match="ends in no logits"):
        unembedding(bert)
    bare = load_model(made("llama")[0].module.model)
    with pytest.raises(ArgumentError, match="which has no lm_head"):
        unembedding(bare)
    with pytest.raises(ArgumentError, match="expected one of"):
        unembedding(wrap(torch.nn.Linear(3, 3), example=torch.zeros(1, 3)))
    assert not is_unembedding(tmp_path)
    with pytest.raises(ModelError, match="expected a folder that"):
        load_unembedding(tmp_path)
    end = unembedding(model).save(tmp_path / "end")
    (end / "unembedding.json").write_text('{"version": 1}')
    with pytest.raises(ModelError, match="is damaged"):
        load_unembedding(end)
