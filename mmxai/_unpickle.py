"""A script, run in a process of its own by `pickled.py`: tensors of a torch checkpoint, out as safetensors.

It imports nothing of mmxai and is the only file of it that reads a pickle: by PyTorch's restricted unpickler
(`weights_only=True`), which builds tensors and plain containers and calls nothing. Configuration objects of
the few libraries named in RECORDS become inert records of their fields; any other object ends the process.
"""

import json
import sys

import torch
from safetensors.torch import save_file

RECORDS = (
    "vit_prisma.sae.config.VisionModelSAERunnerConfig",
    "vit_prisma.configs.HookedViTConfig.HookedViTConfig",
    "sae.config.VisionModelSAERunnerConfig",
)


class Record:
    """What stands for a foreign object: its attributes, none of its code."""


def stand_in(path: str) -> type:
    module, _, name = path.rpartition(".")
    return type(name, (Record,), {"__module__": module})


def plain(value: object, path: str, tensors: dict[str, torch.Tensor]) -> object:
    """`value` as JSON; tensors go to `tensors` under their path and leave null behind."""
    if isinstance(value, torch.Tensor):
        tensors[path] = value.detach().contiguous().clone()
        return None
    if isinstance(value, Record):
        value = vars(value)
    if isinstance(value, dict):
        named = {str(k): v for k, v in value.items()}
        return {k: plain(v, f"{path}/{k}" if path else k, tensors) for k, v in named.items()}
    if isinstance(value, list | tuple):
        return [plain(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.dtype | torch.device):
        return str(value).removeprefix("torch.")
    raise SystemExit(f"{path} is a {type(value).__name__}, neither tensor nor text nor number")


def main(source: str, weights: str, document: str) -> None:
    torch.serialization.add_safe_globals([stand_in(path) for path in RECORDS])
    tensors: dict[str, torch.Tensor] = {}
    rest = plain(torch.load(source, map_location="cpu", weights_only=True), "", tensors)
    save_file(tensors, weights)
    with open(document, "w") as file:
        json.dump(rest, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
