"""Causal tracing: which states carry an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmxai._lazy import lazy

if TYPE_CHECKING:
    from mmxai.methods.trace.attribution import Attribution as Attribution
    from mmxai.methods.trace.attribution import attribute as attribute
    from mmxai.methods.trace.corruptions import Noise as Noise
    from mmxai.methods.trace.corruptions import Replaced as Replaced
    from mmxai.methods.trace.edge_attribution import Edges as Edges
    from mmxai.methods.trace.edge_attribution import edges as edges
    from mmxai.methods.trace.findings import Findings as Findings
    from mmxai.methods.trace.findings import load_findings as load_findings
    from mmxai.methods.trace.metrics import kl as kl
    from mmxai.methods.trace.metrics import log_probability as log_probability
    from mmxai.methods.trace.metrics import logit_difference as logit_difference
    from mmxai.methods.trace.metrics import probability as probability
    from mmxai.methods.trace.path_patching import Paths as Paths
    from mmxai.methods.trace.path_patching import patch_paths as patch_paths
    from mmxai.methods.trace.prefilter import Prefiltered as Prefiltered
    from mmxai.methods.trace.results import TraceResult as TraceResult
    from mmxai.methods.trace.studies import Study as Study
    from mmxai.methods.trace.studies import study as study
    from mmxai.methods.trace.studies import trace as trace
    from mmxai.methods.trace.types import Cell as Cell
    from mmxai.methods.trace.types import Corruption as Corruption
    from mmxai.methods.trace.types import Span as Span

_HOMES = {
    "Attribution": "attribution",
    "Cell": "types",
    "Corruption": "types",
    "Edges": "edge_attribution",
    "Findings": "findings",
    "Noise": "corruptions",
    "Paths": "path_patching",
    "Prefiltered": "prefilter",
    "Replaced": "corruptions",
    "Span": "types",
    "Study": "studies",
    "TraceResult": "results",
    "attribute": "attribution",
    "edges": "edge_attribution",
    "kl": "metrics",
    "load_findings": "findings",
    "log_probability": "metrics",
    "logit_difference": "metrics",
    "patch_paths": "path_patching",
    "probability": "metrics",
    "study": "studies",
    "trace": "studies",
}

__all__ = [*_HOMES]
__getattr__, __dir__ = lazy(__name__, _HOMES)
