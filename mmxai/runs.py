"""What long runs share: Ctrl-C and SIGTERM end one after its step, not in it; its log goes on with it."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_signals(wanted: bool = True) -> Iterator[list[int]]:
    """A list that the signals are added to; a second Ctrl-C interrupts at once.

    Only a process' main thread may ask for signals; elsewhere, and where not `wanted`, the list stays empty.
    """
    received: list[int] = []
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, frame: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StepLog:
    """JSON lines at `path`, each with its "step", continued after `step`.

    What a stopped run wrote past its checkpoint is dropped.
    """

    def __init__(self, path: Path, step: int):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text() if path.exists() else ""
        lines = text[: text.rfind("\n") + 1].splitlines()  # a last line without an end was cut off
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        staged = path.with_suffix(".tmp")
        staged.write_text("".join(line + "\n" for line in kept))
        os.replace(staged, path)

    def write(self, entry: Mapping[str, Any]) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps(entry) + "\n")

    def close(self) -> None:
        """Every line is already in the file."""
