"""The command line of every script: its parser and number types, progress, and errors that a user can mend."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import re
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO

from tqdm import tqdm

from tools.cost import LONG, bill, duration
from tools.stop import asked_to_stop, interrupted

# No number of a command line is larger: sizes that are computed from it stay within 63 bits, products finite.
MOST = {int: 1e12, float: 1e30}


class UserError(Exception):
    """Bad input that the user can mend: one line with the value and the remedy. `run_stage` prints it, exits 1."""


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """The description as it is written, and every flag with its default, where it has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return "N" if action.type not in (None, str, Path) else action.dest.upper()


class _StageParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """A wrong flag is bad input like any other: one line, exit status 1."""
        raise UserError(f"{message} (see --help)")


def stage_parser(doc: str) -> argparse.ArgumentParser:
    """The argument parser of a script whose `--help` begins with its module docstring."""
    return _StageParser(description=doc, formatter_class=_HelpFormatter)


def _number(kind: type, holds: Callable[[Any], bool], rule: str) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no {'whole ' * (kind is int)}number") from None
        if abs(value) > MOST[kind]:
            raise argparse.ArgumentTypeError(f"{text[:30]} is beyond {MOST[kind]:g}")
        if math.isnan(value) or not holds(value):
            raise argparse.ArgumentTypeError(f"{text} must be {rule}")
        return value

    return parse


def at_least(least: float) -> Callable[[str], Any]:
    """An argparse type: numbers from `least` on, whole ones if it is an int."""
    return _number(type(least), lambda value: value >= least, f"at least {least}")


def above(least: float) -> Callable[[str], Any]:
    """An argparse type: numbers above `least`."""
    return _number(type(least), lambda value: value > least, f"above {least}")


def between(least: float, most: float) -> Callable[[str], Any]:
    """An argparse type: numbers from `least` to `most`, whole ones if they are ints."""
    return _number(type(least), lambda value: least <= value <= most, f"from {least:g} to {most:g}")


fraction = between(0.0, 1.0)  # an argparse type too
seed_number = between(0, 2**32 - 1)  # another: what every generator of random numbers takes


def proper_fraction(text: str) -> float:
    """An argparse type: numbers from 0 to below 1."""
    return _number(float, lambda value: 0 <= value < 1, "0 or more and below 1")(text)


def run_stage(main: Callable[[], None]) -> None:
    """Call a stage's `main`; what comes from outside becomes one line on stderr and exit status 1: a `UserError`, an
    error of the file system, of a database, or for want of memory. Ctrl-C becomes status 130, SIGTERM 143.

    A reader that has seen enough (`| head`) ends it quietly. No control character that is not ours reaches a terminal.
    What a long stage took is told at its end, however it ends.
    """
    with printable_output(), asked_to_stop() as asked:
        _run(main, asked)


def _end_interrupted(number: int) -> NoReturn:
    print(interrupted(), file=sys.stderr)
    sys.exit(128 + number)


