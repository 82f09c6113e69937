"""The cold start trains the assistant's tokens and nothing else, and a killed run goes on as if it had not been."""

import json
import math

import pytest
import torch
from conftest import call_main, killed_after, metrics_of, python, weights
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

import sft
from policy import Policy, load_policy
from reward import prompt_tokens
from sft import batches_of_epoch, chat_example, cosine_rate, load_examples, text_examples
from tools.cli import UserError
from tools.run import write_jsonl

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Yes, one."},
    {"role": "user", "content": "Two?"},
    {"role": "assistant", "content": "<think>1 + 1</think><answer>B</answer>"},
]


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return AutoTokenizer.from_pretrained(tiny)


def test_chats_that_the_template_writes_otherwise_are_other_data(tmp_path, tiny, chats, monkeypatch):
    """Some templates write the date: the files are the same, what is trained on is not."""
    write_jsonl(tmp_path / "cot.jsonl", chats)
    arguments = ["--run", tmp_path, "--model", tiny, *"--steps 2 --batch-size 2 --save-every 1 --samples 0".split()]

    def crash(*_):
        raise OSError("power cut")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="power cut"):
        patch.setattr(sft.TrainingLoop, "finish", crash)
        call_main(sft, *arguments)
    with monkeypatch.context() as patch, pytest.raises(UserError, match="from another rendering of the chats.*delete"):
        patch.setattr(AutoTokenizer, "from_pretrained", dated(AutoTokenizer.from_pretrained))
        call_main(sft, *arguments)
    call_main(sft, *arguments)


def dated(from_pretrained):
    """Tokenizers whose template writes the date, as far as a test can tell: something that no file of theirs holds."""

    def load(folder):
        tokenizer = from_pretrained(folder)
        tokenizer.chat_template = "Tuesday\n" + tokenizer.chat_template
        return tokenizer

    return load


# ------------------------------------------------------------------------------------------------------------- the data


@pytest.mark.parametrize("name", ["tiny", "qwen2.5"])
def test_exactly_the_assistants_turn_and_its_stop_token_are_scored(name, request):
    if name == "tiny":
        tokenizer = request.getfixturevalue("tokenizer")
    else:
        tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue("shared_data") / "tokenizer" / name)
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for chat in (CHAT, CHAT[1:3], CHAT[:1] + CHAT[3:]):
        example = chat_example(chat, tokenizer, [stop])
        prompt = prompt_tokens(tokenizer, chat[:-1])
        assert example.tokens[: len(prompt)] == prompt  # what the model sees when it generates
        assert example.scored == [False] * len(prompt) + [True] * (len(example.tokens) - len(prompt))
        assert tokenizer.decode(example.tokens[len(prompt) :]) == chat[-1]["content"] + "<|im_end|>"
        assert example.tokens[-1] == stop


def test_templates_that_cannot_be_trained_on_are_refused(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    with pytest.raises(UserError, match=r"none of the stop tokens \[0\]"):
        chat_example(CHAT, tokenizer, [0])
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}now you: {% endif %}"
    )
    with pytest.raises(UserError, match="does not continue its own generation prompt"):
        chat_example(CHAT, tokenizer, [tokenizer.eos_token_id])


@given(text=st.text(), length=st.integers(2, 12))
def test_text_is_trained_on_whole_and_ends(tokenizer, text, length):
    examples = text_examples(text, tokenizer, length)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    if len(ids) % length == 1:  # a last piece of one token has nothing to predict it from
        ids.pop()
    assert [token for example in examples for token in example.tokens] == ids
    for example in examples:
        assert 2 <= len(example.tokens) <= length
        assert example.scored == [False] + [True] * (len(example.tokens) - 1)


@given(st.integers(1, 120), st.integers(1, 9), st.integers(0, 3))
def test_an_epoch_takes_every_sequence_once(count, size, epoch):
    batches = batches_of_epoch(count, size, 0, epoch)
    assert sorted(index for batch in batches for index in batch) == list(range(count))
    assert len(batches) == math.ceil(count / size) and max(map(len, batches)) <= size
    assert batches == batches_of_epoch(count, size, 0, epoch)
    if count > 20:
        assert batches != batches_of_epoch(count, size, 0, epoch + 1) != batches_of_epoch(count, size, 1, epoch + 1)


