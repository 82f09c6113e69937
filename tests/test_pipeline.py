"""All stages in a row, small: each is killed (`kill -9`) in the middle and run again; it ends as if never disturbed.

And the ablations of run.sh: what they share with their baseline, and which stage gets the arguments.
"""

import hashlib
import os
import random
import re
import sqlite3
import subprocess
import sys
import time

import pytest
from conftest import PROJECT, python

from question import load_questions
from tools.run import append_jsonl, read_jsonl

RL = "--questions 6 --group-size 4 --max-new-tokens 48 --lr 1e-4 --share-prompts --micro-tokens 4096 --cache-gb 0.2"
RL += " --save-every 1"
STAGES = {  # stage: its command line, what it leaves
    "kg_build": ("kg_build.py --source data/encyclopedia.xml", ["kg.sqlite"]),
    "synth": ("synth.py --questions 600", ["synth.jsonl"]),
    "curate": ("curate.py --heldout 28", ["train.jsonl", "heldout.jsonl"]),
    "distill": ("distill.py --teacher evidence --questions 48 --batch-size 8", ["cot.jsonl"]),
    "sft": ("sft.py --model data/base --steps 6 --batch-size 8 --lr 5e-4 --save-every 1", ["sft"]),
    "grpo 1": (f"grpo.py --stage 1 --steps 3 {RL}", ["rl1"]),
    "grpo 2": (f"grpo.py --stage 2 --steps 3 --round-steps 2 --mine-samples 2 {RL}", ["rl2", "ledger.jsonl"]),
    "evaluate": (
        "evaluate.py --max-new-tokens 48 --cache-gb 0.2 --model Base=data/base RL=rl2",
        ["eval/heldout/Base.jsonl", "eval/heldout/RL.jsonl"],
    ),
}


def command(stage, run):
    return [sys.executable, *STAGES[stage][0].split(), "--run", str(run)]


def kill_in_the_middle(stage, run, seconds):
    """Start a stage and kill it after `seconds`; True if it was still running then."""
    process = subprocess.Popen(command(stage, run), cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    running = process.poll() is None
    process.kill()
    process.wait()
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
    """The pipeline twice: undisturbed, and with every stage killed twice before it may finish."""
    calm, rough = tmp_path_factory.mktemp("calm"), tmp_path_factory.mktemp("rough")
    rng = random.Random(0)
    killed, output = {}, {}
    for stage in STAGES:
        began = time.time()
        done = subprocess.run(command(stage, calm), cwd=PROJECT, capture_output=True, text=True)
        assert done.returncode == 0, f"{stage}: {done.stderr[-2000:]}"
        output[stage] = done.stdout
        whole = time.time() - began
        killed[stage] = sum(kill_in_the_middle(stage, rough, whole * rng.uniform(0.4, 0.95)) for _ in range(2))
        done = subprocess.run(command(stage, rough), cwd=PROJECT, capture_output=True, text=True)
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
        for stage, steps in (("sft", 6), ("rl1", 3), ("rl2", 3)):
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
    assert "presentation>disease>drug" in text and text.count("<- right") == 2


def test_a_finished_stage_does_nothing(two_runs):
    for stage in STAGES:
        if stage != "evaluate":
            again = python(*command(stage, two_runs[0])[1:])
            assert again.returncode == 0 and "nothing to do" in again.stdout and again.stdout.count("\n") == 1


def test_missing_inputs_name_the_command_that_makes_them(tmp_path):
    missing = {"synth": "kg_build.py", "curate": "synth.py", "distill": "curate.py", "sft": "distill.py"}
    missing |= {"grpo 1": "curate.py", "grpo 2": "curate.py", "evaluate": "curate.py"}
    for stage, maker in missing.items():
        failed = python(*command(stage, tmp_path)[1:])
        assert failed.returncode == 1 and maker in failed.stderr, failed.stderr
        assert "Traceback" not in failed.stderr and failed.stderr.count("\n") == 1


# ----------------------------------------------------------------------------------------------- run.sh's own ablations


@pytest.fixture
def baseline(tmp_path):
    """A finished run as far as run.sh looks: the files' names, a metrics line a stage, the report."""
    run = tmp_path / "base"
    for name in ("sft", "rl1", "rl2"):
        (run / name).mkdir(parents=True)
        (run / name / "model.safetensors").write_text(name)
    for name in (
        "kg.sqlite",
        "synth.jsonl",
        "train.jsonl",
        "heldout.jsonl",
        "cot.jsonl",
        "ledger.jsonl",
        "report.html",
        "teacher_cache.jsonl",
    ):
        (run / name).write_text(name)
    stages = ("kg_build", "synth", "curate", "distill", "sft", "rl1", "rl2", "mining")
    append_jsonl(run / "metrics.jsonl", [{"stage": stage, "step": 1, "time": 1.0} for stage in stages])
    (run / "eval" / "heldout").mkdir(parents=True)
    for label in LADDER:
        for suffix in ("json", "jsonl"):
            (run / "eval" / "heldout" / f"{label}.{suffix}").write_text(label)
        append_jsonl(run / "metrics.jsonl", [{"stage": "evaluate", "step": 500, "time": 1.0, "model": label}])
    return run


def run_sh(baseline, *words):
    """run.sh with a `python` that only notes how it is called, or checks a stage's flags; its result, those calls."""
    log, tools = baseline.parent / "calls", baseline.parent / "bin"
    tools.mkdir(exist_ok=True)
    (tools / "python").write_text(f'#!/bin/sh\n[ "$1" != -c ] || exec {sys.executable} "$@"\necho "$@" >>{log}\n')
    (tools / "python").chmod(0o755)
    environment = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "VIRTUAL_ENV": str(baseline.parent),
        "BASELINE": str(baseline),
        "CONTACT": "you@example.org",
        "TEACHER": "openai:any",
    }
    done = subprocess.run(["bash", "run.sh", *words], cwd=PROJECT, env=environment, capture_output=True, text=True)
    return done, log.read_text().splitlines() if log.exists() else []


