"""The lens in a terminal: blocks by positions, with what each would say."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from mmxai.results import lines_of

if TYPE_CHECKING:
    from mmxai.methods.lens.results import LensResult

_WIDEST = 11  # letters of a token


def positions_table(result: LensResult, sample: int, width: int = 120) -> str:
    """A line a state, the last on top, a column a position that holds no part of a picture; as many of the
    last positions as `width` letters hold."""
    at = result.of_sample(sample)
    at = at[result.rows[at, 2].numpy() < 0]
    states = result.stream() or list(range(len(result.states)))
    head = max(len(result.states[s]) for s in states) + 2
    room = max(1, (width - head) // (_WIDEST + 2))
    left, at = at[: max(0, len(at) - room)], at[max(0, len(at) - room) :]
    given = [shown(result.name(t)) if t >= 0 else "" for t in result.rows[at, 5].tolist()]
    lines = [
        (result.states[s], *(shown(result.name(int(i))) for i in result.ids[s, at, 0]))
        for s in reversed(states)
    ]
    note = f" ({len(left)} positions before these)" if len(left) else ""
    return f"what each block would say next{note}\n{lines_of(('read:', *given), lines)}"


def cells_table(result: LensResult, sample: int, most: int = 4) -> str:
    """A line a state (values, where they were looked at), the last on top: what comes first in most cells
    of a sample's pictures."""
    at = result.of_sample(sample)
    at = at[result.rows[at, 2].numpy() >= 0]
    lines = []
    values = [i for i, s in enumerate(result.states) if s.endswith(".v")]
    for s in reversed(values or result.stream() or range(len(result.states))):
        counts = Counter(result.ids[s, at, 0].tolist())
        said = ", ".join(
            f"{shown(result.name(i), 24)} {n / len(at):.0%}" for i, n in counts.most_common(most)
        )
        entropy = float(np.mean(result.entropy[s, at].numpy()))
        lines.append((result.states[s], f"{entropy:.2f}", said))
    return f"what comes first in the picture's {len(at)} cells\n{lines_of(('', 'entropy', ''), lines)}"


def shown(token: str, widest: int = _WIDEST) -> str:
    """A token as one short word, its white space visible."""
    text = token.replace("\n", "\\n").replace("\t", "\\t").replace(" ", "\N{MIDDLE DOT}")
    return text if len(text) <= widest else text[: widest - 1] + "\N{HORIZONTAL ELLIPSIS}"
