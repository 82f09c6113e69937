"""The tiny recipe's base model, before pretraining: its tokenizer, its random weights, its corpus.

The paper starts from Qwen2.5-7B. A laptop needs something smaller that is a base model all the same: one that knows the
encyclopedia, but was never asked a question. This script prepares it from the knowledge graph and the encyclopedia's
text; `sft.py` then pretrains it on the corpus. `bash data/make_base.sh` does both and puts the result into `data/base`,
which is shipped.

The corpus is four files, trained on one after the other, because letters are bound before facts or much later:

    lookups.jsonl   four options, then "X is (B)." for each: chats, whose look-ups alone are trained on. Plain text
                    hardly teaches a small model to bind an option's text to its letter, and without it nothing that
                    follows gets beyond 25%
    facts.jsonl     every medical page as plain text; the graph in short sentences, a page's facts in ever new order, a
                    disease's symptoms in ever new selections; some look-ups
    reading.jsonl   look-ups amid facts: what was bound in a bare list has to be found in a longer text too
    subject.jsonl   texts that stay on their subject: what is told about it leads to one of the options. A model that
                    knows a fact tends to tell it whether or not the list has it; here it learns to choose

Reads kg.sqlite, prose.jsonl (kg_build.py --text) and synth.jsonl (for the tokenizer alone: the words of questions).
Writes init/ (a Hugging Face folder) and the corpus.

    python -m data.make_base --run runs/base
"""

from __future__ import annotations

from tools.stop import can_stop

if __name__ == "__main__":  # first: the rest takes seconds to import
    can_stop()

import random
import sqlite3
from collections import defaultdict
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

from question import LETTERS
from reward import INSTRUCTION, format_response
from teacher import fact_sentence, lookup_sentence, symptoms_sentence
from tools.cli import run_stage, stage_parser
from tools.run import RunDir, read_jsonl, write_jsonl

