"""The rehearsal of a recipe: what it tries, where, what it says; and the flags that make a stage small or its worst."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import PROJECT, call_main, metrics_of, python
from test_house import commands_of, read_flags
from test_run_sh import run_sh  # noqa: F401  (a fixture)

import curate
import evaluate
import grpo
import sft
from policy import Example
from teacher import Teacher
from tools import rehearse
from tools.cli import UserError
from tools.run import RunDir, append_jsonl, read_jsonl, write_jsonl

REAL = {"CONTACT": "you@example.org", "TEACHER": "openai:any", "GPUS": "4"}


# ---------------------------------------------------------------------------------------------------- what is tried


@pytest.mark.parametrize("recipe", ["1gpu", "7b", "32b"])
def test_every_stage_of_a_recipe_has_amounts_that_its_script_understands(recipe, monkeypatch):
    words = commands_of(recipe, **REAL)
    for command in words:
        script = rehearse.script_of(command)
        name = {"grpo.py": f"rl{command[command.index('--stage') + 1]}" if "--stage" in command else ""}.get(script[0])
        flags = vars(read_flags(script[0], script[1:], monkeypatch))
        stage = rehearse.Stage(name or script[0][:-3], command, flags, 4)
        tried = vars(read_flags(script[0], [*script[1:], *stage.amounts()], monkeypatch))
        changed = {flag for flag in tried if tried[flag] != flags[flag]}
        assert stage.amounts() or stage.name in ("report", "kg_build")
        # What decides the length of a sequence, and what memory it takes, is the recipe's own.
        assert not changed & {"max_new_tokens", "max_length", "micro_tokens", "cache_gb", "model"} - (
            {"max_new_tokens"} if stage.name == "evaluate" else set()
        )
        if stage.name == "rl2":
            largest = {"1gpu": 12}.get(recipe, 32)  # two rounds, the second with four more; eight, up to the limit
            assert tried["group_size"] == largest and tried["worst_case"]


@pytest.mark.parametrize("recipe, gb, questions", [("7b", 80, (80, 24)), ("7b", 0, (16, 8)), ("1gpu", 16, (22, 15))])
def test_on_a_card_the_cache_is_filled(recipe, gb, questions):
    """By full groups of full responses: two questions to a process would leave most of it empty."""
    rows = {"7b": 75, "1gpu": 170}[recipe]  # that --plan finds in 20 and in 5 GB
    flags = {"group_size": 8, "group_growth": 4, "max_group_size": 32, "round_steps": 50}
    flags |= {"7b": {"questions": 128, "steps": 400}, "1gpu": {"questions": 64, "steps": 100}}[recipe]
    for name, number in zip(("rl1", "rl2"), questions):
        words = rehearse.Stage(name, [], flags, 8 if recipe == "7b" else 1, cache_rows=rows if gb else 0).amounts()
        assert words[words.index("--questions") + 1] == str(number)
    few = rehearse.Stage("rl1", [], flags | {"questions": 16}, 8, cache_rows=rows).amounts()
    assert few[few.index("--questions") + 1] == "16"  # no more than the recipe's


def test_run_sh_rehearses_every_stage_in_a_directory_of_its_own(run_sh, tmp_path):  # noqa: F811
    real = tmp_path / "real"
    done, calls = run_sh("7b", "rehearse", RUN=real, GPUS=2)
    assert done.returncode == 0, done.stderr
    assert [call[1:4] for call in calls] == [["-m", "tools.rehearse", f"{real}-rehearsal"]] * 9
    assert [call[4] for call in calls] == "kg_build synth curate distill sft rl1 rl2 evaluate report".split()
    assert [call[5:] for call in calls] == commands_of("7b", **REAL | {"GPUS": "2"})  # the recipe's own
    assert not real.exists()


@pytest.mark.parametrize("name", ["teacher_cache.jsonl", "pages.sqlite"])
def test_a_run_begins_with_what_its_rehearsal_paid_for_and_fetched(run_sh, tmp_path, name):  # noqa: F811
    rehearsed, run = tmp_path / "x-rehearsal", tmp_path / "x"
    rehearsed.mkdir()
    (rehearsed / name).write_text("paid\n")
    assert run_sh("7b", RUN=run)[0].returncode == 0
    assert (run / name).read_text() == "paid\n"
    (rehearsed / name).write_text("later\n")
    assert run_sh("7b", RUN=run)[0].returncode == 0
    assert (run / name).read_text() == "paid\n"  # its own by now


# ------------------------------------------------------------------------------------------------- what it comes to


SCRIPT = """
import argparse, json, os, signal, sys, time
from pathlib import Path
from tools.cli import UserError, run_stage, stage_parser


