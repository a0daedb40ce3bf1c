"""A question about a picture -> the prompt of a multimodal LLM, and its token ids with placeholders.

transformers' processors do the same, but several cannot be built without torchvision. What they do is this:
the chat template (or the family's own prompt) with one image token for the picture; that token expanded to as
many as the picture has soft tokens; the tokenizer's begin token in front where the prompt has none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmxai.errors import DataError, ModelError
from mmxai.models.texts import TextPipeline


class Prompts:
    """texts: the tokenizer. token: id of the placeholder. template: a chat template (Jinja), or None for
    `default`, in which `{image}`, `{text}` and `{bos}` are replaced. mark: id of what stands for a picture in
    prompts (None: the placeholder). expand: (id -> its string) -> what a prompt's mark is replaced by. bare:
    prompts have all special tokens in them.
    """

    def __init__(
        self,
        texts: TextPipeline,
        token: int,
        *,
        template: str | None,
        default: str,
        mark: int | None = None,
        expand: Callable[[Callable[[int], str]], str] | None = None,
        bare: bool = False,
    ):
        self.texts, self.token = texts, token
        self.template, self.default, self.bare = template, default, bare
        self.image = self._name(token if mark is None else mark)
        self.expanded = self._name(token) if expand is None else expand(self._name)

    def _name(self, token: int) -> str:
        """The string of a token that pictures take."""
        name = self.texts.tokenizer.convert_ids_to_tokens(token)
        if not isinstance(name, str) or self.texts.tokenize(name) != [token]:
            raise ModelError(
                f"tokenizer {type(self.texts.tokenizer).__name__}: does not know token {token}, which "
                "stands for pictures in this model's config, got another tokenizer; pass the model's own to "
                "load_model"
            )
        return name

    @property
    def identity(self) -> dict[str, Any]:
        """JSON: everything that decides the prompt."""
        how = {"default": self.default} if self.template is None else {"chat_template": self.template}
        return {**how, "image_token": self.token, "expanded": self.expanded}

    def render(self, text: str, picture: bool = True) -> str:
        """The prompt, one image token for the picture. A text with the image token in it is a prompt."""
        if self.image in text:
            return text
        if self.template is None:
            prompt = self.default.replace("{bos}", self.texts.tokenizer.bos_token or "")
            return prompt.replace("{image}", self.image if picture else "").replace("{text}", text)
        content = [{"type": "image"}] if picture else []
        return self.texts.tokenizer.apply_chat_template(
            [{"role": "user", "content": [*content, {"type": "text", "text": text}]}],
            chat_template=self.template,
            tokenize=False,
            add_generation_prompt=True,
        )

    def ids(self, prompt: str, soft: int, *, key: str = "text") -> list[int]:
        """Token ids of a rendered prompt, its image token repeated for each of `soft` soft tokens."""
        tokenizer, texts = self.texts.tokenizer, self.texts
        prompt = prompt.replace(self.image, self.expanded)
        body = texts.tokenize(prompt)
        begun = tokenizer.bos_token is not None and prompt.startswith(tokenizer.bos_token)
        ids = body if begun or self.bare else [*texts.prefix, *body, *texts.suffix]
        if ids.count(self.token) != 1:
            raise DataError(
                f"{key}: got {ids.count(self.token)} image tokens {self.image!r} in the prompt, expected one "
                "for its picture; leave them out of the text, or write the prompt with one"
            )
        at = ids.index(self.token)
        return [*ids[:at], *[self.token] * soft, *ids[at + 1 :]]


def runs_of(ids: list[int], token: int) -> list[list[int]]:
    """Where a token stands, as `[first, count]` of each run."""
    runs: list[list[int]] = []
    for place in (i for i, t in enumerate(ids) if t == token):
        if runs and sum(runs[-1]) == place:
            runs[-1][1] += 1
        else:
            runs.append([place, 1])
    return runs