LADDER = ("Base", "+CoT cold start", "+RL stage 1", "+RL stage 2")


def test_an_ablation_shares_what_came_before_its_stage(baseline):
    before = {path: path.read_bytes() for path in baseline.rglob("*") if path.is_file()}
    done, calls = run_sh(baseline, "tiny", "rl1", "--with-std")
    fork = baseline.with_name("base-rl1--with-std")
    assert done.returncode == 0, done.stderr
    shared = {"kg.sqlite", "synth.jsonl", "train.jsonl", "heldout.jsonl", "cot.jsonl", "sft", "eval"}
    copied = {"metrics.jsonl", "teacher_cache.jsonl"}  # these are appended to
    assert {path.name for path in fork.iterdir()} == shared | copied
    files = [path for path in fork.rglob("*") if path.is_file()]
    assert all(path.samefile(baseline / path.relative_to(fork)) == (path.name not in copied) for path in files)
    assert {path.stem for path in (fork / "eval" / "heldout").iterdir()} == {"Base", "+CoT cold start"}
    rows = list(read_jsonl(fork / "metrics.jsonl"))
    stages = [row["stage"] for row in rows if "model" not in row]
    assert stages == ["kg_build", "synth", "curate", "distill", "sft"]
    assert [row["model"] for row in rows if "model" in row] == ["Base", "+CoT cold start"]
    assert {path: path.read_bytes() for path in before} == before

    changed = [call for call in calls if "--with-std" in call.removesuffix(str(fork)).split()]
    assert len(changed) == 1 and changed[0].startswith("grpo.py --stage 1") and changed[0].endswith(" --with-std")
    assert calls[-1] == f"evaluate.py --table {baseline} {fork}"
    announced = re.findall(r"^== (\w+) ==$", done.stdout, re.MULTILINE)
    assert announced == [*stages, "rl1", "rl2", "evaluate", "report", "compare"]


def test_an_ablation_goes_on_and_needs_no_arguments(baseline):
    """Without arguments it is the code that was changed; a second call keeps what the first has made."""
    assert run_sh(baseline, "tiny", "rl2")[0].returncode == 0
    fork = baseline.with_name("base-rl2")
    (fork / "rl2").mkdir()
    done, calls = run_sh(baseline, "tiny", "rl2")
    assert done.returncode == 0 and (fork / "rl2").exists() and (fork / "rl1").exists()
    assert not any("report.html" in path.name for path in fork.iterdir())


@pytest.mark.parametrize(
    ("words", "missing", "message"),
    [
        (["tiny", "rl3"], None, "unknown stage 'rl3' of tiny; known: kg_build synth curate distill sft rl1 rl2"),
        (["32b", "sft"], "sft", "unknown stage 'sft' of 32b"),  # the recipe without a cold start
        (["tiny", "rl1", "--with-stdd"], None, "grpo.py: error: unrecognized arguments: --with-stdd"),
        (["tiny", "kg_build", "--target", "0"], None, "kg_build.py: error: argument --target: 0 must be at least 1"),
        (["tiny", "rl1"], "report.html", "is no finished run; finish it (bash run.sh tiny)"),
        (["huge"], None, "unknown recipe 'huge'; known: tiny, 7b, 32b, base"),
    ],
)
def test_an_ablation_that_cannot_be_is_one_line(baseline, words, missing, message):
    if missing:
        (baseline / missing).rename(baseline / "away")
    done, calls = run_sh(baseline, *words)
    assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1
    assert not [call for call in calls if "pip" not in call]
    assert not list(baseline.parent.glob("base-*"))


def test_a_request_to_stop_reaches_the_stage(tmp_path):
    """SIGTERM to run.sh alone: the stage saves, run.sh waits for it and says what to do."""
    (tmp_path / "python").write_text(
        f"#!/bin/sh\n[ $2 != pip ] || exit 0\ntrap 'sleep 0.5; echo saved >{tmp_path}/log; exit 143' TERM\n"
        f"touch {tmp_path}/up\nwhile :; do sleep 0.05; done\n"
    )
    (tmp_path / "python").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "VIRTUAL_ENV": str(tmp_path), "RUN": str(tmp_path / "x")}
    run = subprocess.Popen(["bash", "run.sh"], cwd=PROJECT, env=environment, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "up").exists():
        time.sleep(0.02)
    run.terminate()
    assert "stage kg_build was stopped by signal 15; the same command continues" in run.communicate(timeout=30)[1]
    assert run.returncode == 1 and (tmp_path / "log").read_text() == "saved\n"


def test_questions_that_changed_are_evaluated_again(baseline):
    assert run_sh(baseline, "tiny", "synth", "--seed", "1", "--options", "5")[0].returncode == 0
    assert not (baseline.with_name("base-synth--seed-1--options-5") / "eval").exists()


@pytest.mark.parametrize("name", ["CONTACT", "TEACHER"])
def test_what_the_large_recipes_need_is_asked_for_first(tmp_path, monkeypatch, name):
    monkeypatch.setenv("CONTACT", "you@example.org")
    monkeypatch.setenv("TEACHER", "openai:any")
    monkeypatch.delenv(name)
    done = subprocess.run(["bash", "run.sh", "7b"], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(f"run.sh: error: {name} is not set")
    assert done.stderr.count("\n") == 1 and not done.stdout
