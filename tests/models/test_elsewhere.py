"""open_clip and timm adapters on structural twins: the same module names and forwards, written here."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmxai.errors import ModelError
from mmxai.models import load_model
from mmxai.models.check import check

from .contract import AdapterTests, Block, Reference, layer_norm, linear, shake


class LayerScale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * self.gamma


class ResidualAttentionBlock(nn.Module):
    """open_clip 2.24 and later."""

    def __init__(self, width, heads, hidden, scaled):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ls_1, self.ls_2 = (LayerScale(width) if scaled else nn.Identity() for _ in range(2))
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, hidden))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(hidden, width))

    def forward(self, q_x, attn_mask=None):
        y = self.ln_1(q_x)
        x = q_x + self.ls_1(self.attn(y, y, y, need_weights=False, attn_mask=attn_mask)[0])
        return x + self.ls_2(self.mlp(self.ln_2(x)))


class Transformer(nn.Module):
    def __init__(self, width, layers, heads, hidden, scaled=False):
        super().__init__()
        self.resblocks = nn.ModuleList(
            [ResidualAttentionBlock(width, heads, hidden, scaled) for _ in range(layers)]
        )

    def forward(self, x, attn_mask=None):
        for block in self.resblocks:
            x = block(x, attn_mask=attn_mask)
        return x


class Visual(nn.Module):
    image_size = (16, 16)

    def __init__(self, width=24, joint=20):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 4, 4, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn(17, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Transformer(width, 2, 2, 36, scaled=True)
        self.proj = nn.Parameter(torch.randn(width, joint))

    def forward(self, x):
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        x = self.ln_post(self.transformer(self.ln_pre(x)))
        return x[:, 0] @ self.proj


class OpenCLIP(nn.Module):
    def __init__(self, width=32, joint=20):
        super().__init__()
        self.visual = Visual()
        self.transformer = Transformer(width, 2, 4, 40)
        self.token_embedding = nn.Embedding(64, width)
        self.positional_embedding = nn.Parameter(torch.randn(12, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, joint))

    def encode_image(self, image):
        return self.visual(image)

    def encode_text(self, text):
        length = text.shape[1]
        x = self.token_embedding(text) + self.positional_embedding[:length]
        mask = torch.full((length, length), -torch.inf, dtype=x.dtype).triu(1)
        x = self.ln_final(self.transformer(x, attn_mask=mask))
        return x[torch.arange(len(x)), text.argmax(-1)] @ self.text_projection

    def forward(self, image=None, text=None):
        return self.encode_image(image), self.encode_text(text)


class Attention(nn.Module):
    """timm's: fused qkv, optional head norms."""

    def __init__(self, width, heads, normed):
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.q_norm, self.k_norm = (
            nn.LayerNorm(self.head_dim) if normed else nn.Identity() for _ in range(2)
        )

    def forward(self, x):
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return self.proj(x.transpose(1, 2).reshape(b, n, c))


