"""What a harvest did: counts, rates, and where the time went."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Clock:
    """Seconds of each stage. Stages overlap, so they need not add up to `wall`."""

    wall: float = 0.0
    forward: float = 0.0  # the model, with its hooks
    capture: float = 0.0  # of it, in the hooks: packing and statistics; on a GPU, asking for them
    copy: float = 0.0  # from a GPU to the CPU, beside the model
    wait_data: float = 0.0  # the model waited for decoded samples
    wait_disk: float = 0.0  # the model waited for room in the writer's queue
    decode: float = 0.0  # summed over the decoding threads
    write: float = 0.0  # in the writer thread: checksums, write, fsync, commit


@dataclass
class HarvestReport:
    """The result of `mmxai.harvest`; prints as the table the command line shows.

    rows: row space -> rows written by this run. parts: in the plan (None: not known before the data
    ends). resumed: parts that were there before; written: by this run; others: committed meanwhile by other
    workers; elsewhere: parts left to other live workers. nbytes: activation bytes written; staged: of
    them as the hooks pack them, which for int8 and topk sites is bfloat16.
    """

    store: str
    samples: int = 0
    skipped: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    nbytes: int = 0
    staged: int = 0
    read: int = 0
    parts: int | None = None
    resumed: int = 0
    written: int = 0
    others: int = 0
    elsewhere: int = 0
    batch_size: int = 0
    clock: Clock = field(default_factory=Clock)

    @property
    def complete(self) -> bool:
        """Whether every planned part is committed."""
        return self.parts is not None and self.resumed + self.written + self.others >= self.parts

    def __str__(self) -> str:
        c, wall = self.clock, max(self.clock.wall, 1e-9)
        rows = sum(self.rows.values())
        spaces = ", ".join(f"{space} {n:,}" for space, n in self.rows.items()) or "none"
        planned = "?" if self.parts is None else f"{self.parts:,}"
        parts = f"{self.written:,} written, {self.resumed:,} were there before, of {planned}"
        if self.others:
            parts += f"; {self.others:,} made meanwhile by other workers"
        if self.elsewhere:
            parts += f"; {self.elsewhere:,} left to other live workers"
        if not self.samples and not self.skipped:
            return f"store      {self.store}\nparts      {parts}; nothing was left to do"
        lines = [
            f"store      {self.store}",
            f"samples    {self.samples:,}"
            + (f" ({self.skipped:,} skipped, see their records)" if self.skipped else ""),
            f"rows       {spaces}",
            f"parts      {parts}",
            f"time       {wall:.1f} s: {self.samples / wall:,.0f} samples/s, {rows / wall:,.0f} rows/s, "
            f"{size(self.nbytes / wall)}/s",
            f"shares     compute {c.forward / wall:.0%}"
            # A GPU packs behind the hooks' back, and what they take says nothing of it.
            + ("" if c.copy else f" (packing and statistics {c.capture / wall:.1%})")
            + ", "
            f"waiting for data {c.wait_data / wall:.0%}, "
            f"waiting for the disk {c.wait_disk / wall:.0%}; beside them, decoding {c.decode / wall:.0%}, "
            + (f"copying {c.copy / wall:.0%}, " if c.copy else "")
            + f"writing {c.write / wall:.0%}",
        ]
        if c.decode and c.forward:
            lines.append(
                f"rates      decode {self.samples / c.decode:,.0f} samples/s a thread, "
                f"forward {self.samples / c.forward:,.0f} samples/s"
                + "".join(
                    f", {what} {size(nbytes / seconds)}/s"
                    for what, nbytes, seconds in (
                        ("pack", self.staged, 0.0 if c.copy else c.capture),
                        ("copy", self.staged, c.copy),
                        ("write", self.nbytes, c.write),
                    )
                    if seconds > 1e-3 * wall
                )
            )
        return "\n".join(lines)


def size(nbytes: float) -> str:
    """Bytes in words: "1.5 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(nbytes) < 1024 or unit == "TiB":
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    raise AssertionError("unreachable")
