"""Shares of the work from options and from the environments of torchrun and SLURM."""

import pytest

from mmxai.errors import ArgumentError
from mmxai.harvesting.config import HarvestConfig


@pytest.mark.parametrize(
    ("part_of", "env", "share"),
    [
        (None, {}, (0, 1)),
        ("2/5", {"RANK": "0", "WORLD_SIZE": "3"}, (2, 5)),
        (None, {"RANK": "1", "WORLD_SIZE": "3"}, (1, 3)),
        (None, {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4"}, (3, 4)),
        (
            None,
            {"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "4"},
            (3, 4),
        ),
        (
            None,
            {
                "SLURM_ARRAY_TASK_ID": "6",
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_ARRAY_TASK_STEP": "2",
                "SLURM_ARRAY_TASK_COUNT": "4",
            },
            (3, 4),
        ),
    ],
)
def test_share(part_of, env, share):
    assert HarvestConfig(part_of=part_of).share(env) == share


@pytest.mark.parametrize("bad", ["4/4", "-1/2", "1", "a/b", "1/0", "/", ""])
def test_unusable_shares(bad):
    with pytest.raises(ArgumentError, match="0 <= i < n"):
        HarvestConfig(part_of=bad).share({})


def test_a_slurm_array_without_a_count_is_not_guessed():
    with pytest.raises(ArgumentError, match="SLURM_ARRAY_TASK_COUNT"):
        HarvestConfig().share({"SLURM_ARRAY_TASK_ID": "3"})
