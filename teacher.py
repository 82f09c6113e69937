"""The teacher: one small interface over any chat model, and one that needs no network (sections 3.1 and 3.2).

    Teacher.ask(requests) -> answers, one text per request, in order

The paper's teachers are GPT-OSS-120B (reasoning, 3.2) and "a state-of-the-art LLM (e.g., GPT-4)" (label verification,
3.1). Here a teacher is named on the command line, `--teacher NAME`:

    openai:MODEL    any OpenAI-compatible endpoint: hosted, vLLM, llama.cpp, ... (`OpenAITeacher`)
    local:FOLDER    a Hugging Face folder on this machine, sampled by rollout.py (`LocalTeacher`)
    evidence        the question's own path through the knowledge graph, put into words (`EvidenceTeacher`)

Deviation from the paper: `evidence` is no language model. It exists so that the whole method runs on a laptop without a
network. It cannot judge, grade or answer anything; a result made with it says nothing about distillation from an LLM.

The endpoint and its key come from the environment and are never written anywhere:

    export TEACHER_BASE_URL=http://localhost:8000/v1 TEACHER_API_KEY=...
    export TEACHER_PRICE=0.5/1.5     # optional: of a million tokens in and out; a stage then tells what it paid
    python distill.py --run runs/main --teacher openai:openai/gpt-oss-120b

Every answer of a language model is kept in the run's `teacher_cache.jsonl` under the hash of its request, so an
interrupted job pays for nothing twice and runs again to the same result. `--teacher-max-calls` and
`--teacher-max-tokens` cap what a run may spend in all: the cache remembers the tokens that each answer took.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import requests

import reward
from question import Question
from tools.cli import UserError, above, at_least, progress_bar
from tools.cost import PAID, count
from tools.run import RunDir, append_jsonl, is_there, read_jsonl
from tools.web import PASSING, Client, is_address, json_of, pause_after, post, retry_after

MOST_BYTES = 4 << 20  # of a reply: a million tokens
SECRET = 8  # letters of a key; a shorter one ("EMPTY") is a word that answers may hold
LOCAL_BATCH = 128  # answers that a local model writes at a time, between two looks at the caps


@dataclass(frozen=True, slots=True)
class Request:
    """One chat for the teacher to answer.

    `id` says what it is about and `purpose` what for ("reason", "verify"): both are for the records. `seed` makes
    independent trials of one chat different requests. `contract` asks for an answer in the response contract: reasoning
    that the model's template opens, or that the server returns separately, is then part of it. `question` is what the
    evidence teacher puts into words; a language model sees only `messages`.
    """

    messages: list[dict[str, str]]
    id: str
    purpose: str
    temperature: float = 0.7
    max_tokens: int = 1024
    seed: int = 0
    contract: bool = False
    question: Question | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a language model wrote. `tokens` are those of the prompt and of all it wrote, `written` those of the text.

    `truncated` says whether it was cut at the limit. The last two are None where a server does not tell.
    """

    text: str
    tokens: int
    written: int | None = None
    truncated: bool | None = None


class Teacher(ABC):
    """Anything that answers chats. `calls` and `tokens` (of prompts and answers) count what this process asked of the
    model itself, not of a cache; a call that failed counts too."""

    is_language_model = True
    calls = 0
    tokens = 0

    @abstractmethod
    def ask(self, requests: Sequence[Request]) -> list[str]:
        """The answer of each request, in order; "" where it wrote nothing. Raises UserError if it cannot be asked."""

    def answers(self, requests: Sequence[Request]) -> list[Answer]:
        """`ask` with what is known about each answer."""
        return [Answer(text, 0) for text in self.ask(requests)]

    def answer_in_full(self, requests: Sequence[Request], most: int) -> list[Answer]:
        """The answers, where those cut at their request's limit were asked for again with `most` tokens.

        An answer that is cut there too has `truncated`: long thinking, of which nothing is to be concluded.
        """
        answers = self.answers(requests)
        cut = [i for i, answer in enumerate(answers) if answer.truncated and requests[i].max_tokens < most]
        again = self.answers([replace(requests[i], max_tokens=most) for i in cut]) if cut else []
        for i, answer in zip(cut, again):
            answers[i] = answer
        return answers

    def can_reason_about(self, question: Question) -> bool:
        """Whether this teacher is able to write reasoning for the question."""
        return True

    def cost(self) -> str:
        """What was spent so far, for a progress bar."""
        return f"{self.calls:,} calls, {self.tokens:,} tokens"


