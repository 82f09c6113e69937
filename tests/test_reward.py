"""The contract holds exactly, answers are explicit or absent, and no text makes the parser slow."""

import time

import pytest
from conftest import PROJECT
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

import reward as contract
from question import LETTERS
from reward import format_response, parse, prompt_messages, prompt_tokens, question_text, reward
from tools.cli import UserError

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
GOOD = "<think>because</think><answer>B</answer>"
prose = st.text().filter(lambda text: not any(tag in text for tag in TAGS))
# The contract with a little of everything slipped into its gaps: every kind of near miss, and often a hit.
gap = st.sampled_from(["", "", "", " ", "\n", "A", "x", *TAGS])
pieces = st.tuples(gap, *(st.sampled_from([tag, tag, tag, ""]) for tag in TAGS), gap, gap, gap, gap).map(
    lambda p: "".join([p[0], p[1], p[5], p[2], p[6], p[3], p[7] or "B", p[4], p[8]])
)


@given(prose, st.sampled_from(LETTERS))
def test_format_and_parse_are_inverse(thinking, letter):
    response = parse(format_response(thinking, letter))
    assert (response.thinking, response.answer, response.well_formed) == (thinking.strip(), letter, True)


@pytest.mark.parametrize(
    "text, answer, well_formed",
    [
        (GOOD, "B", True),
        ("  <think>\nbecause\n</think>\n\n<answer> B </answer>\n", "B", True),
        ("<think></think><answer>B</answer>", "B", True),
        (GOOD + ".", "B", False),  # something after
        ("Well: " + GOOD, "B", False),  # something before
        ("<think>because</think> so <answer>B</answer>", "B", False),  # something between
        ("because</think><answer>B</answer>", "B", False),
        ("<think>because<answer>B</answer>", "B", False),
        ("<answer>B</answer>", "B", False),
        ("<answer>B</answer><think>because</think>", "B", False),  # the order
        ("<think>because <answer>B</answer></think>", "B", False),
        ("<think><think>because</think><answer>B</answer>", "B", False),  # a tag twice
        ("<think>a</think></think><answer>B</answer>", "B", False),
        ("<think>maybe <answer>A</answer></think><answer>B</answer>", "B", False),  # the last answer counts
        (GOOD + "<answer>C</answer>", "C", False),
        (GOOD + "<answer>C", "B", False),  # the last *explicit* one
        (GOOD + "<answer></answer>", None, False),
        ("<think>because</think><answer>b</answer>", None, False),
        ("<think>because</think><answer>B.</answer>", None, False),
        ("<think>because</think><answer>B, C</answer>", None, False),
        ("<think>because</think><answer>Б</answer>", None, False),  # not ASCII
        ("<think>because</think><answer>Ａ</answer>", None, False),
        ("<think>because</think><ANSWER>B</ANSWER>", None, False),
        ("<think>because</think>The answer is B", None, False),  # no fuzzy fallback
        ("</answer>B<answer>", None, False),
        ("B", None, False),
        ("", None, False),
    ],
)
def test_the_contract(text, answer, well_formed):
    response = parse(text)
    assert (response.answer, response.well_formed) == (answer, well_formed)


@given(pieces)
def test_well_formed_is_the_contract_and_nothing_else(text):
    """`well_formed` against a definition by splitting the text at its tags."""
    response = parse(text)
    before, _, rest = text.partition("<think>")
    thinking, _, rest = rest.partition("</think>")
    between, _, rest = rest.partition("<answer>")
    inside, _, after = rest.partition("</answer>")
    once = all(text.count(tag) == 1 for tag in TAGS)
    letter = inside.strip() in tuple(LETTERS)
    assert response.well_formed == (once and letter and not before.strip() + between.strip() + after.strip())
    if response.well_formed:
        assert (response.thinking, response.answer) == (thinking.strip(), inside.strip())


@given(pieces, st.sampled_from("AB"))
def test_the_reward_has_two_criteria(text, truth):
    response, value = parse(text), reward(text, truth)
    assert value.correct == (response.answer == truth) and value.well_formed == response.well_formed
    assert value.total == pytest.approx(1.0 * value.correct + 0.1 * value.well_formed)


def test_right_always_beats_well_formed():
    assert reward("<answer>B</answer>", "B").total > reward(GOOD, "C").total > reward("", "C").total == 0
    assert reward(GOOD, "B").total == 1.1


