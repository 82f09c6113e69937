"""The run directory: JSON lines that survive a crash, metrics, and who may write.

A stage finds its inputs and leaves its outputs in one run directory under fixed names (`RunDir`); one process at a time
may make an output (`RunDir.claim`). Three rules make a run restartable after `kill -9`:

1. A finished output appears under its final name at once (written elsewhere, flushed to disk, renamed). A stage whose
   output exists has nothing to do.
2. Work in progress is appended line by line to JSON-lines files. A line that a crash cut in half is dropped on reading
   and cut off before the next append, so it costs one item.
3. Metrics are appended with their step. A stage that goes on from a checkpoint at step n first drops its own lines
   beyond n, so no step is missing or double.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from tools.cli import UserError

# Which command makes which file of the run directory: the remedy that a missing input's message names.
MADE_BY = {
    "kg.sqlite": "python kg_build.py",
    "synth.jsonl": "python synth.py",
    "train.jsonl": "python curate.py",
    "heldout.jsonl": "python curate.py",
    "cot.jsonl": "python distill.py",
    "sft": "python sft.py",
    "rl1": "python grpo.py --stage 1",
    "rl2": "python grpo.py --stage 2",
}

CLAIMS: list[TextIO] = []  # locks, kept open: the kernel gives them back when their process has ended

# ---------------------------------------------------------------------------- JSON lines and files that survive a crash


def read_jsonl(path: Path, made_by: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a file, one a line. A last line without its newline was cut by a crash: it is dropped.

    Raises UserError if the file is missing (naming the command that makes it) or another line is no JSON object.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist" + (f"; make it with: {made_by}" if made_by else ""))
    with open(path, "rb") as lines:  # bytes: the cut may go through a character
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode())
            except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or nested too deeply
                raise UserError(f"{path}, line {number}: not valid JSON ({error})") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: not a JSON object")
            yield row


def append_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append rows and flush them to disk. Half a line at the end, left by a crash, is cut off first."""
    with open(path, "ab+") as file:
        end = file.seek(0, os.SEEK_END)
        keep = end
        while keep > 0:  # walk back to the last newline, a block at a time
            start = max(0, keep - 65536)
            file.seek(start)
            newline = file.read(keep - start).rfind(b"\n")
            if newline >= 0:
                keep = start + newline + 1
                break
            keep = start
        if keep < end:
            file.truncate(keep)
        for row in rows:
            # A lone surrogate, which broken text may hold, becomes its JSON escape.
            file.write(json.dumps(row, ensure_ascii=False).encode(errors="backslashreplace") + b"\n")
        file.flush()
        os.fsync(file.fileno())


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a whole file so that it appears complete or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """Write a whole text file so that it appears complete or not at all (temporary file, fsync, rename)."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


# ------------------------------------------------------------------------------------ the run directory and its metrics


class RunDir:
    """One run's folder: every stage's inputs and outputs under fixed names, and `metrics.jsonl`."""

    def __init__(self, path: str | Path, create: bool = False):
        """`create` is for the stages that start a run; the others need an existing one (UserError otherwise)."""
        self.path = Path(path)
        if create:
            self.path.mkdir(parents=True, exist_ok=True)
        if not self.path.is_dir():
            others = ", ".join(sorted(str(path.parent) for path in self.path.parent.glob("*/metrics.jsonl")))
            raise UserError(
                f"run directory {self.path} does not exist; start it with: python kg_build.py --run {self.path}"
                + (f"; or take another by --run: {others}" if others else "")
            )

    def output(self, name: str) -> Path:
        return self.path / name

    def made_by(self, name: str) -> str:
        return f"{MADE_BY[name]} --run {self.path}" if name in MADE_BY else "an earlier stage"

    def input(self, name: str) -> Path:
        """The path of an input that must exist. Raises UserError that names the command which makes it."""
        path = self.path / name
        if not path.exists():
            raise UserError(f"{path} does not exist; make it with: {self.made_by(name)}")
        return path

    def finished(self, name: str) -> bool:
        """True, with a line for the user, if the output is already there: the stage then has nothing to do."""
        done, lock = (self.path / name).exists(), self.path / ".locks" / name
        if done:
            command = lock.read_text().partition(": ")[2] if lock.exists() else ""
            other = f", made by another command ({command})" if command not in ("", " ".join(sys.argv)) else ""
            print(f"{self.path / name} is there already{other}: nothing to do (delete it to make it again)")
        return done

    def claim(self, name: str) -> None:
        """Make sure that no other process makes this output, until this one ends, however it ends.

        Of the processes that torchrun starts the first one claims for all. Raises UserError that names who has it.
        """
        if os.environ.get("RANK", "0") != "0":
            return
        output, locks = self.path / name, self.path / ".locks"
        locks.mkdir(exist_ok=True)
        lock = open(locks / name.replace("/", "-"), "a+")
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            lock.seek(0)
            raise UserError(
                f"{output} is being made by another process ({lock.read().strip()}); "
                "wait for it or stop it, then run this again"
            ) from None
        except OSError as error:  # some network file systems know no locks
            print(f"{self.path} cannot be locked ({error}): see to it that no other process makes {name}")
        lock.truncate(0)
        lock.write(f"PID {os.getpid()} on {socket.gethostname()}: {' '.join(sys.argv)}")
        lock.flush()
        CLAIMS.append(lock)


class Metrics:
    """A stage's measurements, appended to the run's `metrics.jsonl`: a JSON object a line with stage, step, time."""

    def __init__(self, run: RunDir, stage: str):
        self.path, self.stage = run.output("metrics.jsonl"), stage

    def log(self, step: int, **values: Any) -> None:
        rounded = {key: round(value, 6) if isinstance(value, float) else value for key, value in values.items()}
        append_jsonl(self.path, [{"stage": self.stage, "step": step, "time": round(time.time(), 1), **rounded}])

    def rewind(self, step: int) -> int:
        """Drop this stage's lines beyond `step`: the stage goes on from a checkpoint there. Returns their last step."""
        if not self.path.exists():
            return step
        rows = list(read_jsonl(self.path))
        dropped = [row["step"] for row in rows if row["stage"] == self.stage and row["step"] > step]
        if dropped:
            write_jsonl(self.path, [row for row in rows if row["stage"] != self.stage or row["step"] <= step])
        return max(dropped, default=step)

    def resume(self, step: int) -> None:
        """`rewind` to the checkpoint at `step` (0: there is none), and tell the user what is kept and what is not."""
        again = self.rewind(step) - step
        kept = f"going on from the checkpoint at step {step}" if step else "there is no checkpoint, beginning at step 0"
        if step or again:
            print(
                f"{self.stage}: {kept}" + (f"; {again} later steps of the run before are done again" if again else "")
            )
