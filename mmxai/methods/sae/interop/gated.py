"""Gated SAEs (Rajamanoharan et al. 2024, arXiv:2404.16014) as the JumpReLU ones that they are.

With h = W_enc x the gate is open where h + b_gate > 0 and the magnitude is relu(exp(r) h + b_mag). As exp(r)
is positive, the gate is open exactly where exp(r) h + b_mag > b_mag - exp(r) b_gate: a threshold.
"""

from __future__ import annotations

from typing import Any

import torch


def ungated(
    W_enc: torch.Tensor, b_gate: torch.Tensor, r_mag: torch.Tensor, b_mag: torch.Tensor
) -> dict[str, Any]:
    """arch, W_enc `[M, D]`, b_enc and threshold `[M]`; float32."""
    gain = r_mag.float().exp()
    return {
        "arch": "jumprelu",
        "W_enc": W_enc.float() * gain[:, None],
        "b_enc": b_mag.float(),
        "threshold": (b_mag.float() - gain * b_gate.float()).clamp(min=0),
    }
