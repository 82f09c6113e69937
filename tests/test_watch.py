"""The watcher: silent on a healthy run, one line when a thing goes wrong and one when it is over."""

import shutil
from html import escape

import pytest
from conftest import PROJECT, call_main, metrics_of
from hypothesis import given, settings
from hypothesis import strategies as st

import fsdp_utils
import grpo
import report
from tools.run import read_jsonl, write_jsonl
from tools.watch import CONDITIONS, Watcher

HEALTHY = {"zero_advantage": 0.3, "truncated": 0.02, "format": 0.95, "entropy": 0.2, "surprise": 0.21, "reward": 0.7,
           "top_letter": 0.3, "logprob_gap": 1e-6, "ratio_outside": 0.0, "grad_norm": 2.0, "sampled_tokens": 16000.0,
           "tokens_per_s": 6000.0, "memory_share": 0.8,
           "advantage": 0.0, "nearly_equal": 0.0, "group_size": 8}  # fmt: skip
# What makes each condition hold and nothing else, step by step.
WRONG = {
    "no advantage": {"zero_advantage": 0.95},
    "truncated": {"truncated": 0.6},
    "truncation rises": {"truncated": lambda step: min(0.45, 0.02 * step)},
    "no format": {"format": 0.05},
    "entropy collapses": {"entropy": lambda step: 0.2 * 0.95**step},
    "unlearns": {
        "reward": lambda step: max(0.5, 0.7 - 0.02 * step),
        "entropy": lambda step: min(0.4, 0.2 + 0.02 * step),
        "surprise": lambda step: min(0.4, 0.2 + 0.02 * step),
    },
    "samples are not the policy's": {"surprise": 0.1},
    "no baseline": {"advantage": 0.8},
    "small groups": {"group_size": 2, "zero_advantage": 0.7},
    "differences of nothing": {"nearly_equal": 0.3},
    "one letter": {"top_letter": 0.9},
    "sampler and trainer disagree": {"ratio_outside": 0.2},
    "no gradient": {"grad_norm": 0.0},
    "gradient explodes": {"grad_norm": 300.0},
    "slower": {"tokens_per_s": 2000.0},
    "memory is idle": {"memory_share": 0.3},
}


def series(wrong, healthy=30, steps=60):
    """Metrics that are healthy, then wrong for some steps, then healthy again."""
    bad = [{name: value(step) if callable(value) else value for name, value in wrong.items()} for step in range(steps)]
    return [HEALTHY] * healthy + [HEALTHY | row for row in bad] + [HEALTHY] * 100


def told(rows, watcher=None):
    watcher = watcher or Watcher()
    return [(step, line) for step, row in enumerate(rows) for line in watcher.watch(row)]


def test_every_condition_has_a_case():
    assert set(WRONG) == {condition.name for condition in CONDITIONS}


@pytest.mark.parametrize("name", WRONG)
def test_a_condition_is_told_when_it_begins_and_when_it_ends(name):
    message = next(condition.message for condition in CONDITIONS if condition.name == name)
    assert [line for _, line in told(series(WRONG[name]))] == [f"{name}: {message}", f"{name}: over"]


@pytest.mark.parametrize("name", [condition.name for condition in CONDITIONS if condition.steps > 1])
def test_a_few_bad_steps_are_not_told(name):
    steps = next(condition.steps for condition in CONDITIONS if condition.name == name)
    assert told(series(WRONG[name], steps=steps - 1)) == []


@settings(max_examples=20)
@given(st.sampled_from(sorted(WRONG)), st.integers(0, 180))
def test_what_is_told_does_not_depend_on_restarts(name, cut):
    rows = series(WRONG[name])
    resumed = Watcher()
    resumed.restore(rows[:cut])
    assert told(rows[cut:], resumed) == [(step - cut, line) for step, line in told(rows) if step >= cut]


def test_steps_that_lack_a_field_are_not_judged():
    assert told([{"grad_norm": 1.0, "loss": 2.0}] * 50) == []
    assert told([HEALTHY, {"loss": 0.0, "grad_norm": 1.0}] * 50) == []


@pytest.mark.parametrize("path", sorted((PROJECT / "docs" / "reference").glob("*.jsonl")), ids=lambda path: path.stem)
def test_healthy_runs_are_silent(path):
    rows = [row for row in read_jsonl(path) if "reference" not in row]
    for stage in ("sft", "rl1", "rl2"):
        assert told([row for row in rows if row["stage"] == stage]) == []


def test_a_run_that_learns_nothing_says_so_once(tmp_path, cold_started, questions, monkeypatch, capsys):
    """Responses cut to four tokens earn nothing: printed, in metrics.jsonl and in the report; not again on resuming."""
    run = tmp_path / "run"
    run.mkdir()
    shutil.copytree(cold_started / "sft", run / "sft")
    write_jsonl(run / "train.jsonl", [question.to_json() for question in questions])
    flags = "--stage 1 --questions 2 --group-size 2 --max-new-tokens 4 --cache-gb 0.1 --save-every 6 --steps".split()
    monkeypatch.setattr(fsdp_utils.TrainingLoop, "finish", lambda *_: None)  # the checkpoint stays
    with monkeypatch.context() as patch:
        patch.setattr(grpo.Stage1, "next_batch", stops_at(6))
        call_main(grpo, "--run", run, *flags, 8)
    call_main(grpo, "--run", run, *flags, 8)
    lines = [line for row in metrics_of(run, "rl1") for line in row.get("warnings", ())]
    assert sorted(line.partition(":")[0] for line in lines) == ["no format", "no gradient", "truncated"]
    output = capsys.readouterr().out
    assert all(output.count(f"rl1, step 5: {line}") == 1 for line in lines)
    call_main(report, "--run", run)
    assert all(escape(line) in (run / "report.html").read_text() for line in lines)


def stops_at(last):
    """Stage 1's batches up to a step, then none, as if there were nothing left to train on."""
    next_batch = grpo.Stage1.next_batch
    return lambda stage, step: next_batch(stage, step) if step < last else []
