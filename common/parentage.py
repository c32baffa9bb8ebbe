"""Processes that end with the one that started them, however that one ended."""

from __future__ import annotations

import os
import signal
import threading
import time

#: Seconds between two looks.
INTERVAL = 0.5


def end_with_parent(grace: float = 0.0) -> None:
    """End this process soon after its parent has ended.

    A thread looks, since what the system offers (Linux: a signal) fires at the end of the thread that started the
    process, and since a parent that was killed tells nobody.

    Args:
        grace: seconds between SIGTERM, at which a training writes a checkpoint, and the end by force; 0: at once.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(INTERVAL)
        if grace:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(grace)
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()
