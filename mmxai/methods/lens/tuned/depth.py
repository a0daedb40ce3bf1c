"""Which state of the stream a site is: its depth, the number of blocks behind it."""

from __future__ import annotations

import re

from mmxai.errors import ArgumentError

_SITE = re.compile(r"(?P<tower>[^.]+)\.(?P<block>\d+)\.(?P<kind>resid_pre|resid_post)")


def depth_of(site: str, tower: str | None = None) -> int:
    """0 for what enters block 0, l + 1 for what leaves block l: transformers' `hidden_states`, and the number
    under which tuned-lens keeps a translator.

    ArgumentError for a site that is no state of the stream (of `tower`, where one is given).
    """
    found = _SITE.fullmatch(site)
    if found is None or (tower is not None and found["tower"] != tower):
        raise ArgumentError(
            f"tuned lens: got site {site!r}, expected {tower or '<tower>'}.<block>.resid_pre or .resid_post: "
            "it translates the stream"
        )
    return int(found["block"]) + (found["kind"] == "resid_post")


def site_of(depth: int, tower: str) -> str:
    return f"{tower}.0.resid_pre" if depth == 0 else f"{tower}.{depth - 1}.resid_post"
