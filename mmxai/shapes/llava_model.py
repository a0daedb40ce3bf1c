"""A LLaVA for the shapes world, in transformers' format: the world's CLIP sees, a small Llama answers.

`LlavaForConditionalGeneration.from_pretrained` and `AutoProcessor` read the folder like any other.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmxai.errors import ModelError
from mmxai.shapes.model import BOS, EOS, IMAGE, PAD, SPECIAL, UNKNOWN, vision_config
from mmxai.shapes.words import all_words

if TYPE_CHECKING:
    import torch
    from transformers import (
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

SEES = Path(__file__).parent.parent / "trained" / "shapes-clip"
"""The shipped model whose vision tower this one has, unchanged."""

PICTURE = "<image>"
WORDS = (*SPECIAL, PICTURE, ":", "assistant", "describe", "user", *all_words())
"""The vocabulary; a word's id is its place."""

PATCH = 8
SOFT_TOKENS = (IMAGE // PATCH) ** 2
"""Rows of the Llama's input that stand for the picture: a patch each, none for the vision tower's CLS."""

FEATURE_LAYER = -2
"""LLaVA's: the states before CLIP's last block, whose patches no loss of CLIP reads."""

CONTEXT = 160
PROMPT = f"USER: {PICTURE}\n{{question}} ASSISTANT:"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% if message['content'] is string %}{{ message['content'] + ' ' }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endif %}{% if message['role'] == 'assistant' %}{{ '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def llava_config(blocks: int = 6, width: int = 192) -> LlavaConfig:
    """The shapes CLIP's vision tower, LLaVA's projector, a Llama of `blocks` blocks with heads of 32."""
    from transformers import LlamaConfig, LlavaConfig

    text = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=blocks,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        max_position_embeddings=CONTEXT,
        pad_token_id=WORDS.index(PAD),
        bos_token_id=WORDS.index(BOS),
        eos_token_id=WORDS.index(EOS),
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=vision_config().to_dict(),
        text_config=text.to_dict(),
        image_token_index=WORDS.index(PICTURE),
        image_seq_length=SOFT_TOKENS,
        vision_feature_layer=FEATURE_LAYER,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    for name, word in (("pad", PAD), ("bos", BOS), ("eos", EOS)):  # for `generate`
        setattr(config, f"{name}_token_id", WORDS.index(word))
    return config


def new_llava(seed: int = 0, blocks: int = 6, width: int = 192) -> LlavaForConditionalGeneration:
    """A trained vision tower before an untrained projector and Llama; the global generator is left alone."""
    import torch
    from transformers import LlavaForConditionalGeneration

    from mmxai.shapes.towers import load_towers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(llava_config(blocks, width)).eval()
    seeing = load_towers(SEES).model.vision_model
    state = seeing.state_dict()
    # transformers wraps the tower once more in some of its versions: the names end alike.
    own = {name: _ending(name, state) for name in model.model.vision_tower.state_dict()}
    model.model.vision_tower.load_state_dict({name: state[theirs] for name, theirs in own.items()})
    model.model.vision_tower.requires_grad_(False)
    return model


def _ending(name: str, state: dict[str, object]) -> str:
    return name if name in state else name.split(".", 1)[1]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Word-level over `WORDS`: `<s>` first, no end, padded on the left as `generate` wants it."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: k for k, word in enumerate(WORDS)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.add_special_tokens([AddedToken(PICTURE, normalized=False, special=True)])
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, vocabulary[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=CONTEXT,
        padding_side="left",
        truncation_side="right",
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=BOS,
        eos_token=EOS,
        extra_special_tokens={"image_token": PICTURE},
        model_input_names=["input_ids", "attention_mask"],
    )


def build_processor() -> LlavaProcessor:
    """Pictures of the world and a conversation to the model's inputs; needs PIL alone."""
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE}, crop_size={"height": IMAGE, "width": IMAGE}
    )
    return LlavaProcessor(
        pictures,
        build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,  # the CLS, which "default" then takes off
    )


def learning(model: LlavaForConditionalGeneration) -> torch.nn.ModuleDict:
    """What is trained: all but the vision tower."""
    import torch

    inner = model.model
    return torch.nn.ModuleDict(
        {"projector": inner.multi_modal_projector, "language": inner.language_model, "head": model.lm_head}
    )


def load_llava(folder: str | Path) -> LlavaForConditionalGeneration:
    """The model of a folder, in float32. Raises ModelError."""
    import torch
    from transformers import LlavaForConditionalGeneration

    try:
        loaded: Any = LlavaForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: got no LLaVA for the shapes world here ({error})") from error
    model, info = loaded
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ModelError(f"{folder}: got weights without {missing}, expected all of a LLaVA")
    return model.eval()


def export(model: LlavaForConditionalGeneration, out: str | Path) -> Path:
    """The model in float16 with its processor, in folder `out`; returns it."""
    shipped = copy.deepcopy(model).half()
    shipped.set_attn_implementation("sdpa")
    return save_llava(shipped, out)


def save_llava(model: LlavaForConditionalGeneration, out: str | Path) -> Path:
    """Writes model, tokenizer and processor into folder `out`; returns the folder."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(out)
    build_processor().save_pretrained(out)
    return Path(out)
