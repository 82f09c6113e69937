"""The museum of docs/failures.md, small: what is broken there on purpose says so while it runs."""

import shutil

import pytest
from conftest import call_main, metrics_of

import grpo
from reward import Reward
from tools.run import write_jsonl

SMALL = "--stage 1 --steps 9 --questions 6 --group-size 4 --max-new-tokens 32 --lr 1e-4 --cache-gb 0.1".split()


def no_reasoning(model, _):
    """A chat template that writes an empty reasoning of its own."""
    template = model / "chat_template.jinja"
    text = template.read_text()
    assert text.endswith("assistant\n{% endif %}")
    template.unlink()  # a link would be shared with the baseline
    template.write_text(text.removesuffix("{% endif %}") + "<think></think>{% endif %}")


def nearly_equal(_, patch):
    """Rewards that differ a little within every group, by what does not matter."""
    patch.setattr(
        grpo, "rewarded", lambda setup, question, text: Reward(1 + sum(text.encode()) % 50 / 1000, True, True)
    )


def no_baseline(_, patch):
    patch.setattr(grpo, "advantages_of", lambda rewards, with_std: rewards.clone())


@pytest.mark.parametrize(
    ("flags", "change", "told"),
    [
        ([], None, set()),
        (["--max-new-tokens", "6"], None, {"truncated", "no gradient"}),
        (["--lr", "3e-2"], None, {"no format"}),
        ([], no_reasoning, {"no format"}),
        (["--group-size", "2", "--temperature", "0.4"], None, {"small groups"}),  # sure of itself, as a trained one is
        (["--with-std"], None, set()),
        (["--with-std"], nearly_equal, {"differences of nothing"}),
        ([], nearly_equal, set()),
        ([], no_baseline, {"no baseline"}),
    ],
    ids="healthy cut lr template group2 std std-of-nearly-equal nearly-equal no-baseline".split(),
)
def test_what_is_broken_says_so(tmp_path, cold_started, questions, capsys, monkeypatch, flags, change, told):
    shutil.copytree(cold_started / "sft", tmp_path / "sft")
    write_jsonl(tmp_path / "train.jsonl", [question.to_json() for question in questions])
    if change:
        change(tmp_path / "sft", monkeypatch)
    call_main(grpo, "--run", tmp_path, *SMALL, *flags)
    lines = [line for row in metrics_of(tmp_path, "rl1") for line in row.get("warnings", ())]
    names = {line.partition(":")[0] for line in lines}
    assert told <= names and (told or not names)
    printed = capsys.readouterr().out
    assert all(line in printed for line in lines)
