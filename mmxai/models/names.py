"""Site names: globs, block ranges, TransformerLens names, and the nearest names when nothing matches."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from mmxai.errors import UnknownSiteError

MODULE = "module:"

LENS = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_attn_out": "attn_out",
    "hook_mlp_out": "mlp_out",
    "attn.hook_q": "q",
    "attn.hook_k": "k",
    "attn.hook_v": "v",
    "attn.hook_z": "z",
    "attn.hook_pattern": "pattern",
    "mlp.hook_pre": "mlp_pre",
    "mlp.hook_post": "mlp_post",
}
_LENS_GLOBAL = {"hook_embed": "embed", "ln_final.hook_normalized": "ln_final"}


def resolve(
    patterns: str | Iterable[str],
    sites: Mapping[str, int],
    blocks: Mapping[str, int],
    modules: Sequence[str],
    lens: Mapping[str, str],
) -> list[str]:
    """Sites that match, in model order (`module:` sites last, in the module's order), each once.

    sites: all sites with a name of the vocabulary. blocks: tower -> number of blocks. modules: dotted paths
    of all submodules. lens: the family's own reading of TransformerLens names ("" means: has no such point).
    Raises UnknownSiteError.
    """
    found: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matches = _match(pattern, sites, blocks, modules, lens)
        if not matches:
            raise _unknown(pattern, sites, modules)
        found.update(matches)
    ordered = [s for s in sites if s in found]
    paths = [MODULE + m for m in modules if MODULE + m in found]
    return ordered + [p for p in paths if p not in sites]


def resolve_stored(patterns: str | Iterable[str], sites: Mapping[str, int]) -> list[str]:
    """`resolve` among the sites of a store, which tell of its model's blocks as far as they go."""
    blocks: dict[str, int] = {}
    for site in sites:
        tower, _, rest = site.partition(".")
        number = rest.partition(".")[0]
        if number.isdecimal():
            blocks[tower] = max(blocks.get(tower, 0), int(number) + 1)
    return resolve(patterns, sites, blocks, [], {})


def _match(
    pattern: str,
    sites: Mapping[str, int],
    blocks: Mapping[str, int],
    modules: Sequence[str],
    lens: Mapping[str, str],
) -> list[str]:
    if pattern in sites:
        return [pattern]
    if pattern.startswith(MODULE):
        return [MODULE + m for m in modules if fnmatchcase(m, pattern.removeprefix(MODULE))]
    name = _from_lens(pattern, blocks, lens) or pattern
    name = re.sub(r"^lm\.", "text.", name) if "lm" not in blocks else name
    # An embedding belongs to no block; the literal reading of <tower>.<block>.<kind> is understood.
    name = re.sub(r"^(\w+)\.0\.embed$", r"\1.embed", name)
    matches = [s for form in _blocks(name, blocks) for s in sites if fnmatchcase(s, form)]
    if not matches and pattern in modules:
        return [MODULE + pattern]
    return matches


def _blocks(name: str, blocks: Mapping[str, int]) -> list[str]:
    """Spell out the block part: `3-7` (both ends), `{0,4,8}`, `-1` (the last)."""
    tower, _, rest = name.partition(".")
    block, _, kind = rest.partition(".")
    count = next((n for t, n in blocks.items() if fnmatchcase(t, tower)), 0)
    numbers: Iterable[int]
    if span := re.fullmatch(r"(\d+)-(\d+)", block):
        numbers = range(int(span[1]), int(span[2]) + 1)
    elif listed := re.fullmatch(r"\{(\d+(?:,\d+)*)\}", block):
        numbers = [int(n) for n in listed[1].split(",")]
    elif re.fullmatch(r"-\d+", block):
        numbers = [count + int(block)]
    else:
        return [name]
    return [f"{tower}.{n}.{kind}" for n in numbers]


def _from_lens(name: str, blocks: Mapping[str, int], lens: Mapping[str, str]) -> str | None:
    """A TransformerLens name in our vocabulary; None if it is not one, or names two towers at once."""
    tower = "text" if "text" in blocks else next(iter(blocks), None)
    if tower is None or len(blocks) > 1:
        return None
    if name in _LENS_GLOBAL:
        return f"{tower}.{_LENS_GLOBAL[name]}"
    found = re.fullmatch(r"blocks\.([^.]+)\.(.+)", name)
    kind = {**LENS, **lens}.get(found[2]) if found else None
    return f"{tower}.{found[1]}.{kind}" if found and kind else None


def _unknown(pattern: str, sites: Mapping[str, int], modules: Sequence[str]) -> UnknownSiteError:
    if pattern.startswith(MODULE):
        near = [MODULE + m for m in _closest(pattern.removeprefix(MODULE), modules)]
    else:
        known = list(sites) + sorted({re.sub(r"\.\d+\.", ".*.", s) for s in sites})
        near = _closest(pattern, known) or [MODULE + m for m in _closest(pattern, modules)]
    if near:
        hint = "did you mean " + ", ".join(near) + "?"
    else:
        hint = "known are " + ", ".join(sorted({re.sub(r"\.\d+\.", ".*.", s) for s in sites})[:20])
    return UnknownSiteError(f"no site {pattern!r} in this model; {hint} model.sites() lists them all")


def _closest(name: str, known: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(name, known, n=3, cutoff=0.5)
