"""The run directory: JSON lines that survive a crash, metrics, who may write, and what work in progress was made from.

A stage finds its inputs and leaves its outputs in one run directory under fixed names (`RunDir`); one process at a time
may make an output (`RunDir.claim`). Five rules make a run restartable after `kill -9`:

1. A finished output appears under its final name at once (written elsewhere, flushed to disk, renamed: `publish`). A
   stage whose output exists has nothing to do.
2. Work in progress is appended line by line to JSON-lines files. A record that a crash cut in half is dropped on
   reading and cut off before the next append, so it costs one item. All other files must be whole.
3. Metrics are appended with their step. A stage that resumes from a checkpoint at step n first drops its own lines
   beyond n, so no step is missing or double.
4. Whatever a stage resumes from (a `Journal`, a checkpoint) says which flags and which files it was made from, its
   `origin`, and is used with these only.
5. Folders of tensors carry checksums of their files (`seal`), which are compared before they are used.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shlex
import socket
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from tools.cli import UserError
from tools.shape import misfit

# Which command makes which file of the run directory: the remedy that a missing input's message names.
MADE_BY = {
    "kg.sqlite": "python kg_build.py",
    "synth.jsonl": "python synth.py",
    "train.jsonl": "python curate.py",
    "heldout.jsonl": "python curate.py",
    "heldout_public.jsonl": "python curate.py",
    "cot.jsonl": "python distill.py",
    "sft": "python sft.py",
    "rl1": "python grpo.py --stage 1",
    "rl2": "python grpo.py --stage 2",
}

CHECKSUMS = "checksums.json"
METRIC = {"stage": str, "step": int, "time": float}  # the shape of a line of metrics.jsonl
CLAIMS: list[TextIO] = []  # locks, kept open: the kernel gives them back when their process has ended

# ---------------------------------------------------------------------------- JSON lines and files that survive a crash


def read_jsonl(
    path: Path, made_by: str | None = None, appended: bool = False, shape: Any = None
) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a file, one per line.

    `appended`: a stage appends to the file, so half a record at its end was cut by a crash and is dropped. Other files
    must be whole. A whole last record counts with or without its newline, which editors leave out. Raises
    UserError if the file is missing (naming the command that makes it), or a line is no JSON object or has not the
    `shape` (see tools/shape.py).
    """
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist" + (f"; make it with: {made_by}" if made_by else ""))
    with open(path, "rb") as lines:  # bytes: the cut may go through a character
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or nested too deeply
                if appended and not line.endswith(b"\n"):
                    return
                cut = "" if line.endswith(b"\n") else "; the file ends in the middle of a line"
                raise UserError(f"{path}, line {number}: not valid JSON ({error}){cut}") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: not a JSON object")
            if shape and (problem := misfit(row, shape)):
                raise UserError(f"{path}, line {number}: {problem}")
            yield row


def is_there(path: Path) -> bool:
    """Whether a file or folder that may be lacking is there. Raises UserError for a link that leads nowhere or in a
    circle: what it stands for would be passed over."""
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path} is a link to nothing; mend it, or delete it to do without")
    return path.exists()


def append_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append rows and flush them to disk, one writer at a time. Half a record at the end, of a crash, is cut off."""
    with locked(path) as file:
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
            file.seek(keep)
            if is_object(file.read()):
                file.write(b"\n")  # the file's end is where it writes
            else:
                file.truncate(keep)
        file.writelines(map(json_line, rows))
        file.flush()
        os.fsync(file.fileno())


def json_line(row: dict[str, Any]) -> bytes:
    """A record as it is written. A lone surrogate, which broken text may hold, becomes its JSON escape."""
    return json.dumps(row, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"


def is_object(line: bytes) -> bool:
    """Whether a line is a whole record; no part of one is."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


