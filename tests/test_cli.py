"""Every command ends as a user expects: wrong flags, bad input, progress in a log, a reader that has seen enough."""

import argparse
import io
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import unicodedata
from pathlib import Path

import pytest
import torch
from conftest import PROJECT, python
from hypothesis import given
from hypothesis import strategies as st

from tools.cli import UserError, above, at_least, between, progress_bar, run_stage, stage_parser
from tools.run import hashes
from tools.stop import AGAIN, asked_to_stop


@pytest.mark.parametrize("error, status", [(UserError("bad --x 3"), 1), (KeyboardInterrupt(), 130)])
def test_an_expected_end_is_one_line(monkeypatch, capsys, error, status):
    def main():
        raise error

    monkeypatch.setattr(sys, "argv", ["/some/where/stage.py", "--x", "3"])
    with pytest.raises(SystemExit) as caught:
        run_stage(main)
    assert caught.value.code == status
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("stage.py: ")


@pytest.mark.parametrize(
    "cause, line",
    [
        (lambda path: open(path / "missing"), "No such file or directory: .*missing"),
        (lambda path: open(path), "Is a directory: "),
        (lambda path: open(path / ("x" * 300)), "File name too long: .*xxx"),
        (lambda path: (path / "file").write_text("") or (path / "file" / "x").mkdir(), "Not a directory: .*file/x"),
        (lambda path: sqlite3.connect(path / "db").execute("SELECT * FROM entity"), "database .*no such table: entity"),
        (lambda path: os.fsdecode(b"run\xff").encode(), "holds bytes that are no UTF-8 text"),
        (lambda path: bytearray(1 << 60), "out of memory"),
        (lambda path: torch.empty(1 << 50), "out of memory"),
    ],
)
def test_what_is_wrong_outside_is_one_line_with_the_path(tmp_path, monkeypatch, capsys, cause, line):
    monkeypatch.setattr(sys, "argv", ["/some/where/stage.py"])
    with pytest.raises(SystemExit) as caught:
        run_stage(lambda: cause(tmp_path))
    shown = capsys.readouterr().err
    assert caught.value.code == 1 and shown.count("\n") == 1 and re.match(f"stage.py: error: .*{line}", shown)


@given(st.text())
def test_no_text_of_others_controls_the_terminal(text):
    """Nor does it break what is printed: lone surrogates and what the terminal cannot encode become escapes."""
    for encoding in ("utf-8", "ascii"):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding, newline="") for _ in range(2)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])

            def main():
                print(f"it said {text}")
                raise UserError(f"it said {text}")

            with pytest.raises(SystemExit):
                run_stage(main)
            out, error = (stream.buffer.getvalue().decode(encoding) for stream in streams if not stream.flush())
        assert all(char.isprintable() or char in "\n\t" or unicodedata.category(char) != "Cc" for char in out)
        assert "\u202e" not in out + error and error.count("\n") == 1 and "\x1b" not in error.replace("\x1b[A", "")


def test_a_programming_error_is_not_hidden():
    def main():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_stage(main)


def test_a_log_has_lines_instead_of_a_bar(monkeypatch, capfd):
    log = progress_bar(range(1000), desc="walk")
    assert sum(log) == 499500
    seen = capfd.readouterr().err
    assert "\r" not in seen and seen.count("\n") == 1 and seen.startswith("walk: 100%")
    for _ in progress_bar(range(3), desc="walk"):  # what is shown beside it waits for the bar's own line
        below = progress_bar(range(1000), leave=False)
        assert sum(below) == 499500
        log.set_postfix(loss=1, refresh=False)
    assert re.fullmatch(r"walk: 100%.*3/3 .*\n", capfd.readouterr().err)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert sum(progress_bar(range(10), desc="walk")) == 45
    assert "\rwalk: 100%" in capfd.readouterr().err


@pytest.mark.parametrize("text", ["1" + "0" * 400, "1e300", "-1e300", "inf", "nan", "1" + "0" * 31])
@pytest.mark.parametrize("kind", [at_least(1), above(0.0), between(0.0, 1.0)])
def test_no_flag_takes_a_number_that_nothing_can_be_computed_with(kind, text):
    with pytest.raises(argparse.ArgumentTypeError):
        kind(text)


def test_a_wrong_flag_is_one_line_and_help_shows_defaults(monkeypatch, capsys):
    def main():
        parser = stage_parser("Does things.\n\n    python stage.py")
        parser.add_argument("--size-of-it", type=at_least(1), default=3, help="how much")
        parser.add_argument("--file", help="which")
        parser.parse_args()

    for flags, status in (["--size-of-it", "x"], 1), (["--help"], 0):
        monkeypatch.setattr(sys, "argv", ["stage.py", *flags])
        with pytest.raises(SystemExit) as caught:
            run_stage(main)
        assert caught.value.code == status
    out, error = capsys.readouterr()
    assert error.count("\n") == 1 and "--size" in error and "'x'" in error
    assert (
        "--size-of-it N" in out
        and "how much (default: 3)" in out
        and "default: None" not in out
        and "    python stage.py" in out
    )