def test_long_chats_are_left_out_and_counted(tmp_path, tokenizer, chats, capsys):
    path = tmp_path / "x.jsonl"
    long = {"messages": [*CHAT[:1], {"role": "user", "content": "x" * 500}, CHAT[-1]]}
    write_jsonl(path, [chats[0], long, {"text": "Gout is painful."}])
    examples = load_examples(path, "make", tokenizer, [tokenizer.eos_token_id], 200)
    assert len(examples) == 2 and "1 chats of more than 200 tokens are left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    "rows, message",
    [
        ([], "holds nothing to train on; make it again with: make"),
        ([{"messages": CHAT}] * 2, "holds nothing to train on"),  # all longer than --max-length
        ([{"text": "Gout"}, {"texts": "Gout"}], 'row 2: neither "messages" nor "text"'),
        ([{"text": 7}], 'row 1: "text" is not a string'),
        ([{"messages": "Gout"}], 'row 1: "messages" is not a list'),
        ([{"messages": CHAT[:1]}], 'row 1: "messages" is not a list of two messages or more'),
        ([{"messages": ["Gout", "Gout"]}], "row 1: a message is not {"),
        ([{"messages": [{"role": "user"}, CHAT[-1]]}], "row 1: a message is not {"),
        ([{"messages": CHAT[:4]}], "row 1: the last message is not the assistant's"),
    ],
)
def test_bad_data_is_refused(tmp_path, tokenizer, rows, message):
    path = tmp_path / "x.jsonl"
    write_jsonl(path, rows)
    with pytest.raises(UserError, match=message):
        load_examples(path, "make", tokenizer, [tokenizer.eos_token_id], 20)


# --------------------------------------------------------------------------------------------------------- the training


@given(st.integers(2, 500), st.floats(0, 0.5))
def test_the_learning_rate_rises_to_its_peak_and_falls_to_a_tenth(steps, warmup):
    rates = [cosine_rate(step, steps, 2.0, warmup) for step in range(steps)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(2.0) and min(rates) > 0
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert cosine_rate(steps, steps, 2.0, warmup) == pytest.approx(0.2)


def test_the_loss_is_the_mean_over_the_batchs_trained_tokens(tiny, tokenizer, chats):
    """Not a mean of means: sequences of different lengths, in micro-batches of any size."""
    model, _ = load_policy(tiny)
    batch = [chat_example(row["messages"], tokenizer, [tokenizer.eos_token_id]) for row in chats[:3]]
    batch += text_examples("Gout is painful. " * 4, tokenizer, 100)
    total, count = 0.0, 0
    for example in batch:
        tokens = torch.tensor([example.tokens])
        labels = torch.where(torch.tensor([example.scored]), tokens, -100)
        count += sum(example.scored)
        total += model(tokens, labels=labels).loss.item() * sum(example.scored)
    cpu = torch.device("cpu")
    for budget, packed in ((1, False), (100, False), (10_000, False), (1, True), (10_000, True)):
        loss, tokens, suspects = sft.train_step(Policy(model), batch, budget, cpu, packed)
        assert tokens == count and loss == pytest.approx(total / count, rel=1e-5) and not suspects
        assert sft.validation_loss(Policy(model), batch, budget, cpu, packed) == pytest.approx(loss, rel=1e-5)


def test_answers_are_sampled_at_every_validation(tmp_path, tiny, chats, capsys):
    """Greedy answers to the first held-out prompts, one line each, whatever the model writes."""
    write_jsonl(tmp_path / "cot.jsonl", chats)
    flags = "--steps 2 --batch-size 4 --validation 0.15 --validate-every 1 --samples 2 --pack".split()
    call_main(sft, "--run", tmp_path, "--model", tiny, *flags)
    lines = [line for line in "".join(capsys.readouterr()).splitlines() if line.startswith("step ")]
    assert [line.split(": ")[0] for line in lines] == ["step 1"] * 2 + ["step 2"] * 2
    assert all(isinstance(json.loads(line.split(": ", 1)[1]), str) for line in lines)


def test_a_dataset_that_changed_is_not_resumed(tmp_path, tiny, chats, monkeypatch):
    write_jsonl(tmp_path / "cot.jsonl", chats)
    flags = ["--run", tmp_path, "--model", tiny, *"--steps 3 --batch-size 4 --validation 0".split()]
    with monkeypatch.context() as patch:
        patch.setattr(sft.fsdp_utils.Job, "stopping", lambda _: True)
        with pytest.raises(SystemExit):
            call_main(sft, *flags)
    write_jsonl(tmp_path / "cot.jsonl", chats[:-1])
    with pytest.raises(UserError, match="sft.state was made from another cot.jsonl; put that back, or delete"):
        call_main(sft, *flags)


def test_other_flags_do_not_go_on_from_a_checkpoint(tmp_path, tiny, chats):
    """Those that decide what is learned are refused by name; those of the machine are free."""
    write_jsonl(tmp_path / "cot.jsonl", chats)
    flags = ["--run", tmp_path, "--model", tiny, *"--steps 3 --batch-size 4 --validation 0 --save-every 1".split()]
    assert killed_after("sft", 2, *flags, "--seed", 1).returncode == -9
    with pytest.raises(UserError, match="sft.state was made with --seed 1, now it is 2; give --seed as before"):
        call_main(sft, *flags, "--seed", 2)
    call_main(sft, *flags, "--seed", 1, "--micro-tokens", 999, "--save-every", 2)
    assert [row["step"] for row in metrics_of(tmp_path, "sft")] == [1, 2, 3]


@pytest.mark.parametrize(
    "flag, value, message",
    [
        ("--validation", 1, "--validation: 1 must be 0 or more and below 1"),
        ("--batch-size", 0, "--batch-size: 0 must be at least 1"),
        ("--save-every", 0, "--save-every: 0 must be at least 1"),
        ("--max-length", 1, "--max-length: 1 must be at least 2"),
    ],
)
def test_impossible_flags_are_refused(tmp_path, flag, value, message):
    with pytest.raises(UserError, match=message):
        call_main(sft, "--run", tmp_path, flag, value)


def test_the_loss_falls(cold_started, tiny):
    rows = metrics_of(cold_started, "sft")
    assert [row["step"] for row in rows] == list(range(1, 41))
    assert rows[0]["loss"] == pytest.approx(math.log(load_policy(tiny)[0].config.vocab_size), rel=0.1)  # random weights
    assert rows[-1]["loss"] < 0.3 * rows[0]["loss"] and [row["step"] for row in rows if "val_loss" in row] == [20, 40]
    assert rows[-1]["val_loss"] < 0.3 * rows[0]["loss"]
    assert not (cold_started / "sft.state").exists()


def test_a_run_that_was_killed_goes_on_bit_for_bit(tmp_path, tiny, chats, capsys):
    """Checkpoints at 2, 4, 6; killed after step 5 was logged; over an epoch's end (21 chats, 3 of them held out)."""
    flags = "--steps 7 --batch-size 6 --lr 3e-3 --save-every 2 --validation 0.15 --validate-every 3".split()
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "cot.jsonl", chats)
    call_main(sft, "--run", tmp_path / "straight", "--model", tiny, *flags)

    killed = tmp_path / "killed"
    assert killed_after("sft", 5, "--run", killed, "--model", tiny, *flags).returncode == -9
    assert [row["step"] for row in metrics_of(killed, "sft")] == [1, 2, 3, 4, 5] and not (killed / "sft").exists()
    call_main(sft, "--run", killed, "--model", tiny, *flags)

    compare_runs(tmp_path / "straight", killed, "sft")
    capsys.readouterr()
    call_main(sft, "--run", killed, "--model", tiny, *flags)
    assert "nothing to do" in capsys.readouterr().out