@contextlib.contextmanager
def locked(path: Path) -> Iterator[BinaryIO]:
    """The file, made if it is missing, open for appending by nobody else."""
    while True:
        same = False
        with naming(path), open(path, "ab+") as file:
            with contextlib.suppress(OSError):  # some network file systems know no locks
                fcntl.flock(file, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                same = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
            if same:  # else it was replaced while we waited
                yield file
                return


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of the file system that names no file, as of a full disk, names this one."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a whole file so that it appears complete or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """Write a whole text file so that it appears complete or not at all."""
    with whole_file(path) as file:
        file.write(text.encode(errors="backslashreplace"))


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A new file, open for writing, that appears as `path` once it is complete. Who else writes it at the same time
    waits, and takes its place then."""
    partial = path.with_name(path.name + ".partial")
    with locked(partial) as file:
        if file.seek(0, os.SEEK_END):  # what a crash has left
            file.truncate(0)
        yield file
        file.flush()
        publish(partial, path)


def check_written(flag: str, path: Path, begins: bytes) -> None:
    """Raise UserError if a flag names a file to be written in whose place another would be lost: one that a stage
    makes, or one that is there and does not begin as all that the flag has written do."""
    if path.name.removesuffix(".partial") in MADE_BY:
        raise UserError(f"{flag} {path}: {path.name} is a file that a stage makes; name another")
    if is_there(path):
        with open(path, "rb") as file:
            found = file.read(len(begins))
        if found not in (begins, b""):
            raise UserError(f"{flag} {path}: there is another file, which {flag} has not written; name another")


def publish(partial: Path, final: Path) -> None:
    """Give a finished file or folder its final name, once all of it is on disk: a crash leaves it whole or absent."""
    for path in (*partial.rglob("*"), partial):
        flush(path)
    os.replace(partial, final)
    flush(final.parent)


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ----------------------------------------------------------------------------- what work in progress was made from


def file_hash(path: Path, stopping: threading.Event | None = None) -> str:
    """The SHA-256 of a file's bytes, as hex digits; of some of them, if it is `stopping`."""
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while (block := file.read(1 << 20)) and not (stopping and stopping.is_set()):
            sha.update(block)
    return sha.hexdigest()


def origin_of(args: Namespace, free: Collection[str] = (), **inputs: Any) -> dict[str, Any]:
    """What decides a stage's output: its flags but for the `free` ones, and its inputs by name.

    Of an input that is a file the hash of its content counts; whatever else it is must be plain JSON data.
    """
    flags = {f"--{name.replace('_', '-')}": value for name, value in vars(args).items() if name not in {"run", *free}}
    hashed = {name: file_hash(value) if isinstance(value, Path) else value for name, value in inputs.items()}
    return json.loads(json.dumps(flags | hashed))


def digest(value: Any) -> str:
    """Sixteen hex digits of the SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode(errors="replace")).hexdigest()[:16]


def require_same_origin(path: Path, before: Any, now: Mapping[str, Any]) -> None:
    """Raise UserError, naming what changed and what to delete, if what stands at `path` had another origin."""
    before = before if isinstance(before, dict) else {}
    for name, value in now.items():
        if name.startswith("--") and before.get(name, value) != value:
            raise UserError(
                f"{path} was made with {name} {before[name]}, now it is {value}; give {name} as before, or delete "
                f"{path} to start over"
            )
        if not name.startswith("--") and before.get(name) != value:
            raise UserError(f"{path} was made from another {name}; put that back, or delete {path} to start over")


class Journal:
    """Finished items of work in progress, one per line, from which the same command resumes.

    `rows` are those that were there at the start. The file's first line is the `origin` of all others. Every line ends
    with a hash of itself and of all before it: what is changed, doubled or taken out is noticed.
    """

    def __init__(self, path: Path, origin: dict[str, Any]):
        """Raises UserError if there is a journal of another origin, or one that is damaged."""
        found = list(read_jsonl(path, appended=True)) if is_there(path) else []
        if found:
            require_same_origin(path, found[0].get("origin"), origin)
        self.path, self.rows, self.hash = path, found[1:], ""
        self.head = [] if found else [{"origin": origin}]
        for number, row in enumerate(found, 1):
            noted = row.pop("hash", None)
            self.hash = digest([self.hash, row])
            if noted != self.hash:
                raise UserError(f"{path}, line {number} is not as it was written; delete {path} to start over")

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Keep finished items: after a crash they are there."""
        append_jsonl(self.path, map(self.hashed, [*self.head, *rows]))
        self.head = []

    def hashed(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row as it is written. To be called for each once, in their order."""
        self.hash = digest([self.hash, row])
        return row | {"hash": self.hash}


def seal(folder: Path, noted: Mapping[str, str] | None = None) -> None:
    """Note the `hashes` of some of a folder's files in it, or of all, for `check_seal`."""
    noted = hashes(sorted(folder.iterdir())) if noted is None else noted
    write_text(folder / CHECKSUMS, json.dumps(noted, indent=1))


def hashes(files: Collection[Path]) -> dict[str, str]:
    """The hash of each file by its name; several are read at a time."""
    stopping = threading.Event()
    with ThreadPoolExecutor() as pool:  # waits for its threads, also at Ctrl-C
        try:
            return dict(zip((path.name for path in files), pool.map(file_hash, files, repeat(stopping))))
        finally:
            stopping.set()


def check_seal(folder: Path, remedy: str) -> None:
    """Raise UserError, naming the file and the remedy, if a file of a sealed folder is not as it was.

    A folder without a seal, such as a model from elsewhere, is taken as it is.
    """
    noted = read_json(folder / CHECKSUMS, {str: str}, remedy) if is_there(folder / CHECKSUMS) else {}
    there = [folder / name for name in noted if (folder / name).is_file()]
    found = hashes(there)
    for name, value in noted.items():
        if found.get(name) != value:
            state = "has changed or is damaged" if name in found else "is missing"
            raise UserError(f"{folder / name} {state} since it was written ({CHECKSUMS}); {remedy}")


def read_json(path: Path, shape: Any = {}, remedy: str = "delete it") -> dict[str, Any]:  # noqa: B006
    """The JSON object of a `shape` that a file holds. Raises UserError with the remedy if it is broken."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        problem = misfit(value, shape)
    except (ValueError, RecursionError) as error:
        problem = str(error)
    if problem:
        raise UserError(f"{path} is broken ({problem}); {remedy}")
    return value


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
                f"run directory {self.path} does not exist; start it with: "
                f"RUN={shlex.quote(str(self.path))} bash run.sh"
                + (f"; or take another by --run: {others}" if others else "")
            )

    def output(self, name: str) -> Path:
        """The path of an output. Raises UserError for a name that leads out of the run directory."""
        name = os.path.normpath(name)
        if os.path.isabs(name) or name.split(os.sep)[0] in {".", ".."}:
            raise UserError(f"{name!r} is no name within the run directory {self.path}; give a simple name")
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
        done = is_there(self.output(name))
        if done:
            lock = self._lock(name)
            command = lock.read_text(errors="replace").partition(": ")[2] if lock.exists() else ""
            other = f", made by another command ({command})" if command not in ("", " ".join(sys.argv)) else ""
            print(f"{self.output(name)} is there already{other}: nothing to do (delete it to make it again)")
        return done

    def begin(self, name: str) -> bool:
        """Whether this process is to make an output, and claim it if so; not, with a line, if it is there already."""
        if self.finished(name):
            return False
        self.claim(name)
        return not self.finished(name)  # another process may have made it since

    def claim(self, name: str) -> None:
        """Make sure that no other process makes this output, until this one ends, however it ends.

        Of several processes that make it together, one claims it. Raises UserError that names who has it.
        """
        self._lock(name).parent.mkdir(exist_ok=True)
        lock = open(self._lock(name), "a+", errors="replace")
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            lock.seek(0)
            raise UserError(
                f"{self.output(name)} is being made by another process ({lock.read().strip()}); "
                "wait for it or stop it, then run this again"
            ) from None
        except OSError as error:  # some network file systems know no locks
            print(f"{self.path} cannot be locked ({error}): see to it that no other process makes {name}")
        lock.truncate(0)
        lock.write(f"PID {os.getpid()} on {socket.gethostname()}: {' '.join(sys.argv)}")
        lock.flush()
        CLAIMS.append(lock)

    def _lock(self, name: str) -> Path:
        """One lock for an output, however its name is written."""
        return self.path / ".locks" / str(self.output(name).relative_to(self.path)).replace("/", "%")


class Metrics:
    """A stage's measurements, appended to the run's `metrics.jsonl`: a JSON object a line with stage, step, time."""

    def __init__(self, run: RunDir, stage: str):
        self.path, self.stage = run.output("metrics.jsonl"), stage

    def log(self, step: int, **values: Any) -> None:
        rounded = {key: round(value, 6) if isinstance(value, float) else value for key, value in values.items()}
        append_jsonl(self.path, [{"stage": self.stage, "step": step, "time": round(time.time(), 1), **rounded}])

    def rows(self) -> list[dict[str, Any]]:
        """This stage's lines so far."""
        lines = read_jsonl(self.path, appended=True, shape=METRIC) if is_there(self.path) else ()
        return [row for row in lines if row["stage"] == self.stage]

    def rewind(self, step: int) -> int:
        """Drop this stage's lines beyond `step`: the stage goes on from a checkpoint there. Returns their last step."""
        if not is_there(self.path):
            return step
        with locked(self.path):
            rows = list(read_jsonl(self.path, appended=True, shape=METRIC))
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
