"""Ctrl-C and SIGTERM end a run after its step, not in it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

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