class TimmBlock(nn.Module):
    def __init__(self, width, heads, hidden, normed):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, heads, normed)
        self.ls1, self.ls2 = LayerScale(width), LayerScale(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("fc1", nn.Linear(width, hidden))
        self.mlp.add_module("act", nn.GELU())
        self.mlp.add_module("fc2", nn.Linear(hidden, width))

    def forward(self, x):
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    img_size, patch_size = (16, 16), (4, 4)

    def __init__(self, width):
        super().__init__()
        self.proj = nn.Conv2d(3, width, 4, 4)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class TimmViT(nn.Module):
    embed_dim, num_prefix_tokens, num_reg_tokens = 32, 3, 2

    def __init__(self, normed=True):
        super().__init__()
        self.patch_embed = PatchEmbed(32)
        self.prefix = nn.Parameter(torch.randn(1, 3, 32))
        self.pos_embed = nn.Parameter(torch.randn(1, 19, 32))
        self.norm_pre = nn.Identity()
        self.blocks = nn.Sequential(*[TimmBlock(32, 4, 44, normed) for _ in range(2)])
        self.norm = nn.LayerNorm(32)

    def forward(self, x):
        x = torch.cat([self.prefix.expand(len(x), -1, -1), self.patch_embed(x)], 1) + self.pos_embed
        return self.norm(self.blocks(self.norm_pre(x)))


class Twins(AdapterTests):
    """The shared contract, without what needs transformers."""

    def test_hidden_states(self):
        pytest.skip("not a transformers model")

    test_eager_and_sdpa_agree = test_folder_round_trip = test_hidden_states

    def test_pattern_leaves_the_attention_implementation_as_it_was(self, model, module):
        tower = next(iter(model.towers))
        with pytest.raises(ZeroDivisionError):
            model.run(self.tensors(), read={f"{tower}.1.z": lambda x: 1 / 0})
        assert not any("forward" in m.__dict__ for m in module.modules())

    def test_check(self, model):
        report = check(model)
        assert report.ok, str(report)


def mha(block, heads):
    weight, bias, width = block.attn.in_proj_weight, block.attn.in_proj_bias, block.attn.embed_dim

    def part(i):
        return lambda x: F.linear(x, weight[i * width : (i + 1) * width], bias[i * width : (i + 1) * width])

    return {"heads": heads, "q": part(0), "k": part(1), "v": part(2), "o": linear(block.attn.out_proj)}


def clip_blocks(transformer, heads):
    scale = lambda ls: ls if isinstance(ls, LayerScale) else None  # noqa: E731
    return [
        Block(
            **mha(b, heads),
            up=linear(b.mlp.c_fc),
            down=linear(b.mlp.c_proj),
            act=F.gelu,
            norm1=layer_norm(b.ln_1),
            norm2=layer_norm(b.ln_2),
            after_attn=scale(b.ls_1),
            after_mlp=scale(b.ls_2),
        )
        for b in transformer.resblocks
    ]


class TestOpenCLIP(Twins):
    def make(self):
        return OpenCLIP()

    def tensors(self):
        ids = self.text()["input_ids"]
        ids[:, -1] = 63
        return {"input_ids": ids, **self.image()}

    def references(self, module, tensors):
        visual = module.visual

        def start_vision():
            patches = (
                F.conv2d(tensors["pixel_values"], visual.conv1.weight, stride=4).flatten(2).transpose(1, 2)
            )
            x = torch.cat([visual.class_embedding.expand(3, 1, -1), patches], 1) + visual.positional_embedding
            return x, layer_norm(visual.ln_pre)(x)

        def end_vision(x):
            x = layer_norm(visual.ln_post)(x)
            return {"ln_final": x, "embeds": x[:, :1] @ visual.proj}

        def start_text():
            embed = module.token_embedding.weight[tensors["input_ids"]]
            return embed, embed + module.positional_embedding[: embed.shape[1]]

        end_text = lambda x: {"ln_final": layer_norm(module.ln_final)(x)}  # noqa: E731
        return [
            Reference("vision", start_vision, clip_blocks(visual.transformer, 2), end_vision, causal=False),
            Reference("text", start_text, clip_blocks(module.transformer, 4), end_text),
        ]


class TestTimm(Twins):
    def make(self):
        return TimmViT()

    def tensors(self):
        return self.image()

    def references(self, module, tensors):
        def start():
            projection = module.patch_embed.proj
            patches = F.conv2d(tensors["pixel_values"], projection.weight, projection.bias, stride=4)
            x = torch.cat([module.prefix.expand(3, -1, -1), patches.flatten(2).transpose(1, 2)], 1)
            return (x + module.pos_embed,) * 2

        def part(b, i):
            def project(x):
                y = linear(b.attn.qkv)(x)[..., i * 32 : (i + 1) * 32]
                if i == 2:
                    return y
                norm = (b.attn.q_norm, b.attn.k_norm)[i]
                return layer_norm(norm)(y.unflatten(-1, (4, 8))).flatten(-2)

            return project

        blocks = [
            Block(
                heads=4,
                q=part(b, 0),
                k=part(b, 1),
                v=part(b, 2),
                o=linear(b.attn.proj),
                up=linear(b.mlp.fc1),
                down=linear(b.mlp.fc2),
                act=F.gelu,
                norm1=layer_norm(b.norm1),
                norm2=layer_norm(b.norm2),
                after_attn=b.ls1,
                after_mlp=b.ls2,
            )
            for b in module.blocks
        ]
        end = lambda x: {"ln_final": layer_norm(module.norm)(x)}  # noqa: E731
        return [Reference("vision", start, blocks, end, causal=False)]

    def test_every_site_equals_the_reference_computed_from_weights(self, model, module):
        """As for the others, but for the pattern, which timm's fused call never shows."""
        assert not any(s.endswith("pattern") for s in model.sites())
        for ref in self.references(module, self.tensors()):
            run = model.run(self.tensors(), capture="*")
            from .contract import close, run_reference

            with torch.no_grad():
                expected = run_reference(ref, torch.ones(3, 19, dtype=torch.bool))
            for site, value in run.acts.items():
                close(value, expected[site])

    def test_rows(self, model):
        rows = model.run(self.tensors()).rows["vision"]
        assert rows[0, :4, 4].tolist() == [0, 2, 2, 1]


@pytest.mark.parametrize("spec", ["open_clip:ViT-B-32/openai", "timm:vit_tiny_patch16_224"])
def test_absent_packages_say_what_to_install(spec):
    try:
        __import__(spec.partition(":")[0])
    except ImportError:
        with pytest.raises(ModelError, match="pip install"):
            load_model(spec)
    else:
        pytest.skip("the package is installed")


def test_a_twin_in_disguise_is_refused_for_what_it_lacks():
    module = shake(OpenCLIP())
    module.visual.transformer.resblocks[0].attn.batch_first = False
    model = load_model(module)
    with pytest.raises(ModelError, match="batch"):
        model.run({"pixel_values": torch.zeros(2, 3, 16, 16)}, capture="vision.0.z")
    assert not module.visual.transformer.resblocks[0].attn.__dict__.get("forward")
