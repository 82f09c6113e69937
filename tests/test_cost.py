"""What a command takes: told ahead from its own first steps, and at its end."""

import doctest
import re
import shutil
import sys

import pytest
from conftest import call_main, metrics_of
from hypothesis import given
from hypothesis import strategies as st

import grpo
from tools import cli, cost
from tools.run import write_jsonl


@pytest.fixture(autouse=True)
def nothing_yet(monkeypatch):
    monkeypatch.setattr(cost, "COUNTED", cost.Counter())
    monkeypatch.setattr(cli.Progress, "announced", set())
    monkeypatch.delenv("RANK", raising=False)


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(cli.time, "monotonic", lambda: self.now)


def announcements(monkeypatch, capsys, seconds, beside=0.0, done=0):
    """What a bar says whose steps take `seconds`, of which `done` were done before."""
    clock = Clock(monkeypatch)
    bar = cli.progress_bar(seconds, total=done + len(seconds), initial=done, desc="rl1", unit="step")
    bar.beside = beside
    for step in bar:
        clock.now += step
    return capsys.readouterr().out.splitlines()


def test_a_long_stage_says_once_how_long_by_its_own_first_steps(monkeypatch, capsys):
    seconds = [45.0] + [12.0] * 109  # the first one starts up
    assert announcements(monkeypatch, capsys, seconds) == ["rl1: about 21 min 12 s more, by 3 of 110 that took 36 s"]
    assert announcements(monkeypatch, capsys, seconds) == []  # the same once more in this command, such as a round


def test_what_comes_beside_the_steps_and_what_was_done_before_count(monkeypatch, capsys):
    seconds = [12.0] * 60
    assert announcements(monkeypatch, capsys, seconds, beside=600.0, done=50) == [
        "rl1: about 21 min 12 s more, by 3 of 110 that took 36 s"
    ]


def test_quick_work_and_one_that_is_nearly_done_say_nothing(monkeypatch, capsys):
    assert announcements(monkeypatch, capsys, [0.001] * 20_000) == []
    assert announcements(monkeypatch, capsys, [10.0] * 6) == []


@pytest.mark.parametrize("per_second", [0.05, 3.0, 200.0])
def test_many_small_steps_are_judged_by_half_a_minute_of_them(monkeypatch, capsys, per_second):
    count = round(per_second * 10_000)
    (line,) = announcements(monkeypatch, capsys, [1 / per_second] * count)
    judged, total = (int(number.replace(",", "")) for number in re.findall(r"[\d,]+(?= of)|(?<=of )[\d,]+", line))
    assert total == count and judged / per_second >= 30 and judged <= max(4, 31 * per_second)


@given(st.integers(0, 10**7), st.integers(0, 10**7))
def test_durations_keep_their_order_and_are_right_within_their_smaller_unit(one, other):
    units = {"d": 86400, "h": 3600, "min": 60, "s": 1}

    def seconds(text):
        parts = [(int(number), unit) for number, unit in re.findall(r"(\d+) (\w+)", text)]
        assert parts and len(parts) <= 2 and " ".join(f"{number} {unit}" for number, unit in parts) == text
        return sum(number * units[unit] for number, unit in parts)

    low, high = sorted((one, other))
    assert seconds(cost.duration(low)) <= seconds(cost.duration(high))
    assert 0 <= one - seconds(cost.duration(one)) < max(1, one // 24)
    assert doctest.testmod(cost).failed == 0


def ended(monkeypatch, capsys, seconds, main=lambda: None, status=None):
    clock = Clock(monkeypatch)

    def work():
        clock.now += seconds
        main()

    monkeypatch.setattr(sys, "argv", ["/some/where/grpo.py"])
    if status is None:
        cli.run_stage(work)
    else:
        with pytest.raises(SystemExit) as caught:
            cli.run_stage(work)
        assert caught.value.code == status
    return capsys.readouterr().out


def test_a_long_command_tells_at_its_end_what_it_took(monkeypatch, capsys):
    def work():
        cost.count("tokens sampled", 1_500_000)
        cost.count("tokens sampled", 260_000)

    told = ended(monkeypatch, capsys, 842.0, work)
    line = r"grpo.py took 14 min 2 s, 1,760,000 tokens sampled, (\d+\.\d) GB of memory at its peak\n"
    assert 0 < float(re.fullmatch(line, told)[1]) < 100


def test_a_long_command_that_fails_tells_too(monkeypatch, capsys):
    def work():
        raise cli.UserError("the teacher's cap is reached")

    assert "grpo.py took 2 h" in ended(monkeypatch, capsys, 7200.0, work, status=1)


def test_a_short_command_and_all_processes_but_the_first_tell_nothing(monkeypatch, capsys):
    assert ended(monkeypatch, capsys, 59.0) == ""
    monkeypatch.setenv("RANK", "1")
    assert ended(monkeypatch, capsys, 7200.0) == ""
    monkeypatch.setenv("RANK", "0")
    assert ended(monkeypatch, capsys, 7200.0)


def test_training_counts_the_tokens_of_its_metrics(cold_started, questions, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(cold_started / "sft", run / "sft")
    write_jsonl(run / "train.jsonl", [question.to_json() for question in questions])
    flags = "--stage 1 --steps 3 --questions 6 --group-size 4 --max-new-tokens 16 --cache-gb 0.1".split()
    call_main(grpo, "--run", run, *flags)
    rows = metrics_of(run, "rl1")
    sums = {name: sum(row.get(name, 0) for row in rows) for name in ("sampled_tokens", "trained_tokens")}
    assert cost.COUNTED == {"tokens sampled": sums["sampled_tokens"], "tokens trained on": sums["trained_tokens"]}
