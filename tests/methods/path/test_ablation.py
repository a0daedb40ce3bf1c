"""Mean-ablation of direct paths against the sum written out, and of the whole model against plain hooks."""

import numpy as np
import pytest
import torch

import mmxai
from mmxai.errors import ArgumentError
from mmxai.labels import WorldLabels
from mmxai.methods.path import Path, ablate, ablate_whole, class_margins, mean_edits, token_means
from mmxai.models.metrics import number_samples
from mmxai.models.near_texts import embed_texts
from mmxai.shapes import ShapesWorld
from tests.models.contract import count_hooks

from .test_path import made

LABELS = {0: 1, 1: 0, 2: 2, 3: 1, 5: 0}
SETS = {"two heads": ["vision.0.z.1", "vision.1.z.0"], "mlp": ["vision.1.mlp_post"]}


@pytest.fixture(scope="module")
def case():
    path, _ = made("clip", "vision")
    torch.manual_seed(2)
    size = path.model.module.config.vision_config.image_size
    pictures = torch.randn(6, 3, size, size)
    inputs = path.model.prepare({"pixel_values": pictures})
    inputs.rows["vision"][..., 0] = torch.arange(6)[:, None]
    return path, inputs, torch.randn(3, path.out)


def plain(path, inputs, terms, texts):
    """Decisions with the terms' contributions set to their means over labelled rows, in numpy."""
    batch = path.read(inputs)
    split = path.split(batch, path.towards(texts)).double().numpy()
    kept = [n for n in range(6) if n in LABELS]
    mean = split[kept].mean(0)
    names = [t.name for t in path.terms]
    for term in terms:
        split[:, names.index(term)] = mean[names.index(term)]
    right = split[kept].sum(1).argmax(1) == [LABELS[n] for n in kept]
    return right.mean()


def test_direct_paths(case):
    path, inputs, texts = case
    batch = path.read(inputs)
    found = ablate(path, lambda: [batch], path.towards(texts), LABELS, SETS, draws=4)
    assert found.how == "direct path" and found.rows == 5 and found.classes == 3 and found.sizes == [2, 1]
    assert found.clean == plain(path, inputs, [], texts)
    for name, accuracy in zip(found.names, found.accuracy, strict=True):
        assert accuracy == plain(path, inputs, SETS[name], texts)
    tensor = torch.tensor([1, 0, 2, 1, -1, 0])
    again = ablate(path, lambda: [batch], path.towards(texts), tensor, SETS, draws=4)
    np.testing.assert_array_equal(again.random, found.random)


def test_everything_ablated_is_one_decision_for_all(case):
    """What can fail: with all terms at their means every row gets the same class."""
    path, inputs, texts = case
    batch, sets = path.read(inputs), {"all": [t.name for t in path.terms]}
    found = ablate(path, lambda: [batch], path.towards(texts), LABELS, sets, draws=1)
    assert found.accuracy[0] in {0.4, 0.2}  # the share of one class


def test_controls_are_as_many_of_the_same_kind_and_others(case):
    from mmxai.methods.path.ablation import controls, indices

    path, _, _ = case
    chosen = {name: indices(path, terms) for name, terms in SETS.items()}
    drawn = controls(path, chosen, 30, 0)
    heads = [t.name for t in path.terms if t.kind == "head"]
    every = set()
    for some in drawn["two heads"]:
        assert len(set(some)) == 2 and all(path.terms[i].kind == "head" for i in some)
        assert not {*some} & {*chosen["two heads"]}
        every |= {*some}
    assert len(every) == len(heads) - 2
    assert all(path.terms[i].kind == "mlp" and [i] != chosen["mlp"] for (i,) in drawn["mlp"])


def test_the_whole_model(case):
    path, inputs, texts = case
    module = path.model.module
    found = ablate_whole(path, lambda: [inputs], texts, LABELS, SETS, draws=1)
    assert found.how == "whole model" and found.rows == 5 and count_hooks(module) == 0
    linear = module.vision_model.encoder.layers[1].mlp.fc2
    kept = [n for n in range(6) if n in LABELS]

    def outputs():
        with torch.no_grad():
            out = module.get_image_features(pixel_values=inputs.tensors["pixel_values"])
        return out if isinstance(out, torch.Tensor) else out.pooler_output

    seen = []
    handle = linear.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    clean = outputs()
    handle.remove()
    mean = seen[0].flatten(0, 1).mean(0)
    handle = linear.register_forward_pre_hook(lambda m, a: (mean.expand_as(a[0]),))
    without = outputs()
    handle.remove()
    for got, out in ((found.clean, clean), (found.accuracy[1], without)):
        assert got == np.mean((out @ texts.T).argmax(1)[kept].numpy() == [LABELS[n] for n in kept])
    means = token_means(path, [inputs], ["vision.1.mlp_post"])
    torch.testing.assert_close(means["vision.1.mlp_post"], mean)
    with path.model.intervene(mean_edits(path, SETS["mlp"], means)):
        torch.testing.assert_close(path.read(inputs)["output"], without, rtol=1e-4, atol=1e-5)
    assert (without - clean).abs().max() > 1e-3


