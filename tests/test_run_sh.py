"""run.sh: the commands of every recipe, and forks of a finished run (tools/fork.py): what they share, what they run."""

import os
import re
import subprocess
import sys
import time

import pytest
from conftest import PROJECT, python

from tools import fork
from tools.cli import UserError
from tools.run import append_jsonl, read_jsonl, write_jsonl

LADDER = {"Base": "base", "+CoT cold start": "sft", "+RL stage 1": "rl1", "+RL stage 2": "rl2"}
MODELS = [f"--model={label}={folder}" for label, folder in LADDER.items()]


@pytest.fixture
def baseline(tmp_path):
    """A finished run as far as a fork looks: the files' names, a metrics line for each stage, the report."""
    run = tmp_path / "base"
    for name in ("sft", "rl1", "rl2"):
        (run / name).mkdir(parents=True)
        (run / name / "model.safetensors").write_text(name)
    files = "kg.sqlite synth.jsonl train.jsonl heldout.jsonl cot.jsonl ledger.jsonl report.html"
    for name in [*files.split(), "teacher_cache.jsonl", "decisions.jsonl"]:
        (run / name).write_text(name)
    append_jsonl(
        run / "metrics.jsonl", [{"stage": stage, "step": 1, "time": 0.0} for stage in (*fork.STAGES, "mining")]
    )
    (run / "eval" / "heldout").mkdir(parents=True)
    for label in LADDER:
        for suffix in ("json", "jsonl"):
            (run / "eval" / "heldout" / f"{label}.{suffix}").write_text(label)
        append_jsonl(run / "metrics.jsonl", [{"stage": "evaluate", "step": 500, "time": 0.0, "model": label}])
    return run


@pytest.fixture
def run_sh(tmp_path):
    """Calls run.sh with a `python` that forks, and otherwise only notes how it is called: the result, those calls."""
    log, tools = tmp_path / "calls", tmp_path / "bin"
    tools.mkdir()
    for name in ("python", "torchrun"):
        (tools / name).write_text(
            f'#!/bin/sh\n[ "$2" != tools.fork ] || exec {sys.executable} "$@"\n'
            f'[ "$2" = pip ] || {{ printf "%s\\t" {name} "$@"; echo; }} >>{log}\n'
        )
        (tools / name).chmod(0o755)

    def call(*words, **environment):
        environment = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "VIRTUAL_ENV": str(tmp_path),
            "CONTACT": "you@example.org",
            "TEACHER": "openai:any",
            **{name: str(value) for name, value in environment.items()},
        }
        done = subprocess.run(["bash", "run.sh", *words], cwd=PROJECT, env=environment, capture_output=True, text=True)
        return done, [line.split("\t")[:-1] for line in log.read_text().splitlines()] if log.exists() else []

    return call


# ------------------------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("recipe, stages", [("tiny", 9), ("1gpu", 10), ("7b", 9), ("32b", 7)])
def test_a_run_name_with_a_space_reaches_every_stage(run_sh, tmp_path, recipe, stages):
    run = str(tmp_path / "a b")
    done, calls = run_sh(recipe, RUN=run)
    assert done.returncode == 0 and len(calls) == stages
    assert all(call[call.index("--run") + 1] == run for call in calls)


@pytest.mark.parametrize("recipe", ["tiny", "7b", "32b"])
def test_a_seed_is_one_word(run_sh, tmp_path, recipe):
    """Every stage that samples or trains gets it, and it brings no flags of its own along."""
    _, calls = run_sh(recipe, RUN=tmp_path / "x", SEED="3 --lr 1")
    seeded = [call for call in calls if "3 --lr 1" in call]
    scripts = [next(word for word in call if word.endswith(".py")) for call in seeded]
    assert scripts == ["distill.py", "sft.py"] * (recipe != "32b") + ["grpo.py", "grpo.py"]
    assert all(call[call.index("3 --lr 1") - 1] == "--seed" for call in seeded)


