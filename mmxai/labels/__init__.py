"""What is known of the samples of a store, and which of its rows that is true of."""

from mmxai.labels.truth import Truth, cell_labels

__all__ = ["Truth", "cell_labels"]