def test_a_stage_that_gets_sigterm_says_so_in_one_line(monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "argv", ["stage.py"])
    with pytest.raises(SystemExit) as caught:
        run_stage(lambda: signal.raise_signal(signal.SIGTERM))
    assert caught.value.code == 128 + signal.SIGTERM and signal.getsignal(signal.SIGTERM) == before
    assert capsys.readouterr().err == "stage.py: interrupted; the same command continues\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_a_callback_of_sqlite_is_no_error_of_the_database(number, monkeypatch, capsys):
    def main():
        database = sqlite3.connect(":memory:")
        database.create_function("slow", 0, lambda: signal.raise_signal(number))
        database.execute("SELECT slow()")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    monkeypatch.setattr(sys, "argv", ["stage.py"])
    with pytest.raises(SystemExit) as caught:
        run_stage(main)
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler
    assert caught.value.code == 128 + number
    assert capsys.readouterr().err == "stage.py: interrupted; the same command continues\n"


def lost_in_a_destructor():
    class Thing:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    Thing()  # is gone at once


def heard_by_another_thread():
    """What wakes no main thread, as a signal that comes just before this waits for a lock."""
    here = threading.Thread(target=threading.Event().wait, args=(3,), daemon=True)
    here.start()
    threading.Timer(0.2, lambda: signal.pthread_kill(here.ident, signal.SIGTERM)).start()


@pytest.mark.parametrize("ask", [lost_in_a_destructor, heard_by_another_thread])
def test_a_signal_that_python_loses_is_heard_within_two_seconds(ask, monkeypatch, capfd):
    def main():
        ask()
        threading.Event().wait(20)  # such as for a request that hangs

    before = signal.getsignal(signal.SIGTERM), sys.unraisablehook, signal.set_wakeup_fd(-1)
    monkeypatch.setattr(sys, "argv", ["stage.py"])
    began = time.monotonic()
    with pytest.raises(SystemExit) as caught:
        run_stage(main)
    assert caught.value.code == 128 + signal.SIGTERM and time.monotonic() - began < 2
    assert capfd.readouterr().err == "stage.py: interrupted; the same command continues\n"
    assert (signal.getsignal(signal.SIGTERM), sys.unraisablehook, signal.set_wakeup_fd(-1)) == before


def test_who_stops_a_stage_that_reads_large_files_is_heard(tmp_path):
    """Such as a model's, whose hashes several threads make: of these it would take minutes."""
    for name in "abc":
        with open(tmp_path / name, "wb") as file:
            file.truncate(1 << 36)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), asked_to_stop():
        hashes(sorted(tmp_path.iterdir()))
    assert time.monotonic() - began < 10


def test_what_a_stage_does_when_it_is_stopped_is_not_stopped(monkeypatch):
    """Closing a database, waiting for answers that are paid for: the next signal is the user's."""
    done = []

    def main():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            time.sleep(3 * AGAIN)
            done.append("closed")

    monkeypatch.setattr(sys, "argv", ["stage.py"])
    with pytest.raises(SystemExit):
        run_stage(main)
    assert done


def test_a_reader_that_has_seen_enough_ends_a_stage_quietly():
    code = "from tools.cli import run_stage; run_stage(lambda: [print('line', number) for number in range(20000)])"
    stage = subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert stage.stdout.readline() == b"line 0\n"
    stage.stdout.close()
    assert stage.stderr.read() == b"" and stage.wait() == 128 + signal.SIGPIPE


# ------------------------------------------------------------------------------------- while a script is still imported

HEAVY = ("torch", "tqdm", "transformers", "matplotlib", "numpy")  # what takes long to import, or is imported by such
IMPORTING = [path.name for path in sorted(PROJECT.glob("*.py")) if "run_stage(main)" in path.read_text()]


@pytest.fixture(scope="module")
def never_imported(tmp_path_factory):
    """Modules: the process which imports them is asked to stop, and what Python makes of that is lost."""
    folder = tmp_path_factory.mktemp("modules")
    for name in HEAVY:
        lines = ["import os, signal, time", "try:", "    os.kill(os.getpid(), int(os.environ['ASKED_BY']))"]
        lines += ["    time.sleep(20)", "except BaseException:", "    raise ImportError('lost')"]
        (folder / f"{name}.py").write_text("\n".join(lines))
    return folder


def ignoring_nothing():
    """Before a process begins: a shell's background jobs ignore Ctrl-C, and whatever they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("script", IMPORTING)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_who_stops_a_script_that_still_imports_gets_one_line(script, how, never_imported):
    environment = {**os.environ, "PYTHONPATH": str(never_imported), "ASKED_BY": str(int(how))}
    done = subprocess.run(
        [sys.executable, script], cwd=PROJECT, env=environment, capture_output=True, preexec_fn=ignoring_nothing
    )
    line = f"{script}: interrupted; the same command continues\n"
    assert (done.returncode, done.stdout, done.stderr) == (128 + how, b"", line.encode())


def test_who_stops_an_ablation_while_its_flags_are_read_gets_one_line(never_imported):
    """The stage's own script reads them, in a process of its own."""
    code = "import tools.fork, os; os.environ['PYTHONPATH'] = os.environ['LATER']; tools.fork.check_flags('rl1', [])"
    done = python("-c", code, LATER=str(never_imported), ASKED_BY=str(int(signal.SIGTERM)))
    assert (done.returncode, done.stderr) == (143, "grpo.py: interrupted; the same command continues\n")
