"""Ending at the next whole step when the user or the scheduler asks for it."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

#: A signal that follows another within so many seconds is the same request: the terminal sends Ctrl-C to every process,
#: and torchrun passes it on to its processes once more.
SAME_REQUEST = 1.0


class Interrupts:
    """While active, SIGINT and SIGTERM set `received` instead of stopping the process; a second one stops it."""

    def __init__(self) -> None:
        self.received: int = 0
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received and now - self._since > SAME_REQUEST:
            raise KeyboardInterrupt
        if not self.received:
            self.received, self._since = number, now