# ------------------------------------------------------------------------------------- the wording of the graph's facts

FACT_SENTENCES = {
    "symptom": "{object} is a symptom of {subject}.",
    "cause": "{subject} is caused by {object}.",
    "risk_factor": "{object} is a risk factor for {subject}.",
    "complication": "{subject} can lead to {object}.",
    "differential": "{subject} can be mistaken for {object}.",
    "diagnosed_by": "{subject} is diagnosed with {object}.",
    "treated_by": "{subject} is treated with {object}.",
    "prevented_by": "{subject} is prevented with {object}.",
    "mechanism": "The mechanism of {subject} is {object}.",
    "affects": "{subject} affects {object}.",
    "contraindication": "{subject} must not be given in {object}.",
    "adverse_effect": "{object} is an adverse effect of {subject}.",
    "interaction": "{subject} interacts with {object}.",
    "belongs_to": "{subject} belongs to the class {object}.",
}


def fact_sentence(subject: str, relation: str, object: str) -> str:
    """One fact of the graph as a short sentence: subject and object stand in it exactly as given.

    >>> fact_sentence("Tuberculosis", "treated_by", "Isoniazid")
    'Tuberculosis is treated with Isoniazid.'

    Raises ValueError for a relation that has no wording.
    """
    if relation not in FACT_SENTENCES:
        raise ValueError(f"relation {relation!r} has no wording; known: {', '.join(FACT_SENTENCES)}")
    return FACT_SENTENCES[relation].format(subject=subject, object=object)


def symptoms_sentence(disease: str, symptoms: Sequence[str]) -> str:
    """Several symptoms of one disease as one sentence.

    >>> symptoms_sentence("Tuberculosis", ["Fever", "Cough", "Night sweats"])
    'Fever, Cough and Night sweats are symptoms of Tuberculosis.'
    """
    if len(symptoms) == 1:
        return fact_sentence(disease, "symptom", symptoms[0])
    return f"{', '.join(symptoms[:-1])} and {symptoms[-1]} are symptoms of {disease}."


def lookup_sentence(option: str, letter: str) -> str:
    """The look-up that ends a chain of reasoning: which letter an option's text has."""
    return f"{option} is ({letter})."


def evidence_sentences(evidence: Iterable[Sequence[Any]]) -> list[str]:
    """A path of [subject, relation, object, ...] rows in words, in path order; neighbouring symptoms together.

    A path may pass an edge against its direction: the fact, and so its sentence, is the same.
    """
    sentences = []
    for (subject, relation), rows in groupby(evidence, key=lambda row: (row[0], row[1])):
        objects = [row[2] for row in rows]
        if relation == "symptom":
            sentences.append(symptoms_sentence(subject, objects))
        else:
            sentences += [fact_sentence(subject, relation, object) for object in objects]
    return sentences


class EvidenceTeacher(Teacher):
    """No language model: it knows each synthetic question's answer path from the graph and puts it into words.

    Whatever it is asked, it states the facts of `question.evidence` in order, looks the answer up among the options and
    gives the true letter, in the response contract. So it is always right, and its being right verifies nothing.
    """

    is_language_model = False

    def can_reason_about(self, question: Question) -> bool:
        return bool(question.evidence)

    def ask(self, requests: Sequence[Request]) -> list[str]:
        """A response in words per request. Raises UserError for a question without evidence."""
        return [self._reason(request) for request in requests]

    def _reason(self, request: Request) -> str:
        question = request.question
        if question is None or not question.evidence:
            raise UserError(
                f"the evidence teacher knows synthetic questions only, not {request.id}; use --teacher openai:MODEL"
            )
        sentences = evidence_sentences(question.evidence)
        sentences.append(lookup_sentence(question.options[question.answer], question.answer))
        return reward.format_response(" ".join(sentences), question.answer)


# ----------------------------------------------------------------------------- language models: cached, counted, capped


