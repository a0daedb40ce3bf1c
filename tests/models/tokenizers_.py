"""Small tokenizers with the templates that the families use."""

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = [f"w{i}" for i in range(100)] + ["a", "b", "the", "cat"]


def word_tokenizer(template="bos", **options):
    """Words split at white space. template: "bos" (<s> x), "clip" (<s> x </s>), "none"."""
    vocab = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    single = {"bos": "<s> $A", "clip": "<s> $A </s>", "none": "$A"}[template]
    inner.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **{**names, **options})


def image_tokenizer(*tokens, **options):
    """`word_tokenizer` with special tokens for pictures (default: `<image>`)."""
    made = word_tokenizer("bos", **options)
    made.add_special_tokens({"additional_special_tokens": list(tokens or ["<image>"])})
    return made
