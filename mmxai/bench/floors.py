"""What no code could beat on this machine: bytes over measured bandwidth, operations over measured rate."""

from __future__ import annotations

import torch

from mmxai.bench.figures import interleave, seconds_text


def copy_bandwidth(nbytes: int = 1 << 28, device: str = "cpu") -> float:
    """Bytes a second of a large torch copy, counting bytes read and bytes written; the best of five."""
    source = torch.ones(nbytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        if device != "cpu":
            torch.cuda.synchronize()

    return 2 * nbytes / min(interleave({"copy": copy}, repeats=5)["copy"].seconds)


def multiply_rate(size: int = 1024) -> float:
    """Operations a second (a multiply and an add are two) of a float32 matrix product; the best of five."""
    a, b, out = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
    timing = interleave({"product": lambda: torch.mm(a, b, out=out)}, repeats=5)["product"]
    return 2 * size**3 / min(timing.seconds)


def bytes_floor(nbytes: float, bandwidth: float, what: str = "copy") -> str:
    """'6.78 ms: 151 MB at 22.3 GB/s (copy)'."""
    return f"{seconds_text(nbytes / bandwidth)}: {nbytes / 1e6:.3g} MB at {bandwidth / 1e9:.3g} GB/s ({what})"


def operations_floor(operations: float, rate: float) -> str:
    """'1.10 s: 120 G operations at 109 G/s (float32 product)'."""
    seconds = seconds_text(operations / rate)
    return f"{seconds}: {operations / 1e9:.3g} G operations at {rate / 1e9:.3g} G/s (float32 product)"
