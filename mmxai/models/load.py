"""`load_model`: from a folder, a hub id, or an object that is already loaded."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmxai.capture.hooks import original
from mmxai.errors import ModelError
from mmxai.models.adapter import bind
from mmxai.models.feeds import TowerFeeds
from mmxai.models.model import Model
from mmxai.models.registry import FAMILIES, family_of
from mmxai.models.shipped import shipped_models
from mmxai.models.spliced import SplicedFeeds

_CONVERT = (
    'convert it once, in an environment you trust: python -c "from transformers import AutoModel; '
    "AutoModel.from_pretrained('{path}').save_pretrained('{path}-safetensors')\""
)


def load_model(
    spec: str | Path | nn.Module,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    processor: Any = None,
    tokenizer: Any = None,
) -> Model:
    """A transformers model with named sites.

    spec: a folder, a model that ships with mmxai ("shapes-clip"; a folder of that name goes first), a hub
    id, `open_clip:<model>/<weights>`,
    `timm:<model>`, or a loaded transformers object (fine-tuned, quantised, LoRA). device: default CUDA where
    there is one, else CPU. dtype: default float32 on the CPU (many checkpoints are float16), the
    checkpoint's own elsewhere; objects keep theirs. revision: of a hub id. processor, tokenizer: for objects
    and folders that come without.

    Only safetensors are read and code from checkpoints is never run. Raises ModelError.
    """
    if isinstance(spec, nn.Module):
        return from_object(spec, device=device, dtype=dtype, processor=processor, tokenizer=tokenizer)
    text = str(spec)
    prefix, colon, rest = text.partition(":")
    if colon and prefix in ("open_clip", "timm"):
        from mmxai.models import elsewhere

        return elsewhere.load(prefix, rest, device=device, dtype=dtype)
    path = Path(text).expanduser()
    if not path.is_dir():
        path = shipped_models().get(text, path)
    local = path.is_dir()
    if local:
        _check_folder(path)
    elif _looks_like_path(text):
        raise ModelError(_no_folder(path))
    module, config = _from_pretrained(str(path) if local else text, local, device, dtype, revision)
    source = str(path) if local else text
    return build(
        module,
        name=path.resolve().name if local else text,
        config=config,
        processor=processor or _load_processor(source, local, revision),
        tokenizer=tokenizer or _load_tokenizer(source, local, revision),
        template=_load_template(source, local, revision),
    )


def from_object(
    module: nn.Module, *, device: Any = None, dtype: Any = None, processor: Any = None, tokenizer: Any = None
) -> Model:
    """A model around a transformers object; wrappers (LoRA, data parallel) are looked through."""
    from mmxai.models import elsewhere

    module = original(module)
    other = elsewhere.recognise(module, type(module).__name__)
    if other is not None:
        module.to(device=device, dtype=_dtype(dtype) if dtype else None)
        return other
    inner = unwrap(module)
    if device is not None or dtype is not None:
        inner = inner.to(device=device, dtype=_dtype(dtype) if dtype else None)
    source = getattr(inner.config, "_name_or_path", "") or ""
    template = None
    if source and Path(source).is_dir():
        template = _load_template(source, True, None)
        processor = processor or _load_processor(source, True, None)
        tokenizer = tokenizer or _load_tokenizer(source, True, None)
    name = Path(source).name if source else type(inner).__name__
    return build(
        inner, name=name, config=inner.config, processor=processor, tokenizer=tokenizer, template=template
    )


def build(
    module: nn.Module,
    *,
    name: str,
    config: Any,
    processor: Any,
    tokenizer: Any,
    template: str | None = None,
) -> Model:
    family = family_of(config)
    towers = bind(module, config, family)
    if hasattr(processor, "image_processor"):  # transformers' processor of both
        tokenizer = tokenizer or processor.tokenizer
        template = getattr(processor, "chat_template", None) or template
        processor = processor.image_processor
    if family.splice is None:
        feeds = TowerFeeds(towers, processor, tokenizer)
    else:
        feeds = SplicedFeeds(towers, family.splice, config, processor, tokenizer, template)
    return Model(module, name=name, family=family, towers=towers, feeds=feeds, config=config)


def unwrap(module: nn.Module) -> nn.Module:
    """The transformers object inside wrappers that keep its structure (peft, DataParallel, DDP)."""
    seen: nn.Module = module
    for _ in range(8):
        kind = getattr(getattr(seen, "config", None), "model_type", None)
        if kind in FAMILIES and not hasattr(seen, "peft_config") and not _is_shell(seen):
            return seen
        inner = next(
            (c for n in ("base_model", "model", "module") if (c := seen._modules.get(n)) is not None), None
        )
        if inner is None:
            break
        seen = inner
    kind = getattr(getattr(module, "config", None), "model_type", None)
    if kind is not None:
        family_of(module.config)  # says which types there are
    raise ModelError(
        f"load_model: got a {type(module).__name__}, expected a path, a hub id or a transformers model; "
        f"use mmxai.wrap(module) for any other network"
    )


def _is_shell(module: nn.Module) -> bool:
    """Wrappers forward attribute access, so a config alone does not make a transformers model."""
    return "config" not in module.__dict__


def _from_pretrained(
    source: str, local: bool, device: Any, dtype: Any, revision: str | None
) -> tuple[nn.Module, Any]:
    import transformers
    from safetensors import SafetensorError

    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if dtype is None:
        dtype = torch.float32 if device.type == "cpu" else "auto"
    where: dict[str, Any] = {"local_files_only": local, "revision": revision or "main"}
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False, **where)
        family_of(config)
        names = [n for n in config.architectures or [] if hasattr(transformers, n)]
        cls = getattr(transformers, names[0]) if names else transformers.AutoModel
        with _quiet():
            module, info = cls.from_pretrained(
                source,
                config=config,
                dtype=_dtype(dtype),
                use_safetensors=True,
                output_loading_info=True,
                **where,
            )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise ModelError(_explain(source, local, error)) from error
    # The pooler of a headless encoder is often absent, and no site is behind it.
    missing = [k for k in info["missing_keys"] if ".pooler." not in f".{k}"]
    if missing:
        raise ModelError(
            f"{source}: the checkpoint lacks {len(missing)} weights of {cls.__name__}, which would stay "
            f"random: {', '.join(missing[:5])}; its config.json and its weights do not belong together"
        )
    return module.to(device), config


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bar over weights, which would break into ours."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _dtype(dtype: torch.dtype | str) -> Any:
    if isinstance(dtype, str) and dtype != "auto":
        found = getattr(torch, dtype.removeprefix("torch."), None)
        if not isinstance(found, torch.dtype):
            raise ModelError(f"dtype: got {dtype!r}, expected float32, bfloat16, float16 or auto")
        return found
    return dtype


def _check_folder(path: Path) -> None:
    config = path / "config.json"
    if not config.is_file():
        near = sorted(p.parent.name for p in path.glob("*/config.json"))
        hint = f"; folders in it that have one: {', '.join(near)}" if near else ""
        raise ModelError(
            f"{path}: got a folder without config.json, expected a saved transformers model{hint}"
        )
    try:
        declared = json.loads(config.read_text())
    except ValueError as error:
        raise ModelError(f"{config}: is not JSON ({error}); save the model again") from error
    if not list(path.glob("*.safetensors")):
        old = sorted(p.name for p in path.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        if old:
            raise ModelError(
                f"{path}: got {', '.join(old)}, expected safetensors; those files are pickles, which run "
                f"code when read: " + _CONVERT.format(path=path)
            )
        raise ModelError(f"{path}: got no weights, expected model.safetensors beside config.json")
    if "auto_map" in declared and declared.get("model_type") not in FAMILIES:
        raise ModelError(
            f"{path}: this checkpoint brings its own code ({declared['auto_map']}), which mmxai never runs; "
            f"load it yourself and pass the object, or use mmxai.wrap(module)"
        )


def _looks_like_path(text: str) -> bool:
    return text.startswith((".", "/", "~")) or text.count("/") > 1 or "\\" in text or Path(text).exists()


def _no_folder(path: Path) -> str:
    if path.is_file():
        return f"{path}: got a file, expected the folder that holds config.json and model.safetensors"
    parent = next((p for p in path.parents if p.is_dir()), Path("."))
    missing = path.relative_to(parent).parts[0] if parent != Path(".") else path.parts[0]
    near = difflib.get_close_matches(
        missing, [p.name for p in parent.iterdir() if p.is_dir()], n=3, cutoff=0.4
    )
    hint = (
        f"did you mean {', '.join(str(parent / n) for n in near)}?"
        if near
        else f"{parent} has no such folder"
    )
    return f"{path}: no such folder; {hint} Expected a folder with config.json, a hub id, or a loaded model"


def _explain(source: str, local: bool, error: Exception) -> str:
    text = str(error)
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    if "trust_remote_code" in text:
        return (
            f"{source}: this model brings its own code, which mmxai never runs; load it yourself and pass "
            f"the object, or use mmxai.wrap(module)"
        )
    if local:
        return f"{source}: transformers cannot load it: {first}"
    if "safetensors" in text:
        return f"{source}: has no safetensors; " + _CONVERT.format(path=source)
    folders, shipped = [p.name for p in Path(".").iterdir() if p.is_dir()], list(shipped_models())
    near = difflib.get_close_matches(source, folders, n=2)
    ours = difflib.get_close_matches(source, shipped, n=1)
    hint = f" (a folder of nearly that name is here: {', '.join(near)})" if near else ""
    hint += f" (mmxai ships {ours[0]})" if ours else ""
    return (
        f"{source}: is no folder here{hint}, and could not be had from the hub: {first} "
        f"Check the spelling and the network, or download it first and pass the folder"
    )


def _load_processor(source: str, local: bool, revision: str | None) -> Any:
    from transformers.utils import cached_file

    # Transformers 5 keeps the image processor of a processor for both in that one's file.
    file, joint = "preprocessor_config.json", "processor_config.json"
    where: dict[str, Any] = {"local_files_only": local, "revision": revision or "main"}
    if cached_file(source, file, _raise_exceptions_for_missing_entries=False, **where) is None:
        found = cached_file(source, joint, _raise_exceptions_for_missing_entries=False, **where)
        if found is None or "image_processor" not in json.loads(Path(found).read_text()):
            return None
        file = joint
    return _load_auto("AutoImageProcessor", file, source, local, revision, backend="pil")


def _load_tokenizer(source: str, local: bool, revision: str | None) -> Any:
    return _load_auto("AutoTokenizer", "tokenizer_config.json", source, local, revision)


def _load_template(source: str, local: bool, revision: str | None) -> str | None:
    """The chat template that older multimodal checkpoints keep in a file of its own."""
    from transformers.utils import cached_file

    where: dict[str, Any] = {"local_files_only": local, "revision": revision or "main"}
    file = "chat_template.json"
    found = cached_file(source, file, _raise_exceptions_for_missing_entries=False, **where)
    return None if found is None else json.loads(Path(found).read_text())["chat_template"]


def _load_auto(cls: str, file: str, source: str, local: bool, revision: str | None, **kwargs: Any) -> Any:
    """A processor or tokenizer, or None where the model has none."""
    import transformers
    from transformers.utils import cached_file

    where: dict[str, Any] = {"local_files_only": local, "revision": revision or "main"}
    found = cached_file(source, file, _raise_exceptions_for_missing_entries=False, **where)
    if found is None:
        return None
    try:
        return getattr(transformers, cls).from_pretrained(source, trust_remote_code=False, **where, **kwargs)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"{source}: {file} is there, but {cls} cannot load it: {error}") from error
