"""The museum of docs/failures.md, small: what is broken there on purpose says so while it runs."""

import shutil

import pytest
from conftest import call_main, metrics_of

import grpo
from tools.run import write_jsonl

SMALL = "--stage 1 --steps 9 --questions 6 --group-size 4 --max-new-tokens 32 --lr 1e-4 --cache-gb 0.1".split()


def no_reasoning(model):
    """A chat template that writes an empty reasoning of its own."""
    template = model / "chat_template.jinja"
    text = template.read_text()
    assert text.endswith("assistant\n{% endif %}")
    template.unlink()  # a link would be shared with the baseline
    template.write_text(text.removesuffix("{% endif %}") + "<think></think>{% endif %}")


@pytest.mark.parametrize(
    ("flags", "change", "told"),
    [
        ([], None, set()),
        (["--max-new-tokens", "6"], None, {"truncated", "no gradient"}),
        (["--lr", "3e-2"], None, {"no format"}),
        ([], no_reasoning, {"no format"}),
    ],
    ids=["healthy", "responses cut", "learning rate", "template"],
)
def test_what_is_broken_says_so(tmp_path, cold_started, questions, capsys, flags, change, told):
    shutil.copytree(cold_started / "sft", tmp_path / "sft")
    write_jsonl(tmp_path / "train.jsonl", [question.to_json() for question in questions])
    if change:
        change(tmp_path / "sft")
    call_main(grpo, "--run", tmp_path, *SMALL, *flags)
    lines = [line for row in metrics_of(tmp_path, "rl1") for line in row.get("warnings", ())]
    names = {line.partition(":")[0] for line in lines}
    assert told <= names and (told or not names)
    printed = capsys.readouterr().out
    assert all(line in printed for line in lines)
