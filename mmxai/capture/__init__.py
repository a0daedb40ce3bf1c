"""From a live model to packed rows: the hook mechanism, token selection, the harvest engine."""
