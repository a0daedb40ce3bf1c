"""Shared by the scripts here: what a library's SAE gives for rows, as safetensors."""

from safetensors.torch import load_file, save_file


def keep(path, x, latents, out):
    tensors = {"x": x, "latents": latents.detach(), "out": out.detach()}
    save_file({name: t.contiguous().clone() for name, t in tensors.items()}, path)


def rows(path):
    return load_file(path)["x"]
