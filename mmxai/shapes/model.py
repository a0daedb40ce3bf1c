"""A CLIP for the shapes world, in transformers' format, with its own tokenizer and image processor.

`CLIPModel.from_pretrained`, `AutoTokenizer` and `AutoImageProcessor` read the folder like any other.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmxai.shapes.words import all_words

if TYPE_CHECKING:
    from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, PreTrainedTokenizerFast

SPECIAL = PAD, UNKNOWN, BOS, EOS = "<pad>", "<unk>", "<s>", "</s>"
"""The first token ids, in this order; words follow in the order of `all_words`."""

CONTEXT, IMAGE = 48, 64
"""Text positions: the longest full caption of three objects has 42 words and commas, and two markers."""


def clip_config(vocabulary: int) -> CLIPConfig:
    """3.4M parameters: 64 px in patches of 8, 6 vision blocks of width 192, 3 text blocks of width 128."""
    from transformers import CLIPConfig, CLIPTextConfig

    text = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=512,
        projection_dim=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    vision = vision_config()
    return CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=128)


def vision_config() -> CLIPVisionConfig:
    """The vision tower alone."""
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(
        hidden_size=192,
        intermediate_size=768,
        projection_dim=128,
        num_hidden_layers=6,
        num_attention_heads=6,
        image_size=IMAGE,
        patch_size=8,
    )


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level fast tokenizer over the world's vocabulary: `<s> words </s>`, padded on the right."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    # CLIP pools at the first EOS; transformers reads eos_token_id 2 as "the largest id", hence BOS 2, EOS 3.
    vocabulary = {word: k for k, word in enumerate([*SPECIAL, *all_words()])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}", special_tokens=[(BOS, vocabulary[BOS]), (EOS, vocabulary[EOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=CONTEXT,
        padding_side="right",
        truncation_side="right",
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=BOS,
        eos_token=EOS,
        model_input_names=["input_ids", "attention_mask"],
    )


def new_clip(seed: int = 0) -> CLIPModel:
    """An untrained model, in evaluation mode; the global generator is left alone."""
    import torch
    from transformers import CLIPModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIPModel(clip_config(len(build_tokenizer()))).eval()


def save_clip(model: CLIPModel, out: str | Path) -> Path:
    """Writes model, tokenizer and image processor into folder `out`; returns the folder."""
    from transformers import CLIPImageProcessorPil
    from transformers.utils import logging

    logging.disable_progress_bar()  # over one shard of 14 MB it only breaks into what the caller prints
    model.save_pretrained(out)
    build_tokenizer().save_pretrained(out)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE}, crop_size={"height": IMAGE, "width": IMAGE}
    )
    processor.save_pretrained(out)
    return Path(out)


def random_clip(out: str | Path, seed: int = 0) -> Path:
    """Writes the untrained model, tokenizer and image processor into folder `out`; returns the folder."""
    return save_clip(new_clip(seed), out)