@pytest.mark.parametrize(
    "unit", [*TAGS, "<think></think>", "<answer>A</answer>", "<", " ", "<answer>", "x", "</answer><answer>"]
)
def test_a_megabyte_of_hostile_text_is_parsed_at_once(unit):
    text = unit * (1_000_000 // len(unit))
    began = time.process_time()
    for hostile in (
        text,
        "<think>" + text,
        text + "<answer>A</answer>",
        "<think>" + text + "</think><answer>A</answer>",
    ):
        parse(hostile)
    assert time.process_time() - began < 1.0


# ----------------------------------------------------------------------------------------------------------- the prompt


def test_the_prompt_shows_every_option(questions):
    text = question_text(questions[0])
    assert text.splitlines()[1:] == [f"{letter}. {option}" for letter, option in questions[0].options.items()]
    system, user = prompt_messages(questions[0])
    assert system == {"role": "system", "content": contract.INSTRUCTION} and user["content"] == text
    assert all(tag in contract.INSTRUCTION for tag in TAGS)


def test_prompt_tokens_end_where_the_assistant_begins(tiny, questions):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    text = tokenizer.decode(prompt_tokens(tokenizer, prompt_messages(questions[0])))
    assert text.startswith("<|im_start|>system\n") and text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    base = AutoTokenizer.from_pretrained(PROJECT / "data" / "base")
    assert contract.response_opening(tokenizer) == contract.response_opening(base) == ""


def test_prompt_tokens_of_the_real_qwen_tokenizer(shared_data, questions):
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "tokenizer" / "qwen2.5")
    tokens = prompt_tokens(tokenizer, prompt_messages(questions[0]))
    assert tokens == tokenizer.apply_chat_template(
        prompt_messages(questions[0]), tokenize=True, add_generation_prompt=True, return_dict=False
    )
    assert tokenizer.decode(tokens[-3:]) == "<|im_start|>assistant\n"
    assert parse(tokenizer.decode(tokenizer(GOOD)["input_ids"])) == parse(GOOD)  # the tags survive tokenisation


# What Qwen3's chat template writes for a chat without tools: no default system turn, the last reply's reasoning set on
# lines of its own, and an empty one behind the generation prompt where the thinking mode is off.
QWEN3_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' and loop.last %}"
    "{% set parts = message.content.split('</think>') %}"
    "{% set thinking = parts[0].split('<think>')[-1] if parts | length > 1 else '' %}"
    "<think>\n{{ thinking.strip('\\n') }}\n</think>\n\n{{ parts[-1].lstrip('\\n') }}"
    "{% else %}{{ message.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


@pytest.mark.parametrize("family", ["qwen2.5", "qwen3"])
@pytest.mark.parametrize("prompt", contract.PROMPTS)
def test_the_contract_holds_in_both_templates(shared_data, questions, family, prompt):
    """Every prompt asks the question; a reply that keeps the contract still does behind the template and the tokens."""
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "tokenizer" / "qwen2.5")
    if family == "qwen3":
        tokenizer.chat_template = QWEN3_TEMPLATE
        tokenizer.add_tokens(["<think>", "</think>"])  # as in Qwen3's vocabulary
    chat = prompt_messages(questions[0], prompt)
    start = tokenizer.decode(prompt_tokens(tokenizer, chat))
    assert start.endswith("<|im_end|>\n<|im_start|>assistant\n") and question_text(questions[0]) in start
    assert all(text in start for text in contract.PROMPTS[prompt])
    assert contract.response_opening(tokenizer) == ""
    whole = tokenizer.apply_chat_template([*chat, {"role": "assistant", "content": GOOD}], tokenize=False)
    reply = tokenizer.decode(tokenizer(whole.removeprefix(start))["input_ids"]).removesuffix("<|im_end|>\n")
    assert whole.startswith(start) and parse(reply) == parse(GOOD)


def test_the_contract_holds_without_qwen3s_thinking_mode(shared_data, questions):
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "tokenizer" / "qwen2.5")
    tokenizer.chat_template = QWEN3_TEMPLATE
    opening = contract.response_opening(tokenizer, enable_thinking=False)
    tokens = prompt_tokens(tokenizer, prompt_messages(questions[0]), enable_thinking=False)
    assert opening == "<think>\n\n</think>\n\n" and tokenizer.decode(tokens).endswith("assistant\n" + opening)
    response = parse(opening + "<answer>B</answer>")
    assert (response.thinking, response.answer, response.well_formed) == ("", "B", True)


def test_a_template_that_cannot_ask_is_refused(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    messages = [{"role": "user", "content": "x"}]
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    with pytest.raises(UserError, match="ignores add_generation_prompt"):
        prompt_tokens(tokenizer, messages)
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        prompt_tokens(tokenizer, messages)