@pytest.mark.parametrize("name", ["CONTACT", "TEACHER"])
def test_what_the_large_recipes_need_is_asked_for_first(run_sh, name):
    done, calls = run_sh("7b", **{name: ""})
    assert done.returncode == 1 and done.stderr.startswith(f"run.sh: error: {name} is not set")
    assert done.stderr.count("\n") == 1 and not done.stdout and not calls


@pytest.mark.parametrize(
    "status, end",
    [
        (137, "was killed, often for want of memory; the same command continues"),
        (139, "was stopped by signal 11; the same command continues"),
        (130, "was stopped (Ctrl-C, or a request to end); the same command continues"),
    ],
)
def test_how_a_stage_ended_is_said_in_words(tmp_path, status, end):
    (tmp_path / "python").write_text(f"#!/bin/sh\n[ $2 = pip ] || exit {status}\n")
    (tmp_path / "python").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "VIRTUAL_ENV": str(tmp_path), "RUN": str(tmp_path / "x")}
    done = subprocess.run(["bash", "run.sh"], cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"run.sh: error: stage kg_build {end}\n")


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
    told = run.communicate(timeout=120)[1]
    assert "stage kg_build was stopped (Ctrl-C, or a request to end); the same command continues" in told
    assert run.returncode == 1 and (tmp_path / "log").read_text() == "saved\n"


# --------------------------------------------------------------------------------------------------------------- forks


def test_an_ablation_shares_what_came_before_its_stage(baseline, run_sh):
    before = {path: path.read_bytes() for path in baseline.rglob("*") if path.is_file()}
    done, calls = run_sh("tiny", "rl1", "--with-std", BASELINE=baseline)
    target = baseline.with_name("base-rl1--with-std")
    assert done.returncode == 0, done.stderr
    shared = {"kg.sqlite", "synth.jsonl", "train.jsonl", "heldout.jsonl", "cot.jsonl", "sft"}
    copied = {"metrics.jsonl", "teacher_cache.jsonl", "decisions.jsonl", "eval"}  # these are appended to
    assert {path.name for path in target.iterdir()} == shared | copied
    for path in target.rglob("*"):
        name = path.relative_to(target)
        assert path.is_dir() or path.samefile(baseline / name) == (name.parts[0] in shared), name
    assert {path.stem for path in (target / "eval" / "heldout").iterdir()} == {"Base", "+CoT cold start"}
    rows = list(read_jsonl(target / "metrics.jsonl"))
    stages = [row["stage"] for row in rows if "model" not in row]
    assert stages == ["kg_build", "synth", "curate", "distill", "sft"]
    assert [row["model"] for row in rows if "model" in row] == ["Base", "+CoT cold start"]
    assert {path: path.read_bytes() for path in before} == before

    changed = [call for call in calls if "--with-std" in call]
    assert len(changed) == 1 and changed[0][1:4] == ["grpo.py", "--stage", "1"] and changed[0][-1] == "--with-std"
    assert calls[-1][2:] == ["--table", str(baseline), str(target)]
    announced = re.findall(r"^== (\w+) ==$", done.stdout, re.MULTILINE)
    assert announced == [*stages, "rl1", "rl2", "evaluate", "report"]


def test_an_ablation_resumes_and_needs_no_arguments(baseline, run_sh):
    """Without arguments it is the code that was changed; a second call keeps what the first has made."""
    assert run_sh("tiny", "rl2", BASELINE=baseline)[0].returncode == 0
    target = baseline.with_name("base-rl2")
    (target / "rl2").mkdir()
    assert run_sh("tiny", "rl2", BASELINE=baseline)[0].returncode == 0
    assert (target / "rl2").exists() and (target / "rl1").exists() and not (target / "report.html").exists()


def test_questions_that_changed_are_evaluated_again(baseline, run_sh):
    assert run_sh("tiny", "synth", "--seed", "1", "--options", "5", BASELINE=baseline)[0].returncode == 0
    assert not (baseline.with_name("base-synth--seed-1--options-5") / "eval").exists()


