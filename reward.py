"""The response contract: how a question is put to the model, how its answer is read, what it is worth (section 3.3).

The model answers `<think> ... </think>` and then `<answer>X</answer>`, once each, with nothing after. The reward has
two criteria and deliberately no third (no length term, no style term: "to mitigate the risk of reward hacking"):

    r(x, y) = 1.0 * [the answer is correct] + 0.1 * [the format holds]

The paper does not state the two weights. A format weight that is small beside correctness keeps a well-formed wrong
answer below every right one, so the policy cannot live off the format.

Distillation, training and evaluation all read answers with `parse`: the last explicit `<answer>`, and no fuzzy
fallback. Model output is untrusted text: it is searched with plain string methods, in linear time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from question import Question
from tools.cli import UserError

INSTRUCTION = "Think inside <think> </think>, then give the letter of the one best option inside <answer> </answer>."
# Other ways to put the question, for models that were not trained on the contract (`evaluate.py --prompt`); answers are
# read the same way. Each is (the system's turn, what stands behind the question in the user's turn).
PROMPTS = {
    "contract": (INSTRUCTION, ""),
    "explicit": (
        "",
        "Reason step by step inside <think> and </think>. Then name the letter of the one best option between <answer> "
        "and </answer>. Your whole reply must have this form, with your letter in the place of X:\n"
        "<think>your reasoning</think><answer>X</answer>",
    ),
    "direct": (
        "",
        "Do not explain. Reply with the letter of the one best option between <answer> and </answer>, in this form, "
        "with your letter in the place of X:\n<answer>X</answer>",
    ),
    "letter": ("", "Reply with the letter of the one best option only."),
}
CORRECT_WEIGHT = 1.0
FORMAT_WEIGHT = 0.1


@dataclass(frozen=True, slots=True)
class Response:
    """A parsed response: the reasoning, the answer's letter (None without one), whether the format holds."""

    thinking: str
    answer: str | None
    well_formed: bool


@dataclass(frozen=True, slots=True)
class Reward:
    """The reward of one response, its two criteria, and the letter it was earned with (None without one)."""

    total: float
    correct: bool
    well_formed: bool
    answer: str | None = None


CUT = Reward(0.0, False, False)  # of a response that ran into the length limit, whatever it says


# ----------------------------------------------------------------------------------------------------------- the prompt


def question_text(question: Question) -> str:
    """The question and its lettered options, as the user's turn shows them."""
    return "\n".join([question.question, *(f"{letter}. {text}" for letter, text in question.options.items())])


def prompt_messages(question: Question, prompt: str = "contract") -> list[dict[str, str]]:
    """The chat that asks a question. The contract is the system's turn, the question the user's; see `PROMPTS`."""
    system, behind = PROMPTS[prompt]
    user = {"role": "user", "content": "\n\n".join(filter(None, [question_text(question), behind]))}
    return [{"role": "system", "content": system}, user] if system else [user]


def rendered(tokenizer: Any, messages: list[dict[str, str]], **options: Any) -> str:
    """A chat as the tokenizer's template writes it; `options` are the template's own.

    Where the template has no system role, the system's text opens the user's turn. Raises UserError if there is no
    template, or if it drops a part of the chat.
    """
    if not tokenizer.chat_template:
        raise UserError("the tokenizer has no chat template; use an instruct model's folder")
    problem = ""
    for chat in (messages, without_system(messages)):
        try:
            text = tokenizer.apply_chat_template(chat, tokenize=False, **options)
        except Exception as error:  # a template is a program of others: anything may come of it
            problem = str(error) or type(error).__name__
            continue
        if all(_squeezed(turn["content"]) in _squeezed(text) for turn in chat if turn["role"] != "assistant"):
            return text
        problem = problem or "a turn is missing in what it writes"
    raise UserError(f"the chat template cannot write this chat: {problem}")


def without_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """The same chat with the text of a system's turn at the head of the turn after it."""
    if len(messages) < 2 or messages[0]["role"] != "system":
        return messages
    system, first, *others = messages
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *others]


