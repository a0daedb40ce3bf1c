"""Edits that hold for a block of code: every forward in it is edited, each step of a generation included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mmxai.capture.hooks import Edit, Request, attached, eagerly, held
from mmxai.errors import ArgumentError, SiteNotFiredError

if TYPE_CHECKING:
    from mmxai.models.model import Model


@contextmanager
def intervene(model: Model, edits: Mapping[str, Edit | Sequence[Edit]]) -> Iterator[Mapping[str, Request]]:
    """See `Model.intervene`."""
    by_site = model.edits_of(edits)
    if not by_site:
        raise ArgumentError("intervene: got no edits, expected {site: edit}; mmxai.edits has some")
    requests = {
        site: Request(site, model.point_of(site), edits=by_site[site]) for site in model.resolve(by_site)
    }
    # Other threads wait: the hooks are on the module, and would edit their runs too.
    with (
        held(model.module),
        eagerly(model.module),
        attached([(r.point, r.through) for r in requests.values()]),
    ):
        yield requests
    if idle := [site for site, request in requests.items() if not request.fired]:
        raise SiteNotFiredError(
            f"intervene: the edits of {', '.join(idle)} never ran; expected a forward in the block that "
            "reaches these sites (an edit of one tower does nothing to the other)"
        )
