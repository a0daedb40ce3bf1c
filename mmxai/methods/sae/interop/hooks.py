"""Sites of ours and hook points of TransformerLens, which SAELens and Prisma name their SAEs by."""

from __future__ import annotations

import re

from mmxai.models.names import LENS

_KINDS = {kind: hook for hook, kind in LENS.items()}


def site_of(hook: str | None, tower: str) -> str:
    """'text.5.resid_post' of 'blocks.5.hook_resid_post'; a name that we have no site for stays as it is."""
    if not hook:
        return "unknown"
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)", hook)
    kind = LENS.get(found[2]) if found else None
    return f"{tower}.{found[1]}.{kind}" if found and kind else hook


def hook_of(site: str) -> str:
    """'blocks.5.hook_resid_post' of 'text.5.resid_post'; a site that has no such name stays as it is."""
    found = re.fullmatch(r"\w+\.(\d+)\.(\w+)", site)
    hook = _KINDS.get(found[2]) if found else None
    return f"blocks.{found[1]}.{hook}" if found and hook else site
