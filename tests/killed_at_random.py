"""What `test_fsdp_utils.py` runs: stages that are killed at random moments until they are done. Python starts once and
every life is a fork of it, so that twenty of them cost seconds.

A life ends by an interval timer of its CPU time, whose signal ends a process on the spot, as `kill -9` does: Python
hears nothing of it. So the moments are the same on a busy machine and an idle one.
"""

import json
import os
import random
import shutil
import signal
import sys
from pathlib import Path

import torch
from conftest import call_main

import grpo
import sft


def live(module, flags, seconds=0.0):
    """Run a stage in a process of its own that dies after `seconds` of CPU time (0: never). Its status, CPU seconds."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        if seconds:
            signal.setitimer(signal.ITIMER_PROF, seconds)
        code = 1
        try:
            call_main(module, *flags)
            code = 0
        finally:
            os._exit(code)
    _, status, usage = os.wait4(child, 0)
    return status, usage.ru_utime + usage.ru_stime


def main():
    case = json.loads(Path(sys.argv[1]).read_text())
    rng = random.Random(0)
    kills, number, normal = 0, 0, {}
    while number == 0 or kills < case["kills"]:  # run 0 is not killed
        run = Path(case["folder"]) / f"run-{number}"
        shutil.copytree(case["start"], run)
        for stage, flags in case["flags"].items():
            module = grpo if stage.startswith("rl") else sft
            while True:
                spared = number == 0 or kills >= case["kills"]
                seconds = 0.0 if spared else rng.uniform(0.0, normal[stage])
                status, used = live(module, ["--run", run, *flags], seconds)
                if os.WIFEXITED(status):
                    assert os.WEXITSTATUS(status) == 0, (stage, status)
                    break
                assert os.WTERMSIG(status) == signal.SIGPROF
                kills += 1
            normal.setdefault(stage, used)
        number += 1