def _run(main: Callable[[], None], asked: list[int]) -> None:
    try:
        began = time.monotonic()
        try:
            main()
        finally:
            if line := bill(Path(sys.argv[0]).name, time.monotonic() - began):
                print(line)
        sys.stdout.flush()
    except KeyboardInterrupt:
        _end_interrupted(asked[0] if asked else signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        if asked:
            _end_interrupted(asked[0])
        line = one_line(error)
        if line is None:
            raise
        print(f"{Path(sys.argv[0]).name}: error: {line}", file=sys.stderr)
        sys.exit(1)


def one_line(error: Exception) -> str | None:
    """What a user has to know of an error whose cause lies outside; None for one that is a mistake of ours."""
    if isinstance(error, OSError):
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        text = ": ".join([error.strerror or str(error) or type(error).__name__, *names])
    elif isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # PyTorch's, on a GPU
        text = f"out of memory ({error}); lower --micro-tokens, --cache-gb or --batch-size"
    elif isinstance(error, RuntimeError) and "can't allocate memory" in str(error):  # PyTorch's, on a CPU
        text = "out of memory; lower --micro-tokens, --cache-gb or --batch-size"
    elif isinstance(error, sqlite3.Error):
        text = f"the database {getattr(error, 'path', '')} cannot be used ({error}); make it again".replace("  ", " ")
    elif isinstance(error, UnicodeEncodeError):  # of an argument or a file's name; no text of ours has such
        text = f"{error.object[:100]!r} holds bytes that are no UTF-8 text; write it anew"
    elif isinstance(error, UserError):
        text = str(error)
    else:
        return None
    return " ".join(text.split())


# Control characters, and those that reverse the direction of text. A bar's own (\r, cursor up) are for stderr alone.
UNPRINTABLE = r"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"


class _Printable:
    """A text stream in which unprintable characters of others become their escapes, as do those it cannot encode."""

    def __init__(self, stream: TextIO, ours: str):
        self.stream, self.unprintable = stream, re.compile(f"{UNPRINTABLE}|{ours}")

    def write(self, text: str) -> int:
        encoding = self.stream.encoding or "utf-8"
        text = self.unprintable.sub(lambda found: ascii(found[0])[1:-1], text)
        return self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def printable_output() -> Iterator[None]:
    """Inside, all that is printed is safe for a terminal: models, wikis and servers write what they like."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Printable(sys.stdout, "[\r\x1b]"), _Printable(sys.stderr, r"\x1b(?!\[A)")
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


CURSOR_UP = "\x1b[A"  # tqdm returns by it from a bar below another


class _Lines:
    """A text stream for tqdm that is no terminal: what would be drawn over the last state becomes a line of its own.

    The first state, before anything is done, is left out.
    """

    def __init__(self, stream: TextIO):
        self.stream, self.begun = stream, False

    def write(self, text: str) -> None:
        state = text.replace(CURSOR_UP, "").strip()
        if state and self.begun:
            self.stream.write(state + "\n")
        self.begun = self.begun or bool(state)

    def flush(self) -> None:
        self.stream.flush()


class Progress(tqdm):
    """tqdm's bar that also says, once a command, how long its work will take, judged by its own first steps.

    The first step is left out of that, since it often starts something up. `beside`: seconds that will be spent
    outside of the steps.
    """

    ENOUGH = (3, 0.05, 30)  # steps at least; and this share of all, or as many seconds
    announced: set[str] = set()  # descriptions
    start: tuple[float, float] | None = None  # when the first step had ended, and where the bar stood then
    beside = 0.0

    def __iter__(self) -> Iterator[Any]:
        try:
            for item in self.iterable:
                yield item
                self.update()
        finally:
            self.close()

    def update(self, n: float = 1) -> bool | None:
        shown = super().update(n)
        if not self.disable and self.total and self.desc not in self.announced:
            self._announce(time.monotonic())
        return shown

    def _announce(self, now: float) -> None:
        self.start = self.start or (now, self.n)
        steps, seconds = self.n - self.start[1], now - self.start[0]
        least, share, long = self.ENOUGH
        if steps < least or (steps < share * self.total and seconds < long):
            return
        self.announced.add(self.desc)
        left = seconds / steps * (self.total - self.n) + self.beside
        if left >= LONG:
            judged = f"{steps:,} of {self.total:,} that took {duration(seconds)}"
            self.write(f"{self.desc}: about {duration(left)} more, by {judged}")


def progress_bar(iterable: Iterable[Any] | None = None, **how: Any) -> Progress:
    """A bar with tqdm's arguments; where stderr is no terminal but a log, at most a line a minute."""
    if not sys.stderr.isatty():
        how = {"file": _Lines(sys.stderr), "mininterval": 60, "miniters": 1, "ncols": 120, **how}
    return Progress(iterable, **how)