def compare_runs(straight, resumed, stage, other=None):
    """`stage` of the resumed run against the same (or the `other`) of the straight one."""
    expected, found = weights(straight / (other or stage)), weights(resumed / stage)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    rows = [metrics_of(straight, other or stage), metrics_of(resumed, stage)]
    for one, other in zip(*rows, strict=True):
        measured = [
            {k: v for k, v in row.items() if k in ("step", "loss", "grad_norm", "val_loss")} for row in (one, other)
        ]
        assert measured[0] == measured[1]
    assert not (resumed / f"{stage}.state").exists()


# ----------------------------------------------------------------------------------------------------------- bad inputs


def test_bad_input_is_one_line_and_status_1(tmp_path):
    result = python("sft.py", "--run", tmp_path)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr == (
        f"sft.py: error: {tmp_path}/cot.jsonl does not exist; make it with: python distill.py --run {tmp_path}\n"
    )


def test_a_missing_model_or_run_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="run directory .* does not exist"):
        call_main(sft, "--run", tmp_path / "nowhere")
    write_jsonl(tmp_path / "cot.jsonl", [{"text": "x"}])
    with pytest.raises(UserError, match="model folder /no/model does not exist"):
        call_main(sft, "--run", tmp_path, "--model", "/no/model")


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, tiny, chats):
    write_jsonl(tmp_path / "cot.jsonl", chats)
    with pytest.raises(UserError, match=r"^step \d: the loss .* is not finite, with cot.jsonl row \d+, .* lower --lr"):
        call_main(sft, "--run", tmp_path, "--model", tiny, *"--steps 9 --lr 1e30 --warmup 0".split())
    assert not (tmp_path / "sft").exists()
