"""Ctrl-C and SIGTERM, heard after a step instead of in the midst of it."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from gandl.gan._ranks import LostRankError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ECHO = 2.0  # seconds


class Interrupt:
    """Whether a signal has come; a second one acts at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.heard = -math.inf

    def hear(self, number: int) -> None:
        """Take note of a signal, of another process perhaps; 0 is none."""
        if number and self.signal is None:
            self.signal = signal.Signals(number)
            self.heard = time.monotonic()

    def is_echo(self) -> bool:
        """Whether a signal comes so soon after the first that it tells no more.

        A cluster that ends a job signals torchrun, which passes it on, and its
        processes too.
        """
        return time.monotonic() - self.heard < _ECHO


@contextmanager
def deferred_interrupts() -> Iterator[Interrupt]:
    """Hold back Ctrl-C and SIGTERM, and let them act when the block ends.

    In threads other than the main one, where no signal arrives, this does nothing.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    # A handler that is not Python's own reads as None, and cannot be put back.
    before = {
        number: handler
        for number in _SIGNALS
        if (handler := signal.getsignal(number)) is not None
        and handler is not signal.SIG_IGN
    }

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def hear(number: int, frame: FrameType | None) -> None:
        # Python's own Ctrl-C, twice, acts at once; what torchrun passes on does not.
        passed_on = number == signal.SIGTERM or "TORCHELASTIC_RUN_ID" in os.environ
        if passed_on and interrupt.is_echo():
            return
        again = interrupt.signal is not None
        interrupt.hear(number)
        if again:
            restore()
            signal.raise_signal(number)

    for number in before:
        signal.signal(number, hear)
    try:
        yield interrupt
    except LostRankError:
        # torchrun then ends this process by a signal; the error says why.
        interrupt.signal = None
        raise
    finally:
        restore()
        if interrupt.signal is not None:
            if before.get(interrupt.signal) in (signal.SIG_DFL, None):
                # The process would end: as an exception, what has begun is tidied up.
                raise SystemExit(128 + interrupt.signal)
            signal.raise_signal(interrupt.signal)