def test_without_hard_links_a_fork_is_a_copy(baseline, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("this file system has none")

    monkeypatch.setattr(os, "link", refuse)
    fork.fork(baseline, tmp_path / "target", "rl1", LADDER)
    for name in ("kg.sqlite", "sft/model.safetensors"):
        assert (tmp_path / "target" / name).read_bytes() == (baseline / name).read_bytes()
        assert not (tmp_path / "target" / name).samefile(baseline / name)


@pytest.mark.parametrize("row", [{"step": 1, "time": 1.0}, {"stage": "evaluate", "step": 1, "time": 1.0, "model": []}])
def test_a_fork_of_broken_metrics_is_one_line(tmp_path, row):
    write_jsonl(tmp_path / "metrics.jsonl", [row])
    (tmp_path / "target").mkdir()
    with pytest.raises(UserError, match="metrics.jsonl, line 1: (missing field stage|model is not a text)"):
        fork.fork(tmp_path, tmp_path / "target", "kg_build", {})


def test_one_of_two_forks_of_a_name_refuses(baseline, tmp_path):
    holder = f"import sys, time; from tools.run import RunDir; RunDir({str(tmp_path)!r}).claim('new.partial')"
    holding = subprocess.Popen(
        [sys.executable, "-c", f"{holder}; print('held', flush=True); time.sleep(60)"],
        cwd=PROJECT, stdout=subprocess.PIPE,
    )  # fmt: skip
    holding.stdout.readline()
    words = ("-m", "tools.fork", *MODELS, baseline, tmp_path / "new", "rl1")
    refused = python(*words)
    holding.kill()
    holding.wait()
    assert refused.returncode == 1 and "is being made by another process" in refused.stderr
    assert refused.stderr.count("\n") == 1 and not (tmp_path / "new").exists()
    (tmp_path / "new.partial").mkdir()  # what a fork that was killed has left
    (tmp_path / "new.partial" / "half").touch()
    assert python(*words).returncode == 0 and not (tmp_path / "new" / "half").exists()


@pytest.mark.parametrize(
    ("words", "missing", "message"),
    [
        (["tiny", "rl3"], None, f"unknown stage 'rl3'; known: {' '.join(fork.STAGES)}"),
        (["tiny", "rl3"], "report.html", "unknown stage 'rl3'"),
        (["tiny", "l"], None, "unknown stage 'l'"),
        (["tiny", "--with-std"], None, "unknown stage '--with-std'"),
        (["32b", "sft"], "sft", "{} has no stage sft; it has: kg_build synth curate distill rl1 rl2"),
        (["tiny", "synth", "--sed", "1"], None, "synth.py: error: unrecognized arguments: --sed 1"),
        (["tiny", "kg_build", "--target", "0"], None, "kg_build.py: error: argument --target: 0 must be at least 1"),
        (["tiny", "rl1"], "report.html", "{} is no finished run; finish it first, or name another: BASELINE=FOLDER"),
        (["huge"], None, "unknown recipe 'huge'; known: tiny, 1gpu, 7b, 32b"),
    ],
)
def test_an_ablation_that_cannot_be_is_one_line(baseline, run_sh, words, missing, message):
    if missing:
        (baseline / missing).rename(baseline / "away")
    done, calls = run_sh(*words, BASELINE=baseline)
    assert done.returncode == 1 and message.format(baseline) in done.stderr and done.stderr.count("\n") == 1
    assert not calls and not list(baseline.parent.glob("base-*"))


@pytest.mark.parametrize("words", [["--help"], ["tiny", "--help"], ["7b", "-h"]])
def test_asking_a_recipe_for_help_runs_nothing(baseline, run_sh, words):
    done, calls = run_sh(*words, BASELINE=baseline)
    assert done.returncode == 0 and done.stdout.startswith("The whole method") and not calls


def test_asking_an_ablated_stage_for_help_makes_nothing(baseline, run_sh):
    done, calls = run_sh("tiny", "synth", "--help", BASELINE=baseline)
    assert done.returncode == 1 and "--questions" in done.stdout and not calls
    assert not list(baseline.parent.glob("base-*"))
