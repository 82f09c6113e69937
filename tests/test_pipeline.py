"""All stages in a row, small: each is asked to stop, then killed (`kill -9`), and ends as if never disturbed."""

import hashlib
import random
import re
import signal
import sqlite3
import time

import pytest
import stages
from conftest import python

from question import load_questions
from tools.run import read_jsonl

RL = "--questions 6 --group-size 4 --max-new-tokens 32 --lr 1e-4 --share-prompts --micro-tokens 4096 --cache-gb 0.2"
RL += " --save-every 1"
STAGES = {  # stage: its command line, what it leaves
    "kg_build": ("kg_build.py --source data/encyclopedia.xml", ["kg.sqlite"]),
    "synth": ("synth.py --questions 110", ["synth.jsonl"]),
    "curate": ("curate.py --heldout 28", ["train.jsonl", "heldout.jsonl"]),
    "distill": ("distill.py --teacher evidence --questions 48 --batch-size 8", ["cot.jsonl"]),
    "sft": ("sft.py --model data/base --steps 4 --batch-size 8 --lr 5e-4 --save-every 1", ["sft"]),
    "grpo 1": (f"grpo.py --stage 1 --steps 3 {RL}", ["rl1"]),
    "grpo 2": (
        f"grpo.py --stage 2 --steps 3 --round-steps 2 --mine-samples 2 --mine-budget 24 {RL}",
        ["rl2", "ledger.jsonl"],
    ),
    "evaluate": (
        "evaluate.py --max-new-tokens 32 --cache-gb 0.2 --model Base=data/base RL=rl2",
        ["eval/heldout/Base.jsonl", "eval/heldout/RL.jsonl"],
    ),
}


def command(stage, run):
    return [*STAGES[stage][0].split(), "--run", str(run)]


def stop_in_the_middle(stage, run, seconds, folder, how):
    """Start a stage and terminate or kill it after `seconds`; True if it was still running then."""
    process = stages.start(command(stage, run), folder)
    process.join(seconds)
    running = process.exitcode is None
    getattr(process, how)()
    process.join(60)
    errors = (folder / "stderr").read_text()
    assert process.exitcode in (0, -signal.SIGKILL if how == "kill" else 128 + signal.SIGTERM), (stage, errors)
    assert "Traceback" not in errors
    return running


def fingerprint(path):
    """What a stage left: a model's weights, a database's tables, a file's bytes."""
    if path.is_dir():
        return hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
    if path.suffix == ".sqlite":
        database = sqlite3.connect(path)
        return [
            database.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
            for table in ("entity", "alias", "relation")
        ]
    return path.read_bytes()


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """The pipeline twice: undisturbed, and with every stage asked to stop and then killed before it may finish."""
    calm, rough = tmp_path_factory.mktemp("calm"), tmp_path_factory.mktemp("rough")
    output_of_the_killed = tmp_path_factory.mktemp("killed")
    python("report.py", "--help")  # the first fork waits for the imports, which is not the stage's time
    rng = random.Random(0)
    killed, output = {}, {}
    for stage in STAGES:
        began = time.time()
        done = python(*command(stage, calm))
        assert done.returncode == 0, f"{stage}: {done.stderr[-2000:]}"
        output[stage] = done.stdout
        whole = time.time() - began
        killed[stage] = sum(
            stop_in_the_middle(stage, rough, whole * rng.uniform(0.2, 0.8), output_of_the_killed, how)
            for how in ("terminate", "kill")
        )
        done = python(*command(stage, rough))
        assert done.returncode == 0, f"{stage} after a kill: {done.stderr[-2000:]}"
    return calm, rough, killed, output


def test_killed_stages_end_the_same(two_runs):
    calm, rough, killed, _ = two_runs
    assert sum(killed.values()) >= len(STAGES), f"too few kills hit a running stage: {killed}"
    for stage, (_, outputs) in STAGES.items():
        for name in outputs:
            assert fingerprint(calm / name) == fingerprint(rough / name), f"{stage}: {name} differs"
    left = [path.name for path in rough.iterdir() if "partial" in path.name or path.name.endswith(".state")]
    assert not left, "nothing half-done stays behind"


def test_metrics_have_no_gap_and_no_double(two_runs):
    for run in two_runs[:2]:
        for stage, steps in (("sft", 4), ("rl1", 3), ("rl2", 3)):
            logged = [row["step"] for row in read_jsonl(run / "metrics.jsonl") if row["stage"] == stage]
            assert logged == list(range(1, steps + 1)), (run, stage)
        stages = {row["stage"] for row in read_jsonl(run / "metrics.jsonl")}
        assert stages == {"kg_build", "synth", "curate", "distill", "sft", "rl1", "rl2", "mining", "evaluate"}


def test_no_heldout_path_occurs_in_training(two_runs):
    train, heldout = (load_questions(two_runs[0] / name) for name in ("train.jsonl", "heldout.jsonl"))

    def path(question):
        return {tuple(row[:3]) for row in question.evidence}

    trained = [path(question) for question in train]
    assert len(heldout) == 28 and all(path(question) for question in heldout)
    assert not any(path(question) <= other for question in heldout for other in trained)


def test_the_end_is_table_4_and_transcripts(two_runs):
    text = two_runs[3]["evaluate"]
    assert re.search(r"\| Variant +\| heldout", text) and re.search(r"\| RL .*\d+\.\d \(\d+\.\d-\d+\.\d\)", text)
    looked_at = python("report.py", "--run", two_runs[0]).stdout
    assert "presentation>disease>drug" in looked_at and looked_at.count("<- right") == 2


def test_a_finished_stage_does_nothing(two_runs):
    for stage in STAGES:
        if stage != "evaluate":
            again = python(*command(stage, two_runs[0]))
            assert again.returncode == 0 and "nothing to do" in again.stdout and again.stdout.count("\n") == 1


def test_missing_inputs_name_the_command_that_makes_them(tmp_path):
    missing = {"synth": "kg_build.py", "curate": "synth.py", "distill": "curate.py", "sft": "distill.py"}
    missing |= {"grpo 1": "curate.py", "grpo 2": "curate.py", "evaluate": "curate.py"}
    for stage, maker in missing.items():
        failed = python(*command(stage, tmp_path))
        assert failed.returncode == 1 and maker in failed.stderr, failed.stderr
        assert "Traceback" not in failed.stderr and failed.stderr.count("\n") == 1
