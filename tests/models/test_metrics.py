"""Labels of samples that metrics are held against; the metrics themselves are tested where they are used."""

import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.models import load_model
from mmxai.models.metrics import ZeroShot, ZeroShotMargin, labels_of
from tests.models.test_clip import TestCLIP as Clip


def test_labels_are_those_of_the_numbers():
    labels = torch.tensor([4, 5, 6], dtype=torch.int32)
    assert labels_of(torch.tensor([2, 0, 2]), labels).tolist() == [6, 4, 6]
    assert labels_of(torch.tensor([], dtype=torch.int32), labels).tolist() == []
    for wrong in ([0, -1], [3]):
        with pytest.raises(ArgumentError, match="expected a label at each number"):
            labels_of(torch.tensor(wrong), labels)


def test_a_sample_past_the_labels_is_refused():
    case = Clip()
    model = load_model(case.make())
    inputs = model.prepare(case.tensors())  # three pictures
    run = model.run(inputs, capture=["vision.embeds"])
    width = run.acts["vision.embeds"].shape[-1]
    for metric in (ZeroShot, ZeroShotMargin):
        with pytest.raises(ArgumentError, match="from 0 to 2 and 2 labels"):
            metric(torch.randn(3, width), torch.arange(2))(run, inputs)
