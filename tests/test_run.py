"""Records are valid or say why not; files survive a crash; metrics have each step once."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from question import LETTERS, Question, load_questions
from tools.cli import UserError, at_least, progress_bar, run_stage, stage_parser
from tools.run import MADE_BY, Metrics, RunDir, append_jsonl, read_jsonl, write_jsonl, write_text

ROW = {
    "id": "a/1",
    "source": "a",
    "language": "en",
    "question": "Which?",
    "options": {"A": "one", "B": "two"},
    "answer": "B",
}
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
rows_of_json = st.lists(st.dictionaries(st.text(), values, max_size=3), max_size=5)


# -------------------------------------------------------------------------------------------------- the question record


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"question": "  "}, "empty question"),
        ({"question": None}, "empty question"),
        ({"options": {"A": "one"}}, "not 2 to 26 options"),
        ({"options": {letter: "x" for letter in [*LETTERS, "AA"]}}, "not 2 to 26 options"),
        ({"options": ["one", "two"]}, "not 2 to 26 options"),
        ({"options": {"A": "one", "C": "three"}, "answer": "A"}, "option letters are not A, B, C, ..."),
        ({"options": {"B": "two", "A": "one"}}, "option letters are not A, B, C, ..."),
        ({"options": {"A": "one", "B": " "}}, "empty option"),
        ({"options": {"A": "one", "B": 2}}, "empty option"),
        ({"answer": "C"}, "answer not among the options"),
        ({"answer": "AB"}, "answer not among the options"),
        ({"answer": ["A"]}, "answer not among the options"),
        ({"answer": None}, "answer not among the options"),
        ({"tier": "hard"}, "unknown tier"),
    ],
)
def test_an_invalid_question_says_why(change, reason):
    with pytest.raises(ValueError) as caught:
        Question.from_json(ROW | change)
    assert reason in str(caught.value) and "a/1" in str(caught.value)


@pytest.mark.parametrize("name", ["id", "source", "language", "question", "options", "answer"])
def test_a_missing_field_is_named(name):
    with pytest.raises(ValueError, match=f"missing field {name}"):
        Question.from_json({key: value for key, value in ROW.items() if key != name})


@given(
    options=st.lists(st.text(min_size=1).filter(str.strip), min_size=2, max_size=26),
    answer=st.integers(0, 25),
    tier=st.sampled_from([None, "easy", "moderate", "difficult"]),
    evidence=st.lists(st.lists(st.text() | st.integers(), max_size=3).filter(bool), max_size=2),
)
def test_a_record_survives_the_way_through_json(options, answer, tier, evidence):
    question = Question(
        "a/1", "a", "zh", "Which?", dict(zip(LETTERS, options)), LETTERS[answer % len(options)], tier, "kind", evidence
    )
    assert Question.from_json(json.loads(json.dumps(question.to_json()))) == question


def test_unset_fields_are_left_out_and_unknown_ones_ignored():
    assert Question.from_json(ROW | {"comment": "x"}).to_json() == ROW


def test_load_questions_names_the_record_and_the_remedy(tmp_path):
    path = tmp_path / "train.jsonl"
    write_jsonl(path, [ROW, ROW | {"answer": "Z"}])
    with pytest.raises(UserError, match=r"train.jsonl, record 2: .*answer not among"):
        load_questions(path, "python curate.py")
    write_jsonl(path, [])
    with pytest.raises(UserError, match="no valid question; make it again with: python curate.py"):
        load_questions(path, "python curate.py")


# --------------------------------------------------------------------------------------------------------- crash safety


@settings(max_examples=60)
@given(before=rows_of_json, cut=rows_of_json.filter(bool), after=rows_of_json, data=st.data())
def test_a_line_cut_anywhere_costs_that_line_only(tmp_path_factory, before, cut, after, data):
    """Cut the last line at any byte, also inside a character: it is dropped on reading, cut off by the next append."""
    path = tmp_path_factory.mktemp("cut") / "x.jsonl"
    append_jsonl(path, before)
    size = path.stat().st_size if before else 0
    append_jsonl(path, cut[:1])
    os.truncate(path, data.draw(st.integers(size, path.stat().st_size - 1)))
    assert list(read_jsonl(path)) == before
    append_jsonl(path, after)
    assert list(read_jsonl(path)) == before + after


def test_a_long_half_line_is_cut_off(tmp_path):
    """The walk back to the last newline crosses several of its blocks."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": "' + b"x" * 200_000)
    append_jsonl(path, [{"c": 3}])
    assert path.read_bytes() == b'{"a": 1}\n{"c": 3}\n'
    path.write_bytes(b"y" * 200_000)  # no newline at all
    append_jsonl(path, [{"c": 3}])
    assert path.read_bytes() == b'{"c": 3}\n'


def test_broken_text_is_kept(tmp_path):
    """Half a surrogate pair, which web pages and language models do produce, comes back as it was."""
    rows = [{"text": "\ud83d half", "é\u2028": "\x00"}]
    append_jsonl(tmp_path / "a.jsonl", rows)
    write_jsonl(tmp_path / "b.jsonl", rows)
    assert list(read_jsonl(tmp_path / "a.jsonl")) == list(read_jsonl(tmp_path / "b.jsonl")) == rows


@pytest.mark.parametrize("line", [b'{"b": 2', b"\xff", b"nonsense", b"[1]", b"3"])
def test_a_bad_line_inside_a_file_is_named(tmp_path, line):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"c": 3}\n')
    rows = read_jsonl(path)
    assert next(rows) == {"a": 1}
    with pytest.raises(UserError, match=r"x.jsonl, line 2: not"):
        next(rows)


