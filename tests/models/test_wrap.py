from __future__ import annotations

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from mmxai.data.sample import Sample
from mmxai.errors import ArgumentError, ModelError, RowSpaceError, UnknownSiteError
from mmxai.models import load_model, wrap

from .contract import count_hooks, shake
from .test_clip import TestCLIP as Clip


class BasicBlock(nn.Module):
    """ResNet for CIFAR-10 with option-A shortcuts, as in akamaster/pytorch_resnet_cifar10."""

    def __init__(self, inside, out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.pad = (out - inside) // 2 if stride != 1 else 0

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        out += F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad)) if self.pad else x
        return F.relu(out, inplace=True)


class ResNet(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)

        def stack(i, o, s):
            return nn.Sequential(
                *[BasicBlock(i if n == 0 else o, o, s if n == 0 else 1) for n in range(blocks)]
            )

        self.layer1, self.layer2, self.layer3 = stack(16, 16, 1), stack(16, 32, 2), stack(32, 64, 2)
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x)), inplace=True))))
        return self.linear(x.mean((2, 3)))


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.rand(4, 3, 32, 32)


@pytest.fixture
def model(images):
    torch.manual_seed(1)
    return wrap(ResNet(1), name="resnet", example=images)


def plain_hook(module, path, images):
    kept = []
    handle = module.get_submodule(path).register_forward_hook(lambda m, a, out: kept.append(out.clone()))
    with torch.no_grad():
        module(images)
    handle.remove()
    return kept[0]


def test_sites_widths_spaces_and_rows(model, images):
    sites = model.sites()
    assert sites["module:layer2.0.conv1"] == 32 and sites["module:linear"] == 10
    assert model.space_of("module:layer2.0.conv1") == "module.16x16"
    assert model.space_of("module:linear") == "module.vector"
    assert model.rows_per_sample("module.16x16") == 256 and model.rows_per_sample("module.vector") == 1
    assert model.token_types("module.16x16") == {"patch"} and model.token_types("module.vector") == set()
    run = model.run(images, capture="module:layer*")
    rows = run.rows["module.8x8"]
    assert rows.shape == (4, 64, 8)
    assert rows[2, 11].tolist() == [2, 11, 1, 3, 1, -1, -1, -1]


def test_values_equal_a_plain_hook_although_later_code_works_in_place(model, images):
    for path in ("bn1", "layer1.0.bn2", "layer2.0.conv1", "layer3.0", "linear"):
        expected = plain_hook(model.module, path, images)
        got = model.run(images, capture=f"module:{path}").acts[f"module:{path}"]
        want = expected.flatten(2).transpose(1, 2) if expected.ndim == 4 else expected[:, None]
        assert torch.equal(got, want), path


def test_real_resnet20(shared_data, images):
    network = ResNet(3)
    state = dict(load_file(shared_data / "resnet_cifar10" / "resnet20.safetensors").items())
    network.load_state_dict({k.removeprefix("module."): v for k, v in state.items()}, strict=False)
    model = wrap(network, example=images)
    _, batch = model.capture(images, "module:layer2.1")
    want = plain_hook(network, "layer2.1", images)
    assert torch.equal(batch.x, want.permute(0, 2, 3, 1).reshape(-1, 32))
    y, x, sample = batch.rows.y.long(), batch.rows.x.long(), batch.rows.sample.long()
    assert torch.equal(batch.x, want[sample, :, y, x])


def test_edits_and_gradients(model, images):
    site = "module:layer2.0.bn1"
    run = model.run(images, capture=site, edit={site: lambda x: x * 0})
    assert not run.acts[site].any()
    assert not torch.allclose(run.out, model.run(images).out)
    run = model.run(images, capture=[site, "module:layer3.0"], grad=lambda out: out[:, 3].sum())
    # The last map reaches the logits through a mean alone, but for the ReLU at its end.
    expected = model.module.linear.weight[3] / 64
    assert torch.allclose(run.grads["module:layer3.0"], expected.expand(4, 64, 64))
    step = torch.randn_like(run.acts[site]) * 1e-3
    up = model.run(images, edit={site: lambda x: x + step}).out[:, 3].sum()
    down = model.run(images, edit={site: lambda x: x - step}).out[:, 3].sum()
    torch.testing.assert_close(up - down, 2 * (run.grads[site] * step).sum(), rtol=0.05, atol=1e-5)