def parse_args():
    parser = stage_parser("A stage.")
    parser.add_argument("--run")
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--fail", action="store_true")
    parser.add_argument("--stopped", action="store_true")
    return parser.parse_args()


def main():
    args = parse_args()
    if args.stopped:  # as torchrun tells it
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(60)
    if args.fail:
        raise UserError("no such thing; take another --thing")
    print("Warning: it is warm")
    row = {"stage": "synth", "step": args.questions, "time": 1.0, "vignettes: empty": 3}
    (Path(args.run) / "metrics.jsonl").write_text(json.dumps(row) + "\\n")
    answer = {"key": "k", "text": "t", "tokens": 50, "purpose": "vignette"}
    (Path(args.run) / "teacher_cache.jsonl").write_text((json.dumps(answer) + "\\n") * 4)


if __name__ == "__main__":
    run_stage(main)
"""


@pytest.fixture
def fake(tmp_path):
    """Calls tools.rehearse on a stage `synth` of another making."""
    (tmp_path / "stagelike.py").write_text(SCRIPT)
    path = os.pathsep.join([str(tmp_path), str(PROJECT)])

    def call(*flags):
        command = [sys.executable, str(tmp_path / "stagelike.py"), *flags]
        words = [sys.executable, "-m", "tools.rehearse", str(tmp_path / "run"), "synth", *command]
        return subprocess.run(words, cwd=PROJECT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)

    return call


def test_a_stage_leaves_a_row_and_is_not_tried_again(fake, tmp_path):
    done = fake()
    assert done.returncode == 0 and "it is warm" in done.stdout, done.stderr
    (row,) = read_jsonl(tmp_path / "run" / "rehearsal.jsonl")
    assert row["tried"] == rehearse.AMOUNTS["synth"] and row["calls"] == {"vignette": 4} and row["tokens"] == 200
    assert row["warnings"] == ["Warning: it is warm", "no vignette was kept, most often: empty"]
    assert "1,000 instead of 40, 25 times as many" in row["whole"] and "100 calls" in row["whole"]
    assert "rehearsed already" in fake().stdout
    table = python("-m", "tools.rehearse", tmp_path / "run").stdout
    assert re.search(r"^synth +\d+ +0\.\d\d +0\.00 +--questions 40$", table, re.MULTILINE) and "4 vignette" in table


def test_what_every_model_and_benchmark_says_alike_is_one_warning():
    said = [
        "Warning: Base, medqa: none held an answer",
        "Warning: ours, jmed: none held an answer",
        "3 are left out: x",
    ]
    own = ["Warning: Base, medqa: 9.0% of the responses were cut and count as wrong", "  rejected  2  cmexam: several"]
    own += ["Warning: medqa has 8 questions here, 1273 in the paper: its accuracy is not of the same questions"]
    assert rehearse.warnings_of(said + own, []) == ["none held an answer (2 times)", "3 are left out: x"]


def test_what_would_have_stopped_the_run_is_one_line_with_what_was_proved(fake, tmp_path):
    fake()
    done = fake("--fail")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.endswith(
        "synth would have stopped the run: no such thing; take another --thing (proved before it: synth)\n"
    )
    assert len(list(read_jsonl(tmp_path / "run" / "rehearsal.jsonl"))) == 1


def test_a_request_to_stop_is_no_failure_of_the_stage(fake, tmp_path):
    done = fake("--stopped")
    assert done.returncode == 128 + signal.SIGTERM and "would have stopped" not in done.stderr
    assert not (tmp_path / "run" / "rehearsal.jsonl").exists()


def test_a_training_is_killed_after_its_first_step_and_resumes(tiny, chats, tmp_path):
    write_jsonl(tmp_path / "cot.jsonl", chats)
    command = [sys.executable, "sft.py", "--model", str(tiny), "--max-length", "512", "--batch-size", "4"]
    append_jsonl(tmp_path / "rehearsal.jsonl", [{"stage": "distill", "command": [], "number": 64}])
    done = python("-m", "tools.rehearse", tmp_path, "sft", *command)
    assert done.returncode == 0, done.stderr
    row = list(read_jsonl(tmp_path / "rehearsal.jsonl"))[-1]
    assert "going on from the checkpoint at step 1" in done.stdout
    assert [line["step"] for line in metrics_of(tmp_path, "sft")] == [1, 2] and (tmp_path / "sft").is_dir()
    assert "48 steps of" in row["whole"] and row["disk_gb"] > 0 and row["memory_gb"] > 0.1
    assert "val_loss" in metrics_of(tmp_path, "sft")[-1]


def test_what_torchrun_started_is_killed_with_it(tmp_path):
    """As run.sh calls it, by way of env. Killed itself, torchrun would leave its processes at work."""
    script = "#!/bin/sh\ntrap 'kill $!; wait $!; exit 143' TERM\nsleep 60 &\n"
    script += 'until [ "$(cat /proc/$!/comm)" = sleep ]; do :; done\necho $!\nwait\n'  # before, it would lose a signal
    (tmp_path / "torchrun").write_text(script)
    (tmp_path / "torchrun").chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    words = ["env", "A=1", "torchrun", "--nproc_per_node", "2"]
    with subprocess.Popen(words, env=os.environ | path, stdout=subprocess.PIPE, text=True) as launched:
        worker = int(launched.stdout.readline())
        rehearse.kill_at(launched, tmp_path, rehearse.Tried())
        assert launched.wait(10) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_a_training_that_ends_before_it_is_killed_is_run_again(tmp_path):
    """Its steps are so short that it is through, and its checkpoint deleted, when the request reaches it."""
    state = tmp_path / "sft.state" / "step-000001"
    script = f"[ ! -e {tmp_path}/sft ] || exit 0\ntrap 'rm -r {state}; mkdir {tmp_path}/sft; exit 1' TERM\n"
    script += f"mkdir -p {state}\necho {{}} >{state}/checksums.json\nwhile :; do sleep 0.01; done\n"
    stage = rehearse.Stage("sft", [], {}, 2)
    tried = rehearse.attempt(stage, ["sh", "-c", script, "torchrun"], RunDir(tmp_path))
    assert tried.status == 0 and tried.checkpoint_bytes > 0 and (tmp_path / "sft").is_dir()


def test_a_gpu_that_is_too_small_is_told_before_anything_is_loaded(tiny, tmp_path):
    command = [sys.executable, "grpo.py", "--stage", "1", "--model", str(tiny), "--cache-gb", "1"]
    done = python("-m", "tools.rehearse", tmp_path, "rl1", *command, GPU_GB="0.5")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert (
        "rl1 would have stopped the run: does not fit: " in done.stderr and "take fewer --max-new-tokens" in done.stderr
    )
    assert "(proved before it: nothing)" in done.stderr and not (tmp_path / "rl1.state").exists()


def test_a_teacher_that_reads_nothing_is_a_warning(tmp_path):
    run = RunDir(tmp_path)
    with sqlite3.connect(tmp_path / "kg.sqlite") as db:
        db.executescript("CREATE TABLE evidence(section); CREATE TABLE rejected(reason, count)")
        db.execute("INSERT INTO rejected VALUES ('no JSON', 7)")
    assert rehearse.doubts_about_teacher(run, {"facts": 7}) == [
        "no fact that the teacher read was kept, most often: no JSON"
    ]
    assert rehearse.doubts_about_teacher(run, {}) == []
    with sqlite3.connect(tmp_path / "kg.sqlite") as db:
        db.execute("INSERT INTO evidence VALUES ('teacher: lead')")
    assert rehearse.doubts_about_teacher(run, {"facts": 7}) == []


def test_the_time_of_a_training_follows_from_its_last_step():
    flags = {"questions": 10, "group_size": 4, "steps": 4, "round_steps": 2, "group_growth": 2, "max_group_size": 5}
    flags |= {"mine_budget": 30, "max_new_tokens": 100}
    last = {"sampled_tokens": 200.0, "seconds_rollout": 4.0, "seconds_update": 2.0}  # two responses: 2 s and 1 s each
    stage = rehearse.Stage("rl2", [], flags, 8)
    text = rehearse.training(stage, last | {"memory_share": 0.5}, {})
    # 10 questions, two steps with 4 and two with 5 responses; two minings of 30 responses, sampled only
    assert "180 responses in 4 steps, 60 to mine" in text
    assert text.endswith(f"{660 / 3600:.1f} h, {8 * 660 / 3600:.1f} GPU hours")
    assert rehearse.training(stage, last, {}).endswith("0.2 h on these CPUs, no estimate for GPUs")


def test_an_evaluation_counts_its_own_models_and_all_that_will_be_held_out(tmp_path):
    for benchmark, model, questions, answered in (("heldout", "A", 4, 4), ("medqa", "A", 20, 8), ("medqa", "B", 20, 8)):
        file = tmp_path / "eval" / benchmark / f"{model}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"settings": {"questions": questions}}))
        write_jsonl(file.with_suffix(".jsonl"), [{}] * answered)
    stage = rehearse.Stage("evaluate", [], {"model": ["A=x"], "score": "loglikelihood"}, 1)
    row, curated = {"tried": "--limit 8", "seconds": 36.0, "calls": {}, "tokens": 0}, {"heldout": 500}
    earlier = [{"stage": "curate", "number": 7, "held_out": curated}]
    told = rehearse.whole(stage, row, [{}], RunDir(tmp_path), earlier)
    assert told["number"] == 520 and told["whole"].startswith("520 instead of 12, 43 times as many; 0.4 h at this rate")


# ----------------------------------------------------------------------------------- flags that make a stage small


def test_a_limit_takes_the_longest_questions_of_each_dataset(questions):
    assert curate.longest(questions, None) is questions
    taken = curate.longest(questions, 5)
    assert len(taken) == 5 and min(len(q.question) for q in taken) >= max(len(q.question) for q in questions) - 1


def test_a_verifier_of_no_use_is_named_where_nothing_is_left(questions, tmp_path, monkeypatch):
    class Babbler(Teacher):
        def ask(self, requests):
            return ["hm" for _ in requests]

    monkeypatch.setattr(curate, "language_model", lambda *_: Babbler())
    fact = [["Gout", "treated_by", "Colchicine", 1, "It is eased by colchicine."]]
    write_jsonl(tmp_path / "synth.jsonl", [replace(question, evidence=fact).to_json() for question in questions])
    with pytest.raises(UserError, match="for 21 the verifier never gave their answer: take another --verifier"):
        call_main(curate, "--run", tmp_path, "--heldout", 0, "--teacher", "openai:babbler")


def test_an_evaluation_with_a_limit_is_completed_without_it(cold_started, questions, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    write_jsonl(run / "heldout.jsonl", [question.to_json() for question in questions])
    words = ["--run", run, "--max-new-tokens", "8", "--cache-gb", "0.1", "--model", f"x={cold_started / 'sft'}"]
    for limit, answered in ((["--limit", "4"], 4), (["--limit", "4"], 8), ([], 21)):
        call_main(evaluate, *words, *limit)
        rows = list(read_jsonl(run / "eval" / "heldout" / "x.jsonl"))
        assert len(rows) == len({row["id"] for row in rows}) == answered


def test_the_worst_case_of_a_cold_start_is_full_sequences():
    short = [Example([1, 2, 3], [False, True, True]), Example([4], [True])]
    made = sft.lengthened(short, 7, 3)
    assert [example.tokens for example in made] == [[1, 2, 3, 1, 2, 3, 1], [4] * 7, [1, 2, 3, 1, 2, 3, 1]]
    assert made[0].scored == [False, True, True, False, True, True, False]


@pytest.mark.parametrize("stage", [1, 2])
def test_the_worst_case_of_rl_is_full_responses_of_which_none_is_left_out(cold_started, questions, tmp_path, stage):
    run = tmp_path / "run"
    run.mkdir()
    write_jsonl(run / "train.jsonl", [question.to_json() for question in questions])
    words = ["--run", run, "--stage", stage, "--model", cold_started / "sft", "--worst-case", "--steps", 1]
    call_main(grpo, *words, "--questions", 2, "--group-size", 4, "--max-new-tokens", 12, "--cache-gb", "0.1",
              "--mine-budget", 4)  # fmt: skip
    (row,) = metrics_of(run, f"rl{stage}")
    assert row["sampled_tokens"] == row["trained_tokens"] == 2 * 4 * 12 and row["zero_advantage"] == 0


def test_what_a_script_says_of_its_end_is_found_amid_the_launchers_words(tmp_path):
    noise = "W1127 torch/distributed: Sending\n[rank0]: x\ngrpo.py: error: out of memory; lower it\nE1127 failed\n"
    assert rehearse.reason(noise, 1) == "out of memory; lower it"
    bar = "Writing model shards: 100%|####| 1/1 [00:00<00:00, 451.15it/s]\n"
    assert rehearse.reason(f"Traceback\nKeyError: 'x'\n{bar}", 1) == "KeyError: 'x'"
    assert rehearse.reason(bar, 1) == "it ended without a word"
    assert rehearse.reason(bar, -9) == "signal 9 ended it (is the host's memory too small?)"
    run = RunDir(tmp_path)
    with pytest.raises(UserError, match="unrecognized arguments: --sed"):
        rehearse.Stage.of("report", ["python", "report.py", "--sed"], run)
    stage = rehearse.Stage.of("report", ["torchrun", "--nproc_per_node", "3", "--", "report.py"], run)
    assert stage.flags["run"] == "runs/main" and stage.gpus == 3 and stage.plan_gb is None