class AnswerCache:
    """Answers by the hash of their request, in an append-only JSON-lines file. Safe to use from several threads."""

    ROW = {"key": str, "text": str, "tokens?": int, "written?": (int, None), "truncated?": (bool, None), "model?": str}

    def __init__(self, path: Path):
        self.path, self.lock = path, threading.Lock()
        rows = read_jsonl(path, appended=True, shape=self.ROW) if is_there(path) else []
        self.rows = {row["key"]: row for row in rows}

    def get(self, key: str) -> Answer | None:
        row = self.rows.get(key)
        return row and Answer(row["text"], row.get("tokens", 0), row.get("written"), row.get("truncated"))

    def put(self, key: str, answer: Answer, **notes: Any) -> None:
        with self.lock:
            self.rows[key] = {"key": key, **notes, **asdict(answer)}
            append_jsonl(self.path, [self.rows[key]])

    def spent(self, model: str) -> tuple[int, int]:
        """Answers that stand here by a model, and the tokens they took."""
        tokens = [row.get("tokens", 0) for row in self.rows.values() if row.get("model") == model]
        return len(tokens), sum(tokens)


class CachedTeacher(Teacher):
    """A language model whose answers are kept on disk, and whose calls and tokens are counted, shown and capped.

    The caps hold for all that this model answered in the run directory, earlier commands included (of calls without an
    answer, only this process's). Calls never exceed theirs. A call's tokens are known when its answer is there, so
    tokens may exceed theirs by the calls then under way. None is no cap.
    """

    def __init__(self, model: str, source: Any, cache: Path, max_calls: int | None, max_tokens: int | None):
        """`source` says where the model comes from, as JSON: with the request, it makes the hash of an answer."""
        self.model, self.source, self.cache = model, source, AnswerCache(cache)
        self.max_calls, self.max_tokens = max_calls, max_tokens
        self.earlier_calls, self.earlier_tokens = self.cache.spent(model)
        self.lock = threading.Lock()

    def ask(self, requests: Sequence[Request]) -> list[str]:
        """Answers in order, those in the cache without a call. A request whose answer is empty gives "".

        Raises UserError if the model cannot be asked or a cap is reached. What it answered is cached.
        """
        return [answer.text for answer in self.answers(requests)]

    def answers(self, requests: Sequence[Request]) -> list[Answer]:
        """`ask` with what is known about each answer."""
        keys = [self._hash(request) for request in requests]
        known = {key: answer for key in keys if (answer := self.cache.get(key))}
        missing = {key: request for key, request in zip(keys, requests) if key not in known}
        if missing:
            with progress_bar(total=len(missing), desc="teacher", unit="answer", leave=False) as progress:

                def keep(key: str, answer: Answer) -> None:
                    known[key] = answer
                    if answer.text or answer.truncated:  # an empty answer may be a passing trouble
                        request = missing[key]
                        notes = {"model": self.model, "purpose": request.purpose, "id": request.id}
                        self.cache.put(key, answer, **notes)
                    progress.set_postfix_str(self.cost(), refresh=False)
                    progress.update()

                self._answer(missing, keep)
        return [known[key] for key in keys]

    @abstractmethod
    def _answer(self, missing: dict[str, Request], keep: Callable[[str, Answer], None]) -> None:
        """Ask the model every request and `keep(key, answer)` as soon as it is there."""

    def cost(self) -> str:
        """Calls and tokens that count for the caps."""
        return f"{self.earlier_calls + self.calls:,} calls, {self.earlier_tokens + self.tokens:,} tokens"

    def _hash(self, request: Request) -> str:
        identity = [self.source, self._body(request), *(["contract"] if request.contract else [])]
        text = json.dumps(identity, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()

    def _body(self, request: Request) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": request.messages,
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
            "seed": request.seed,
        }

    def _take_calls(self, wanted: int = 1) -> int:
        """Count up to `wanted` calls before they are made, as many as the caps allow. Raises UserError if none is."""
        with self.lock:
            if self.max_tokens is not None and self.earlier_tokens + self.tokens >= self.max_tokens:
                raise UserError(self._capped(f"--teacher-max-tokens {self.max_tokens}"))
            if self.max_calls is not None:
                wanted = min(wanted, self.max_calls - self.earlier_calls - self.calls)
            if wanted < 1:
                raise UserError(self._capped(f"--teacher-max-calls {self.max_calls}"))
            self.calls += wanted
            return wanted

    def _count(self, answer: Answer, price: tuple[float, float] | None = None) -> None:
        """Add what an answer took to the counts; `price` is that of a million tokens read, and written."""
        written = len(answer.text) // 4 if answer.written is None else min(answer.written, answer.tokens)
        read = answer.tokens - written
        with self.lock:
            self.tokens += answer.tokens
            count("tokens read by the teacher", read)
            count("tokens written by it", written)
            if price:
                count(PAID, (read * price[0] + written * price[1]) / 1e6)

    def _capped(self, flag: str) -> str:
        return (
            f"the teacher's cap is reached: {flag} ({self.cost()}); what it answered is kept, raise the cap to continue"
        )


