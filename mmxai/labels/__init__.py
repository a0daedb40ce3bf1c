"""What is known of the samples of a store, and which of its rows that is true of."""

from mmxai.labels.labels import Labels, Task, labelled
from mmxai.labels.reading import read_labels
from mmxai.labels.rows import row_values
from mmxai.labels.truth import Truth, cell_labels
from mmxai.labels.world import WorldLabels

__all__ = ["Labels", "Task", "Truth", "WorldLabels", "cell_labels", "labelled", "read_labels", "row_values"]
