"""A command that is asked to stop, by Ctrl-C or by SIGTERM as schedulers send it, stops within two seconds."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

AGAIN = 0.5  # seconds after which a main thread that has not stopped is woken again
WAKE = signal.SIGALRM


def interrupted() -> str:
    """What a command that was asked to stop says."""
    return f"{Path(sys.argv[0]).name}: interrupted; the same command continues"


def can_stop(worker: bool = False) -> None:
    """Ctrl-C and SIGTERM end this process with one line, as they do later within `asked_to_stop`.

    For scripts that import for seconds: nothing is lost by then, and an import may lose an exception. In a `worker`
    process, which imports the same, Ctrl-C does nothing: its parent gets it too, and ends its workers.
    """
    if worker:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return

    def end(number: int, _: Any) -> None:
        os.write(2, f"{interrupted()}\n".encode())
        os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # Ctrl-C is not for a shell's background jobs
            signal.signal(number, end)


class Stop(KeyboardInterrupt):
    """Unlike KeyboardInterrupt itself, it can be referred to weakly: one that was lost on its way is noticed."""


@contextlib.contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """Inside, Ctrl-C and SIGTERM raise KeyboardInterrupt in the main thread; a second one ends the process at once.
    Yields the signals that came.

    Python alone does not promise that: an exception is lost in a destructor or in a callback of C code, and a signal
    that comes just before the main thread waits for a lock does not wake it. So the main thread is woken until it has
    left, and an exception that was lost is followed by another.
    """
    asked: list[int] = []
    raised: list[weakref.ref[Stop]] = []

    def stop(number: int, _: Any) -> None:
        if number != WAKE:
            asked.append(number)
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
        if asked and not (raised and raised[-1]()):
            raise one_more()

    def one_more() -> Stop:  # not kept by a frame of its own traceback
        error = Stop()
        raised.append(weakref.ref(error))
        return error

    with _handling(stop), _waking(), _losing_quietly():
        yield asked


@contextlib.contextmanager
def _handling(handler: Callable[[int, Any], None]) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, WAKE)}
    if before[signal.SIGINT] is signal.SIG_IGN:  # Ctrl-C is not for this process
        del before[signal.SIGINT]
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@contextlib.contextmanager
def _waking() -> Iterator[None]:
    """Inside, the main thread is woken by `WAKE` again and again, once a signal has come."""
    reading, writing = os.pipe()  # Python's C handler writes each signal's number, whatever thread it interrupts
    os.set_blocking(writing, False)
    left = threading.Event()

    def wake() -> None:
        os.read(reading, 1)
        while not left.wait(AGAIN):
            signal.pthread_kill(threading.main_thread().ident, WAKE)

    thread = threading.Thread(target=wake, daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(before)
        os.write(writing, b"\0")
        thread.join()
        os.close(reading)
        os.close(writing)


@contextlib.contextmanager
def _losing_quietly() -> Iterator[None]:
    """Inside, Python does not print a `Stop` that was lost: another one follows."""
    before = sys.unraisablehook
    sys.unraisablehook = lambda lost: None if issubclass(lost.exc_type, Stop) else before(lost)
    try:
        yield
    finally:
        sys.unraisablehook = before
