"""Steering by the directions of probes: on every decoded token, and what a model then says."""

import re

import numpy as np
import pytest
import torch

import mmxai
from mmxai import edits
from mmxai.labels import read_labels
from mmxai.methods.probe import ProbeConfig, load_directions, load_erasers, probe
from tests.models.tokenizers_ import word_tokenizer

STORIES, SITE = 400, "text.3.resid_post"
SHE, HE = (re.compile(rf"\b({words})\b", re.IGNORECASE) for words in ("she|her|girl", "he|his|him|boy"))


def test_steering_by_a_direction(tmp_path):
    """A direction found in a store moves the model it is of: added at its site, the probe says that class, at
    every token of a generation; projected out, it says nothing of it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = word_tokenizer("none")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(
        LlamaConfig(**sizes, vocab_size=len(tokenizer), max_position_embeddings=64)
    ).save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    model = mmxai.load_model(str(tmp_path / "lm"))
    draw = np.random.default_rng(0)
    kind = draw.integers(0, 2, 200)
    texts = [" ".join(f"w{50 * k + draw.integers(0, 50)}" for _ in range(8)) for k in kind]
    site = "text.0.resid_post"
    mmxai.harvest(
        model, [{"text": t} for t in texts], sites=site, store=tmp_path / "s", store_dtype="float32",
        progress=False,
    )  # fmt: skip
    (tmp_path / "l.csv").write_text("sample,kind\n" + "\n".join(f"{i},k{k}" for i, k in enumerate(kind)))
    with mmxai.open_store(tmp_path / "s") as opened:
        report = probe(
            opened, read_labels(tmp_path / "l.csv", opened), ProbeConfig(sites=site, pool="mean", mdl=False)
        )
        spread = float(opened[site][:].std())
    assert report.scores[0].figures["accuracy"].value > 0.9
    found = report.directions[site, "kind"]
    unit = found.unit("k1")
    seen = []

    def look(x):
        seen.append((x.double() @ found.coef[1].double() + found.intercept[1]).flatten())
        return x

    said = {}
    for name, edit in (
        ("as it is", []), ("more", [edits.add(unit, 40 * spread)]), ("less", [edits.add(unit, -40 * spread)]),
        ("none", [edits.project_out(unit)]),
    ):  # fmt: skip
        seen.clear()
        with model.intervene({site: [*edit, look]}):
            said[name] = model.generate([texts[0]], max_new_tokens=6).texts
        assert len(seen) == 6, "a forward for the prompt and one for each further token"
        scores = torch.cat(seen)
        if name == "more":
            assert (scores > 0).all()
        elif name == "less":
            assert (scores < 0).all()
        elif name == "none":
            assert torch.allclose(scores, found.intercept[1].double(), atol=1e-4)
    assert said["more"] != said["less"]


@pytest.fixture(scope="module")
def stories(shared_data, tmp_path_factory):
    """A model of stories, its directions and erasers from what it tells of a girl and of a boy (after these
    words, so that nothing but the story tells them apart), and the mean length of its rows."""
    torch.manual_seed(0)
    model = mmxai.load_model(str(shared_data / "stories260K"))
    heroes = ["girl", "boy"] * (STORIES // 2)
    starts = [f"Once upon a time, there was a little {hero}" for hero in heroes]
    told = [
        text
        for i in range(0, STORIES, 100)
        for text in model.generate(starts[i : i + 100], max_new_tokens=48, do_sample=True).texts
    ]
    home = tmp_path_factory.mktemp("stories")
    mmxai.harvest(
        model, [{"text": t} for t in told], sites="text.{1,3}.resid_post", store=home / "acts.zarr",
        store_dtype="float32", progress=False,
    )  # fmt: skip
    (home / "l.csv").write_text("sample,hero\n" + "\n".join(f"{i},{h}" for i, h in enumerate(heroes)))
    with mmxai.open_store(home / "acts.zarr") as store:
        report = probe(store, home / "l.csv", ProbeConfig(pool="mean", erase=True, bootstrap=0, mdl=False))
        length = float(store[SITE][:].norm(dim=1).mean())
    assert report.best("hero").figures["accuracy"].value > 0.85
    report.save(home / "probe.json")
    return (
        model,
        load_directions(home / "probe.safetensors"),
        load_erasers(home / "probe.erasers.safetensors"),
        length,
    )


def heroines(model, *edit):
    """Share of girls among whom the model tells of, and how often a site was gone through."""
    torch.manual_seed(1)
    passes = []
    with model.intervene({SITE: [*edit, lambda x: (passes.append(x.shape[1]), x)[1]]}):
        told = "\n".join(model.generate(["One day,"] * 150, max_new_tokens=40, do_sample=True).texts)
    she, he = len(SHE.findall(told)), len(HE.findall(told))
    assert she + he > 100, "still stories"
    return she / (she + he), passes


def test_stories_are_of_whom_the_direction_says(stories):
    """A quarter of a row's length, at each decoded token; a random direction of that length does not."""
    model, directions, _, length = stories
    girl = directions[SITE, "hero"].unit("girl")
    plain, passes = heroines(model)
    assert len(passes) == 40 and set(passes[1:]) == {1}, "the prompt, then token by token"
    more, passes = heroines(model, edits.add(girl, 0.25 * length))
    assert len(passes) == 40
    less, _ = heroines(model, edits.add(girl, -0.25 * length))
    draw = torch.nn.functional.normalize(torch.randn(6, len(girl)), dim=1)
    control = [heroines(model, edits.add(v, 0.25 * length))[0] for v in draw]
    print(f"girls: {plain:.2f}, steered {more:.2f}, {less:.2f}, by random directions {control}")
    assert more > max(control) + 0.1 and less < plain - 0.15
    assert more - less > 1.5 * (max(control) - min(control))


def test_held_to_a_range_and_erased(stories):
    """clamp holds every decoded token's coordinate where it is told to; an eraser, as an edit, takes most of
    what the probe told the tokens apart by."""
    model, directions, erasers, length = stories
    found, low = directions[SITE, "hero"], 0.1 * length

    def scores(*edit, along):
        seen = []
        share, _ = heroines(model, *edit, lambda x: (seen.append((x @ along).flatten()), x)[1])
        return share, torch.cat(seen)

    girl = found.unit("girl")
    plain, unedited = scores(along=girl)
    told, held = scores(edits.clamp(girl, low=low), along=girl)
    assert unedited.min() < 0 < low - 1e-3 < held.min() and told > plain + 0.2
    _, erased = scores(erasers[SITE, "hero"], along=girl)
    print(f"girls: {plain:.2f}, held {told:.2f}; spread {unedited.std():.2f}, erased {erased.std():.2f}")
    assert erased.std() < 0.5 * unedited.std()