END, START_TURN, END_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (  # ChatML, as Qwen's
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def facts_of_entities(path: Path) -> tuple[dict[str, list[tuple[str, str, str]]], dict[str, str]]:
    """Every entity's facts as (subject, relation, object) titles, whichever end it is; every entity's type."""
    facts = defaultdict(list)
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    types = dict(database.execute("SELECT title, type FROM entity"))
    rows = database.execute(
        "SELECT DISTINCT s.title, r.relation, o.title FROM relation r "
        "JOIN entity s ON s.id = r.subject JOIN entity o ON o.id = r.object ORDER BY 1, 2, 3"
    )
    for subject, relation, object_ in rows:
        facts[subject].append((subject, relation, object_))
        facts[object_].append((subject, relation, object_))
    database.close()
    return facts, types


def facts_text(name: str, facts: list[tuple[str, str, str]], rng: random.Random, most: int = 8) -> str:
    """Some of an entity's facts in random order, its symptoms in random selections of one to four."""
    chosen = rng.sample(facts, min(most, len(facts)))
    return " " + " ".join(told(fact, facts if fact[0] == name else [fact], rng) for fact in chosen)


def told(fact: tuple[str, str, str], facts: list[tuple[str, str, str]], rng: random.Random) -> str:
    """A fact as a sentence; a symptom together with up to three others that `facts` has of its disease."""
    disease, relation, symptom = fact
    if relation != "symptom":
        return fact_sentence(*fact)
    others = [other[2] for other in facts if other[:2] == fact[:2] and other != fact]
    return symptoms_sentence(disease, rng.sample(others, rng.randint(0, min(3, len(others)))) + [symptom])


def lookups_chat(names: list[str], rng: random.Random, options: int = 4) -> dict:
    """A chat that lists options and looks each of them up, in another order."""
    shown = rng.sample(names, options)
    order = rng.sample(range(options), options)
    answer = " " + " ".join(lookup_sentence(shown[index], LETTERS[index]) for index in order)
    return {"messages": [{"role": "user", "content": listing(shown)}, {"role": "assistant", "content": answer}]}


def listing(options: list[str]) -> str:
    """Options as a question shows them, one a line."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options))


def chat(opening: str, options: list[str], answer: str, rng: random.Random) -> dict:
    """A chat of a user who says something and lists options; every other one has the system prompt of questions."""
    system = [{"role": "system", "content": INSTRUCTION}] if rng.random() < 0.5 else []
    user = {"role": "user", "content": f"{opening.strip()}\n{listing(options)}"}
    return {"messages": [*system, user, {"role": "assistant", "content": answer}]}


def reading_chat(names: list[str], facts: dict[str, list[tuple[str, str, str]]], rng: random.Random) -> dict:
    """A chat that looks two options up amid facts: a fact before the options, facts of an option before its look-up."""
    shown = rng.sample(names, 4)
    other = rng.choice(names)
    answer = ""
    for index in rng.sample(range(4), 2):
        facts_told = facts_text(shown[index], facts[shown[index]], rng, rng.randint(1, 2))
        answer += f"{facts_told} {lookup_sentence(shown[index], LETTERS[index])}"
    return chat(facts_text(other, facts[other], rng, 2), shown, answer, rng)


def subject_chat(
    names: list[str], facts: dict[str, list[tuple[str, str, str]]], types: dict[str, str], rng: random.Random
) -> dict:
    """A chat about one subject: it is named, perhaps some facts of it are told, then the fact that links it to one of
    the options, which is looked up. Two times in three the options are of one type."""
    option = rng.choice(names)
    fact = rng.choice(facts[option])
    subject = fact[0] if fact[2] == option else fact[2]
    alike = [name for name in names if types[name] == types[option] and name != option]
    others = alike if len(alike) >= 3 and rng.random() < 0.7 else [name for name in names if name != option]
    shown = rng.sample([option, *rng.sample(others, 3)], 4)
    rest = [other for other in facts[subject] if other != fact]
    before = facts_text(subject, rest, rng, 2) if rest and rng.random() < 0.6 else ""
    opening, begins = (before, "") if before and rng.random() < 0.5 else (f"{subject}.", before)
    answer = f"{begins} {told(fact, facts[fact[0]], rng)} {lookup_sentence(option, LETTERS[shown.index(option)])}"
    return chat(opening, shown, answer, rng)


def presentation_chat(names: list[str], facts: dict[str, list[tuple[str, str, str]]], rng: random.Random) -> dict:
    """A chat that repeats a list of symptoms and tells whose they are; then the disease, or any option amid facts, is
    looked up. A small model has to learn to copy a list: it repeats the first name instead."""
    disease, symptoms = "", []
    while len(symptoms) < 3:
        disease = rng.choice(names)
        symptoms = [
            object_ for subject, relation, object_ in facts[disease] if (subject, relation) == (disease, "symptom")
        ]
    sentence = symptoms_sentence(disease, rng.sample(symptoms, rng.randint(2, min(4, len(symptoms)))))
    others = rng.sample([name for name in names if name != disease], 4)
    option = disease if rng.random() < 0.6 else others[3]
    shown = rng.sample([option, *others[:3]], 4)
    facts_told = "" if option == disease else facts_text(option, facts[option], rng, 1)
    answer = f" {sentence}{facts_told} {lookup_sentence(option, LETTERS[shown.index(option)])}"
    return chat(f"{sentence[: sentence.index(' are symptoms of ')]}.", shown, answer, rng)


def make_tokenizer(texts: list[str], names: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with ChatML's special tokens and chat template; each name, with the space before it,
    is a token of its own.

    A large model finds an option's letter however many tokens the option has. A small one learns it from a fixed
    distance: the letter stands two tokens before the name, and so does the name before "(".
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(names),
        special_tokens=[END, START_TURN, END_TURN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(f" {name}", normalized=False) for name in names])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_TURN, pad_token=END, chat_template=CHAT_TEMPLATE
    )


def make_model(tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int) -> torch.nn.Module:
    """A small Qwen2 with random weights, input and output embeddings tied."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 16,
        num_key_value_heads=hidden // 16,
        max_position_embeddings=512,
        initializer_range=hidden**-0.5,  # the usual 0.02 suits widths of thousands; here attention would start out flat
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--run", default="runs/base", help="run directory with kg.sqlite and prose.jsonl")
    parser.add_argument("--vocabulary", type=int, default=3072, help="tokens, names included")
    parser.add_argument("--hidden", type=int, default=128, help="width; heads have 16 dimensions, for many of them")
    parser.add_argument("--layers", type=int, default=4, help="decoder blocks")
    parser.add_argument("--facts", type=int, default=40, help="fact texts per entity")
    parser.add_argument("--prose", type=int, default=4, help="copies of each page")
    parser.add_argument(
        "--lookups",
        type=int,
        default=40_000,
        help="chats in lookups.jsonl; 2.5 times as many in reading.jsonl, 9 times in subject.jsonl",
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    run = RunDir(args.run)
    rng = random.Random(args.seed)
    torch.manual_seed(args.seed)
    facts, types = facts_of_entities(run.input("kg.sqlite"))
    prose = [row["text"] for row in read_jsonl(run.output("prose.jsonl"), "python kg_build.py --text prose.jsonl")]
    fact_texts = [facts_text(name, facts[name], rng) for name in sorted(facts) for _ in range(args.facts)]
    names = sorted(facts)
    lookups = [lookups_chat(names, rng) for _ in range(args.lookups)]
    rows = [{"text": text} for text in prose * args.prose + fact_texts] + lookups[: args.lookups // 3]
    rng.shuffle(rows)
    write_jsonl(run.output("lookups.jsonl"), lookups)
    write_jsonl(run.output("facts.jsonl"), rows)
    reading = [reading_chat(names, facts, rng) for _ in range(5 * args.lookups // 2)]
    subject = [subject_chat(names, facts, types, rng) for _ in range(5 * args.lookups)]
    subject += [presentation_chat(names, facts, rng) for _ in range(2 * args.lookups)]
    subject += [reading_chat(names, facts, rng) for _ in range(2 * args.lookups)]
    for file, chats, texts in (("reading.jsonl", reading, rows[::5]), ("subject.jsonl", subject, rows[::2])):
        write_jsonl(run.output(file), rng.sample(chats + texts, len(chats) + len(texts)))

    # The words of questions and of the response contract should become whole tokens too.
    wordings = [row["question"] for row in read_jsonl(run.input("synth.jsonl"), run.made_by("synth.jsonl"))]
    contract = [f"{INSTRUCTION} {format_response('', 'A')}"] * len(prose)
    tokenizer = make_tokenizer(prose + fact_texts + wordings + contract, names, args.vocabulary)
    model = make_model(tokenizer, args.hidden, args.layers)
    model.save_pretrained(run.output("init"))
    tokenizer.save_pretrained(run.output("init"))
    print(f"{len(rows)} rows, {len(tokenizer)} tokens, {model.num_parameters():,} parameters")


if __name__ == "__main__":
    run_stage(main)
