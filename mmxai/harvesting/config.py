"""The options of a harvest; the command line is generated from this dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mmxai.share import share


@dataclass(frozen=True)
class HarvestConfig:
    sites: tuple[str, ...] = ("*.resid_post",)
    """Which activations: site names or globs, e.g. 'vision.*.resid_post' text.3.mlp_post."""
    store: str = "acts.zarr"
    """Where the store is made, or resumed."""
    tokens: str | None = None
    """Token types to keep, comma-separated: cls patch register special text image; or 'last'. All but padding
    when not given."""
    per_sample: int | None = None
    """Keep at most this many rows of a sample: a random subset, seeded."""
    pool: str | None = None
    """One row a sample: 'mean', 'last', or the mean over grid cells 'y0,x0,y1,x1'."""
    store_dtype: Literal["bfloat16", "float16", "float32", "int8", "topk"] = "bfloat16"
    """Data type on disk. A value that does not fit float16 is an error, never a stored inf. int8: half of
    bfloat16, a scale a row, columns that are very large in a few samples looked at first kept apart. topk:
    the --topk values of largest magnitude of each row. Both read as bfloat16."""
    topk: int | None = None
    """Values kept of each row with --store-dtype topk."""
    batch_size: int | Literal["auto"] = "auto"
    """Samples a forward pass. The same batch size gives the same bytes; auto: what the store was begun with,
    else 32 on a CPU and the fastest that fits on a GPU."""
    workers: int = 2
    """Threads that decode and tokenise."""
    limit: int | None = None
    """Use only the first so many samples of the data set."""
    seed: int = 0
    """Seed of the sample order and of --per-sample."""
    order: Literal["permuted", "sequential"] = "permuted"
    """Order of samples in the store. Permuted (where data can be indexed) leaves any stretch unbiased."""
    samples_per_part: int | None = None
    """Samples committed at a time. By default parts of 256 MiB or more over all sites."""
    context: int | None = None
    """Pack or split texts into contexts of this many tokens."""
    stride: int | None = None
    """Tokens between the starts of neighbouring contexts (default: --context, no overlap)."""
    pack: bool = False
    """Join texts, separated by the end token, so that every context is full."""
    long: Literal["error", "split", "truncate"] = "error"
    """A text longer than the model's context: stop, split it into several samples, or cut and record it."""
    generate: int | None = None
    """Let a language model go on greedily for so many tokens first; their rows are of type 'generated'."""
    bos: Literal["auto", "always", "never"] = "auto"
    """Begin-of-sequence token: as the tokeniser does, always, or never."""
    on_error: Literal["stop", "skip"] = "stop"
    """An unreadable sample: stop, or skip it and record why in the store."""
    stats: bool = True
    """Keep per-neuron statistics and top-k rows."""
    stats_k: int = 16
    """How many top rows a neuron, at most 128."""
    bottom: bool = False
    """Keep as many rows of the smallest (most negative) values, too."""
    exemplars: Literal["row", "sample"] = "row"
    """The top rows: of any samples, or one a sample at most, so that they show as many pictures or texts."""
    part_of: str | None = None
    """This worker's share, 'i/n' (0 <= i < n). Default: RANK and WORLD_SIZE, or SLURM_ARRAY_TASK_ID."""
    dry_run: bool = False
    """Print rows, bytes and files against free disk, then stop."""

    def share(self, env: Mapping[str, str] | None = None) -> tuple[int, int]:
        """(rank, world) from `part_of`, torchrun's variables, or a SLURM array."""
        return share(self.part_of, env)
