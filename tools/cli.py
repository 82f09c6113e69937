"""The command line of every script: its parser and number types, progress, and errors that a user can mend."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn, TextIO

from tqdm import tqdm


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
        if not (math.isfinite(value) and holds(value)):
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


def proper_fraction(text: str) -> float:
    """An argparse type: numbers from 0 to below 1."""
    return _number(float, lambda value: 0 <= value < 1, "0 or more and below 1")(text)


def run_stage(main: Callable[[], None]) -> None:
    """Call a stage's `main`; a `UserError` becomes one line on stderr and exit status 1, Ctrl-C becomes status 130.

    A reader that has seen enough (`| head`) ends it quietly.
    """
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{Path(sys.argv[0]).name}: interrupted; the same command continues", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        sys.exit(128 + signal.SIGPIPE)


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


def progress_bar(iterable: Iterable[Any] | None = None, **how: Any) -> tqdm:
    """tqdm's progress bar with its arguments; where stderr is no terminal but a log, at most a line a minute."""
    if not sys.stderr.isatty():
        how = {"file": _Lines(sys.stderr), "mininterval": 60, "miniters": 1, "ncols": 120, **how}
    return tqdm(iterable, **how)