def test_biases_are_their_own_means(case):
    path, inputs, texts = case
    found = ablate_whole(path, lambda: [inputs], texts, LABELS, {"b": ["vision.1.z.bias"]}, draws=1)
    assert found.accuracy[0] == found.random[0, 0] == found.clean


def test_heads_are_set_to_their_own_means(case):
    path, inputs, _ = case
    means = token_means(path, [inputs], ["vision.0.z"])
    with path.model.intervene(mean_edits(path, ["vision.0.z.1"], means)):
        z = path.model.run(inputs, capture="vision.0.z").acts["vision.0.z"]
    plain = path.model.run(inputs, capture="vision.0.z").acts["vision.0.z"]
    each = path.model.towers["vision"].dims.head_dim
    own = slice(each, 2 * each)
    torch.testing.assert_close(z[..., own], means["vision.0.z"][own].expand_as(z[..., own]))
    rest = [i for i in range(z.shape[-1]) if not each <= i < 2 * each]
    assert torch.equal(z[..., rest], plain[..., rest])


def test_margins_of_classes(case):
    path, inputs, texts = case
    batch = path.read(inputs)
    found = class_margins(path, lambda: [batch], path.towards(texts), LABELS)
    kept = [n for n in range(6) if n in LABELS]
    split = path.split(batch, path.towards(texts)).double().numpy()[kept]
    split -= split.mean(0)
    own = np.stack([split[i, :, LABELS[n]] for i, n in enumerate(kept)])
    np.testing.assert_allclose(found, (own - split.mean(2)).mean(0), rtol=1e-4, atol=1e-5)


def test_the_heads_that_tell_colour_do_not_tell_shape():
    """The shapes CLIP: heads chosen on some pictures, their direct paths cut on others."""
    path = Path(mmxai.load_model("shapes-clip"), "vision")
    world = ShapesWorld(900, seed=11)
    every = WorldLabels(world)
    numbers = np.arange(900)
    values = {t: every.values(every.task(t, "sample"), numbers) for t in ("colour", "shape")}
    single = np.flatnonzero((values["colour"] >= 0) & (values["shape"] >= 0))
    rows = []
    for start in range(0, len(single), 32):
        few = single[start : start + 32]
        inputs = path.model.prepare([world[int(n)] for n in few])
        number_samples(inputs, torch.from_numpy(few))
        rows.append(path.read(inputs))
    half = len(rows) // 2
    towards, heads = {}, {}
    for name, template in (("colour", "a {} object"), ("shape", "a {}")):
        texts = embed_texts(path.model, tuple(map(template.format, every.task(name, "sample").names)))
        towards[name] = path.towards(texts)
        labels = torch.from_numpy(values[name])
        margins = class_margins(path, lambda: rows[:half], towards[name], labels)
        order = [path.terms[i] for i in (-margins).argsort()]
        heads[name] = [t.name for t in order if t.kind == "head"][:4]
    assert not {*heads["colour"]} & {*heads["shape"]}
    for name, other in (("colour", "shape"), ("shape", "colour")):
        labels = torch.from_numpy(values[name])
        found = ablate(path, lambda: rows[half:], towards[name], labels, heads, draws=10)
        accuracy = dict(zip(found.names, found.accuracy, strict=True))
        at = found.names.index(name)
        assert found.clean > 0.97 and accuracy[other] > 0.95
        assert accuracy[name] < 0.8 and accuracy[name] < found.random[at].min() - 0.1


def test_print_and_table(case):
    path, inputs, texts = case
    batch = path.read(inputs)
    found = ablate(path, lambda: [batch], path.towards(texts), LABELS, SETS, draws=2)
    assert "two heads" in str(found) and "of 5 rows" in str(found)
    assert list(found.to_pandas()["terms"]) == [2, 1]
    assert len(found.plot().get_xticks()) == 2


def test_refusals(case):
    path, inputs, texts = case
    batch, towards = path.read(inputs), path.towards(texts)
    with pytest.raises(ArgumentError, match=r"expected some of path\.terms"):
        ablate(path, lambda: [batch], towards, LABELS, {"a": ["vision.9.z.0"]})
    with pytest.raises(ArgumentError, match="one random set"):
        ablate(path, lambda: [batch], towards, LABELS, SETS, draws=0)
    with pytest.raises(ArgumentError, match="got 0 sets"):
        ablate(path, lambda: [batch], towards, LABELS, {})
    for labels in (torch.zeros(5), torch.zeros(0)):
        with pytest.raises(ArgumentError, match="expected a label at each number"):
            ablate(path, lambda: [batch], towards, labels.long(), SETS)
    with pytest.raises(ArgumentError, match="no row with a label"):
        ablate(path, lambda: [batch], towards, {}, SETS)
    with pytest.raises(ArgumentError, match="expected heads and MLPs"):
        ablate_whole(path, lambda: [inputs], texts, LABELS, {"a": ["embedding"]})
    with pytest.raises(ArgumentError, match="no means of"):
        mean_edits(path, ["vision.0.z.1"], {})