def test_two_row_spaces_are_not_mixed(model, images):
    with pytest.raises(RowSpaceError):
        model.capture(images, ["module:layer1.0", "module:layer2.0"])


def test_unknown_and_unusable_modules(images):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.never, self.whole = nn.ReLU(), nn.ReLU(), nn.Flatten(0)
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x):
            return self.whole(self.act(self.second(self.act(self.first(x)))))

    model = wrap(Twice(), example=images)
    assert list(model.sites()) == ["module:first", "module:second"]
    with pytest.raises(UnknownSiteError, match="module:second"):
        model.resolve("module:secnd")
    for path, why in (("act", "2 times"), ("never", "did not run"), ("whole", "for a batch of 4")):
        with pytest.raises(ModelError, match=why):
            model.space_of(f"module:{path}")


def test_another_size_is_another_row_space(model, images):
    model.run(images, capture="module:layer2.0")
    with pytest.raises(ArgumentError, match="another"):
        model.run(torch.rand(2, 3, 64, 64), capture="module:layer2.0")


def test_without_example_the_first_inputs_serve(images):
    model = wrap(ResNet(1))
    with pytest.raises(ArgumentError, match="example"):
        model.sites()
    assert model.run(images, capture="module:layer1.0").acts["module:layer1.0"].shape == (4, 1024, 16)


def test_samples_through_prepare(images):
    def prepare(sample):
        return (
            torch.tensor(list(sample.image.resize((32, 32)).tobytes())).view(32, 32, 3).permute(2, 0, 1) / 255
        )

    model = wrap(ResNet(1), prepare=prepare, example=images)
    samples = [Sample(f"{i}", image=Image.new("RGB", (50, 40), (i * 40, 10, 200))) for i in range(3)]
    encoded = [model.encode(s) for s in samples]
    assert encoded[0].size == (50, 40)
    for i, e in enumerate(encoded):
        e.index = 7 + i
    model.space_of("module:layer2.0")
    inputs = model.collate(encoded)
    assert inputs.rows["module.16x16"][:, 0, 0].tolist() == [7, 8, 9]
    assert model.run(inputs, capture="module:linear").rows["module.vector"][:, 0, 0].tolist() == [7, 8, 9]
    with pytest.raises(ModelError, match="prepare"):
        wrap(ResNet(1)).encode(samples[0])


def test_dict_inputs_and_sequences():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(6, 5)

        def forward(self, left, right):
            return self.mix(torch.cat([left, right], -1)).mean(1)

    inputs = {"left": torch.randn(2, 9, 2), "right": torch.randn(2, 9, 4)}
    model = wrap(Two(), example=inputs)
    assert model.space_of("module:mix") == "module.9"
    run = model.run(inputs, capture="module:mix")
    assert run.acts["module:mix"].shape == (2, 9, 5)
    assert run.rows["module.9"][1, 8].tolist() == [1, 8, -1, -1, -1, -1, -1, -1]


def test_module_sites_of_a_transformer_share_the_towers_rows():
    case = Clip()
    model = load_model(shake(case.make()))
    path = "text_model.encoder.layers.1.mlp.fc1"
    assert model.resolve(path) == [f"module:{path}"] == model.resolve(f"module:{path}")
    assert model.space_of(f"module:{path}") == "text"
    assert model.space_of("module:vision_model.embeddings.patch_embedding") == "module.4x4"
    run = model.run(case.tensors(), capture=["text.1.mlp_pre", f"module:{path}"])
    assert torch.equal(run.acts["text.1.mlp_pre"], run.acts[f"module:{path}"])
    _, batch = model.capture({k: v for k, v in case.tensors().items() if k != "pixel_values"}, path)
    assert batch.num_rows == 19 and batch.space == "text"


def test_what_cannot_be_wrapped(images):
    with pytest.raises(ModelError, match="scripted"):
        wrap(torch.jit.trace(nn.ReLU(), images))
    with pytest.raises(ModelError, match=r"torch\.nn\.Module"):
        wrap(lambda x: x)


def test_what_is_compiled_is_looked_through(images):
    network = ResNet(1).eval()
    compiled = wrap(torch.compile(network, backend="eager"), example=images)
    assert compiled.module is network and compiled.sites() == wrap(network, example=images).sites()


def test_hooks_are_gone(model, images):
    model.sites()
    with pytest.raises(ZeroDivisionError):
        model.run(images, capture="module:linear", edit={"module:layer1.0": lambda x: 1 / 0})
    assert count_hooks(model.module) == 0