def test_empty_lines_and_windows_line_ends_are_read(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\r\n\n  \n{"b": 2}\n')
    assert list(read_jsonl(path)) == [{"a": 1}, {"b": 2}]


def test_a_missing_file_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(UserError, match="x.jsonl does not exist; make it with: python make.py"):
        list(read_jsonl(tmp_path / "x.jsonl", "python make.py"))


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    """A crash before the new text is on disk and renamed leaves the old text."""
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def crash(*_):
        raise OSError("power cut")

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, crash)
            with pytest.raises(OSError, match="power cut"):
                write_text(path, "new")
        assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new" and [item.name for item in tmp_path.iterdir()] == ["x.txt"]


# ---------------------------------------------------------------------------------------- the run directory and metrics


def test_a_missing_run_or_input_names_its_command(tmp_path):
    Metrics(RunDir(tmp_path / "there", create=True), "synth").log(1)
    known = "start it with: python kg_build.py --run .*nowhere; or take another by --run: .*there"
    with pytest.raises(UserError, match=f"nowhere does not exist; {known}$"):
        RunDir(tmp_path / "nowhere")
    run = RunDir(tmp_path / "new", create=True)
    for name, command in MADE_BY.items():
        with pytest.raises(UserError) as caught:
            run.input(name)
        assert f"make it with: {command} --run {run.path}" in str(caught.value)
        run.output(name).touch()
        assert run.input(name) == run.path / name


def test_a_finished_output_is_left_alone(tmp_path, capsys):
    run = RunDir(tmp_path)
    assert not run.finished("sft") and capsys.readouterr().out == ""
    run.output("sft").mkdir()
    assert run.finished("sft") and "nothing to do" in capsys.readouterr().out


def test_a_finished_output_names_the_other_command_that_made_it(tmp_path, capsys, monkeypatch):
    run = RunDir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sft.py", "--lr", "1"])
    run.claim("sft")
    run.output("sft").mkdir()
    assert run.finished("sft") and "another" not in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["sft.py", "--lr", "2"])
    assert run.finished("sft") and "made by another command (sft.py --lr 1): nothing" in capsys.readouterr().out


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


def test_a_programming_error_is_not_hidden():
    def main():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_stage(main)


@given(logged=st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 9)), max_size=12), step=st.integers(0, 9))
@settings(max_examples=30)
def test_rewind_drops_this_stage_beyond_the_step_only(tmp_path_factory, logged, step):
    run = RunDir(tmp_path_factory.mktemp("metrics"))
    metrics = {name: Metrics(run, name) for name in "ab"}
    for stage, number in logged:
        metrics[stage].log(number, value=1 / 3)
    with open(run.output("metrics.jsonl"), "a") as file:
        file.write('{"stage": "a", "st')  # and a crash
    metrics["a"].rewind(step)
    metrics["a"].log(step + 1)
    expected = [item for item in logged if item[0] == "b" or item[1] <= step] + [("a", step + 1)]
    rows = list(read_jsonl(run.output("metrics.jsonl")))
    assert [(row["stage"], row["step"]) for row in rows] == expected
    assert all(row.get("value", 0.333333) == 0.333333 and row["time"] > 1e9 for row in rows)


@pytest.mark.parametrize(
    ("logged", "step", "told"),
    [
        (0, 0, ""),
        (4, 4, "sft: going on from the checkpoint at step 4\n"),
        (7, 4, "sft: going on from the checkpoint at step 4; 3 later steps of the run before are done again\n"),
        (7, 0, "sft: there is no checkpoint, beginning at step 0; 7 later steps of the run before are done again\n"),
    ],
)
def test_a_stage_says_what_it_goes_on_from(tmp_path, capsys, logged, step, told):
    metrics = Metrics(RunDir(tmp_path), "sft")
    for done in range(logged):
        metrics.log(done + 1)
    metrics.resume(step)
    assert capsys.readouterr().out == told
    assert sum(1 for _ in read_jsonl(metrics.path)) == step if logged else not metrics.path.exists()


def test_one_process_at_a_time_makes_an_output(tmp_path, monkeypatch):
    """The claim names its holder, is per output, is the first rank's alone, and ends with `kill -9`."""
    code = f"import time; from tools.run import RunDir; RunDir({str(tmp_path)!r}).claim('rl1'); print(flush=True)"
    holder = subprocess.Popen(
        [sys.executable, "-c", code + "; time.sleep(600)", "--stage", "1"],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
    )
    holder.stdout.readline()
    try:
        with pytest.raises(UserError, match=f"rl1 is being made by another process .PID {holder.pid} on .*--stage 1"):
            RunDir(tmp_path).claim("rl1")
        RunDir(tmp_path).claim("rl2")
        monkeypatch.setenv("RANK", "1")
        RunDir(tmp_path).claim("rl1")
        monkeypatch.delenv("RANK")
    finally:
        holder.kill()
        holder.communicate()
    RunDir(tmp_path).claim("rl1")
    assert (tmp_path / ".locks" / "rl1").read_text().startswith(f"PID {os.getpid()} on ")


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


def test_a_reader_that_has_seen_enough_ends_a_stage_quietly():
    code = "from tools.cli import run_stage; run_stage(lambda: [print('line', number) for number in range(20000)])"
    stage = subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert stage.stdout.readline() == b"line 0\n"
    stage.stdout.close()
    assert stage.stderr.read() == b"" and stage.wait() == 128 + signal.SIGPIPE