def _squeezed(text: str) -> str:
    """Without white space, which templates may strip or add."""
    return "".join(text.split())


def prompt_text(tokenizer: Any, messages: list[dict[str, str]], **switches: Any) -> str:
    """A chat up to the place where the assistant begins to write, by its template.

    A template that ignores the generation prompt shows in a whole chat what it writes before the assistant's words;
    Llama 2's writes nothing. Raises UserError if that place cannot be found.
    """
    text = rendered(tokenizer, messages, add_generation_prompt=True, **switches)
    if text != rendered(tokenizer, messages, add_generation_prompt=False, **switches):
        return text
    words = "It is so."
    whole = rendered(tokenizer, [*messages, {"role": "assistant", "content": words}], **switches)
    opening, found, _ = whole.removeprefix(text).partition(words)
    closing = text.rpartition(messages[-1]["content"].strip())[2]  # [/INST]: something must tell whose turn it is
    if not found or not whole.startswith(text) or not (opening + closing).strip():
        raise UserError("the chat template has no generation prompt: it ignores add_generation_prompt")
    return text + opening if opening.strip() else text


def prompt_tokens(tokenizer: Any, messages: list[dict[str, str]], **switches: Any) -> list[int]:
    """Token ids of a chat up to the place where the assistant begins to write.

    `switches` are the template's own, such as Qwen3's `enable_thinking`. Raises UserError as `prompt_text` does.
    """
    return tokenizer(prompt_text(tokenizer, messages, **switches), add_special_tokens=False)["input_ids"]


def response_opening(tokenizer: Any, **switches: Any) -> str:
    """What the chat template itself writes of a response, which therefore belongs to it: Qwen3 without its thinking
    mode writes "<think>\\n\\n</think>\\n\\n", some templates "<think>\\n", most nothing."""
    chat = [{"role": "user", "content": "Is it so?"}]  # some refuse an empty turn
    before, text = (rendered(tokenizer, chat, add_generation_prompt=prompt, **switches) for prompt in (False, True))
    added = text.removeprefix(before)
    return added[added.find("<think>") :] if "<think>" in added else ""


def keeps_turn(text: str, turn: str) -> bool:
    """Whether all of an assistant's text stands in its rendered turn; some templates cut the reasoning out."""
    return _squeezed(text) in _squeezed(turn)


# ------------------------------------------------------------------------------------------------ reading and rewarding


def parse(text: str) -> Response:
    """Read a response. `answer` is the text of the last explicit `<answer>...</answer>` if that is one capital letter.

    `well_formed` holds iff the text is exactly `<think>...</think><answer>X</answer>` up to white space around the two
    parts, each tag once.
    """
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    inside = text[start + len("<answer>") : end].strip() if start >= 0 else ""
    answer = inside if len(inside) == 1 and "A" <= inside <= "Z" else None

    think_end = text.find("</think>")
    well_formed = (
        answer is not None
        and all(text.count(tag) == 1 for tag in ("<think>", "</think>", "<answer>", "</answer>"))
        and text.lstrip().startswith("<think>")
        and text.rstrip().endswith("</answer>")
        and 0 <= think_end < start
        and not text[think_end + len("</think>") : start].strip()
    )
    opening = text.find("<think>")
    thinking = text[opening + len("<think>") : think_end].strip() if 0 <= opening < think_end else ""
    return Response(thinking, answer, well_formed)


def reward(text: str, answer: str) -> Reward:
    """r(x, y) of a response against the true letter: correctness and format, nothing else (section 3.3)."""
    response = parse(text)
    correct = response.answer == answer
    total = CORRECT_WEIGHT * correct + FORMAT_WEIGHT * response.well_formed
    return Reward(total, correct, response.well_formed, response.answer)


def format_response(thinking: str, answer: str) -> str:
    """A response that keeps the contract; `parse` of it gives both parts back."""
    return f"<think> {thinking.strip()} </think><answer>{answer}</answer>"