# ---------------------------------------------------------------------------------------- an OpenAI-compatible endpoint


class OpenAITeacher(CachedTeacher):
    """A chat model behind an OpenAI-compatible `/chat/completions`.

    Requests run in `concurrency` threads. Connection errors, time-outs, overload (429, 5xx, ...) and unreadable bodies
    are tried again, up to `tries` times in all, after the pause that `Retry-After` asks for or else a doubling one with
    jitter.
    """

    def __init__(
        self,
        model: str,
        cache: Path,
        concurrency: int = 16,
        timeout: float = 300.0,
        tries: int = 6,
        backoff: float = 1.0,
        max_calls: int | None = None,
        max_tokens: int | None = None,
    ):
        """`timeout` and `backoff` (the first pause) are in seconds. Raises UserError if TEACHER_BASE_URL is no URL."""
        url = os.environ.get("TEACHER_BASE_URL", "")
        if not is_address(url):
            raise UserError("set TEACHER_BASE_URL to the endpoint of the teacher, such as http://localhost:8000/v1")
        if not model:
            raise UserError("--teacher openai:MODEL needs the name of a model")
        self.key = os.environ.get("TEACHER_API_KEY", "").strip()
        if not (self.key.isascii() and self.key.isprintable()):
            raise UserError("TEACHER_API_KEY holds characters that no HTTP header can carry; set it to the bare key")
        self.url = url.rstrip("/") + "/chat/completions"
        self.price = read_price(os.environ.get("TEACHER_PRICE", ""))
        super().__init__(model, self.url, cache, max_calls, max_tokens)
        self.concurrency, self.timeout, self.tries, self.backoff = concurrency, timeout, tries, backoff
        self.stopping, self.dropped = threading.Event(), threading.Event()

    def _answer(self, missing: dict[str, Request], keep: Callable[[str, Answer], None]) -> None:
        """Raises UserError if the endpoint refuses a request or fails to the last try.

        Answers under way are then waited for, since they are paid for; Ctrl-C drops them.
        """
        self.stopping.clear()
        self.dropped.clear()
        try:
            with ThreadPoolExecutor(self.concurrency) as pool:
                try:
                    for future in as_completed([pool.submit(self._complete, *item, keep) for item in missing.items()]):
                        future.result()
                except KeyboardInterrupt:
                    self.dropped.set()
                    raise
                finally:  # begin nothing more, wake what waits
                    self.stopping.set()
                    pool.shutdown(wait=False, cancel_futures=True)
        except KeyboardInterrupt:  # perhaps while answers under way were waited for
            self.dropped.set()
            raise

    def _complete(self, key: str, request: Request, keep: Callable[[str, Answer], None]) -> None:
        """One answer, by up to `tries` calls."""
        problem, pause, spent = "", 0.0, 0
        for attempt in range(self.tries):
            if self.stopping.wait(pause):
                raise UserError("the teacher was stopped; the same command continues")
            self._take_calls()
            pause = pause_after(attempt, self.backoff)
            try:
                response = self._post(request)
                if response.status_code in PASSING:
                    problem = f"HTTP {response.status_code} {self._excerpt(response)}".strip()
                    pause = max(pause, retry_after(response))
                    continue
                if not response.ok:
                    raise UserError(
                        f"the teacher refuses the request: HTTP {response.status_code} {self._excerpt(response)}"
                    )
                body = json_of(response)
            except requests.RequestException as error:  # its text may contain the URL: only its kind is shown
                problem = type(error).__name__
                continue
            answer = read_completion(body, request)
            if len(self.key) >= SECRET:
                answer = replace(answer, text=self._masked(answer.text))
            spent += answer.tokens
            self._count(answer, self.price)
            if answer.text or answer.truncated:
                return keep(key, replace(answer, tokens=spent))
            problem = f"an error instead of an answer: {self._excerpt(response)}" if is_error(body) else ""
        if problem:
            raise UserError(
                f"the teacher failed {self.tries} times ({problem}); what it answered is kept, run again later"
            )
        keep(key, Answer("", spent))

    def _post(self, request: Request) -> requests.Response:
        def authorize(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
            if self.key:
                prepared.headers["Authorization"] = f"Bearer {self.key}"
            return prepared

        body = self._body(request)
        try:
            with Client() as client:
                return post(client.post, self.url, self.timeout, MOST_BYTES, self.dropped, json=body, auth=authorize)
        except UserError as error:
            raise UserError(self._masked(str(error))) from None

    def _excerpt(self, response: requests.Response) -> str:
        text = response.content.decode(errors="replace")
        text = re.sub(r"\\(?:u00([0-7][0-9a-fA-F])|([\"\\/]))", lambda found: found[2] or chr(int(found[1], 16)), text)
        return " ".join(self._masked(text).split())[:200]  # masked before the cut, which may split the key

    def _masked(self, text: str) -> str:
        return re.sub(re.escape(self.key), "***", text, flags=re.IGNORECASE) if self.key else text


def read_price(text: str) -> tuple[float, float] | None:
    """The price of a million tokens read, and of a million written, as in "0.5/1.5"; None for no text.

    Raises UserError if it is anything else.
    """
    if not text:
        return None
    try:
        read, written = map(at_least(0.0), text.split("/"))
    except (ValueError, argparse.ArgumentTypeError):
        raise UserError(
            f"TEACHER_PRICE {text!r} is no price; write what a million tokens cost to read and to write: 0.5/1.5"
        ) from None
    return read, written


def inside(body: Any, *path: str | int) -> Any:
    """The value in JSON under a path of keys and indices; None if there is none."""
    try:
        for step in path:
            body = body[step]
    except (KeyError, IndexError, TypeError):
        return None
    return body


def read_completion(body: Any, request: Request) -> Answer:
    """A chat completion of whatever shape; its text is "" if there is none (no choices, no content, ...)."""
    text = completion_text(inside(body, "choices", 0, "message"), request.contract)
    total, written = (inside(body, "usage", name) for name in ("total_tokens", "completion_tokens"))
    reason = inside(body, "choices", 0, "finish_reason")
    if not is_count(total):  # not reported: one token per four characters
        total = (sum(len(message["content"]) for message in request.messages) + len(text)) // 4
    truncated = reason == "length" if isinstance(reason, str) else None
    return Answer(text, total, written if is_count(written) else None, truncated)


def is_count(tokens: Any) -> bool:
    """Whether a server's number of tokens can be believed."""
    return type(tokens) is int and 0 < tokens <= MOST_BYTES


def completion_text(message: Any, contract: bool) -> str:
    """The text of a completion's message.

    Many servers take `<think>...</think>` out of the text and hand it over as `reasoning_content` or `reasoning`; for
    the response contract it is put back, unless the text has reasoning of its own.
    """
    text, reasoning = inside(message, "content"), inside(message, "reasoning_content") or inside(message, "reasoning")
    text = text.strip() if isinstance(text, str) else ""
    if not contract or not isinstance(reasoning, str) or "<think>" in text:
        return text
    return f"<think>{reasoning}</think>{text}" if text else f"<think>{reasoning}"


def is_error(body: Any) -> bool:
    """Whether a body tells of an error, which some servers do with status 200."""
    return isinstance(body, dict) and bool(body.get("error"))


# ---------------------------------------------------------------------------------------------- a model on this machine


class LocalTeacher(CachedTeacher):
    """A Hugging Face folder (Qwen2, Qwen3 or Llama, with a chat template) sampled on this machine."""

    def __init__(
        self,
        folder: str,
        cache: Path,
        top_p: float = 0.95,
        max_calls: int | None = None,
        max_tokens: int | None = None,
    ):
        """Raises UserError if the folder cannot be loaded or its architecture is unknown to the sampler."""
        import torch  # here, so that the stages with another teacher start without torch

        from policy import load_policy, stop_tokens
        from rollout import Sampler

        device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
        model, self.tokenizer = load_policy(folder, dtype)
        self.stop_ids, self.top_p = stop_tokens(model, self.tokenizer), top_p
        try:
            self.sampler = Sampler(model.to(device).eval())
        except ValueError as error:
            raise UserError(f"--teacher local:{folder}: {error}") from None
        super().__init__(folder, [*folder_state(folder), top_p], cache, max_calls, max_tokens)

    def _answer(self, missing: dict[str, Request], keep: Callable[[str, Answer], None]) -> None:
        """Raises UserError if a chat and its answer do not fit into the model's context."""
        groups: dict[tuple[float, int], list[str]] = {}  # what is sampled in one call: one temperature, one limit
        for key, request in missing.items():
            groups.setdefault((request.temperature, request.max_tokens), []).append(key)
        for (temperature, max_tokens), keys in groups.items():
            while keys:
                count = self._take_calls(min(LOCAL_BATCH, len(keys)))
                batch, keys = keys[:count], keys[count:]
                self._sample({key: missing[key] for key in batch}, temperature, max_tokens, keep)

    def _sample(
        self, asked: dict[str, Request], temperature: float, max_tokens: int, keep: Callable[[str, Answer], None]
    ) -> None:
        keys, requests = list(asked), list(asked.values())
        prompts = [reward.prompt_tokens(self.tokenizer, request.messages) for request in requests]
        opening = reward.response_opening(self.tokenizer)

        def ended(row: int, sample: Any) -> None:
            text = self.tokenizer.decode(sample.tokens, skip_special_tokens=True)
            text, written = ((opening if requests[row].contract else "") + text).strip(), len(sample.tokens)
            answer = Answer(text, len(prompts[row]) + written, written, truncated=sample.stop_id is None)
            self._count(answer)
            keep(keys[row], answer)

        options = {"stop_ids": self.stop_ids, "temperature": temperature, "top_p": self.top_p, "on_sample": ended}
        seeds = [request.seed for request in requests]
        try:
            self.sampler.generate(prompts, max_new_tokens=max_tokens, seeds=seeds, **options)
        except ValueError as error:
            raise UserError(f"the local teacher cannot answer: {error}") from None


def folder_state(folder: str) -> list[Any]:
    """What tells one state of a model's folder from another without reading gigabytes: its files, sizes and times."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return [str(Path(folder).resolve()), [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]]


# --------------------------------------------------------------------------------------------------- choosing a teacher


def make_teacher(
    name: str,
    cache: Path,
    concurrency: int = 16,
    timeout: float = 300.0,
    tries: int = 6,
    max_calls: int | None = None,
    max_tokens: int | None = None,
) -> Teacher:
    """The teacher of a name: `evidence`, `openai:MODEL` or `local:FOLDER`. Raises UserError for another name."""
    kind, _, rest = name.partition(":")
    caps = {"max_calls": max_calls, "max_tokens": max_tokens}
    if name == "evidence":
        return EvidenceTeacher()
    if kind == "openai":
        return OpenAITeacher(rest, cache, concurrency, timeout, tries, **caps)
    if kind == "local":
        return LocalTeacher(rest, cache, **caps)
    raise UserError(f"unknown teacher {name!r}; choose evidence, openai:MODEL or local:FOLDER")


def add_teacher_arguments(parser: argparse.ArgumentParser, default: str, why: str) -> None:
    """The flags that every stage with a teacher shares; `teacher_of` reads them."""
    group = parser.add_argument_group("teacher")
    group.add_argument(
        "--teacher", default=default, metavar="NAME", help=f"openai:MODEL, local:FOLDER or evidence; {why}"
    )
    add_server_arguments(group)


def add_server_arguments(group: argparse._ArgumentGroup) -> None:
    """How a model behind a server is asked, and what it may cost."""
    for name, kind, default, metavar, why in (
        ("concurrency", at_least(1), 16, "N", "requests at a time; up to the server's limit"),
        ("timeout", above(0.0), 300.0, "SECONDS", "for a whole answer until it is asked for again"),
        ("tries", at_least(1), 6, "N", "calls per request before it is given up"),
        ("max-calls", at_least(1), None, "N", "most calls that this run may cost, all its commands together; no cap"),
        ("max-tokens", at_least(1), None, "N", "most tokens, of prompts and answers, in the same way; no cap"),
    ):
        group.add_argument(f"--teacher-{name}", type=kind, default=default, metavar=metavar, help=why)


def teacher_of(
    args: argparse.Namespace, run: RunDir, name: str | None = None, cache: str = "teacher_cache.jsonl"
) -> Teacher:
    """The teacher that the flags, or `name`, name; its cache is in the run directory. UserError for an unknown one."""
    return make_teacher(
        name or args.teacher,
        run.output(cache),
        args.teacher_concurrency,
        args.teacher_timeout,
        args.teacher_tries,
        args.teacher_max_calls,
        args.teacher_max_tokens,
    )
