"""Stages as processes of their own, forked from one that has imported them already: each starts within milliseconds.

A process that imports torch and transformers by itself takes three seconds of a processor to do so.
"""

import contextlib
import functools
import gc
import importlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path

PROJECT = Path(__file__).parents[1]
STAGES = ("kg_build", "synth", "curate", "distill", "sft", "grpo", "evaluate", "report")


@functools.cache
def forking():
    """Processes forked from a clean one, which imports the stages once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["unwatched", *STAGES, "stages"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(PROJECT), str(PROJECT / "tests"), before)))
    forkserver.ensure_running()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
    return context


def start(words, folder, dies_at=None, environment=()):
    """Start a stage's command line, such as ["sft.py", "--run", run]; it writes `stdout` and `stderr` into a folder.

    `dies_at`: it is killed (as by `kill -9`) as soon as it has logged this step. Its environment is this process's.
    """
    arguments = ([str(word) for word in words], str(folder), dies_at, {**os.environ, **dict(environment)})
    process = forking().Process(target=_stage, args=arguments)
    process.start()
    return process


def run_on_two(words, folder, timeout=300):
    """Run a stage's command line in two processes with what torchrun tells them; their exit statuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free.getsockname()[1]),
        }
    both = []
    for rank in ("0", "1"):
        (Path(folder) / rank).mkdir()
        both.append(start(words, Path(folder) / rank, environment={"RANK": rank, "LOCAL_RANK": rank, **place}))
    for process in both:
        process.join(timeout)
        process.kill()
    return [process.exitcode for process in both]


def listening(process):
    """The IP addresses, in hex, at which a process listens."""
    descriptors = set()
    for link in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            descriptors.add(os.readlink(link))
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in descriptors}


LOOPBACK = "0100007F"


def run(words, timeout=300, dies_at=None, environment=()):
    """Run a stage's command line to its end, like `subprocess.run` with its output as text."""
    with tempfile.TemporaryDirectory() as folder:
        process = start(words, folder, dies_at, environment)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(words, timeout)
        out, err = ((Path(folder) / name).read_text() for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(words, process.exitcode, out, err)


def _stage(words, folder, dies_at, environment):
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    gc.freeze()  # what was imported lasts
    gc.enable()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    os.chdir(PROJECT)
    os.environ.update(environment)
    sys.argv = words
    from tools import cli, run

    if dies_at is not None:
        log = run.Metrics.log

        def log_and_die(self, step, **values):
            log(self, step, **values)
            if step == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)

        run.Metrics.log = log_and_die
    cli.run_stage(importlib.import_module(Path(words[0]).stem).main)
