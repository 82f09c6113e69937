"""The tiny recipe's base model, before pretraining: its tokenizer, its random weights, its corpus.

The paper starts from Qwen2.5-7B. A laptop needs something smaller that is a base model all the same: one that knows the
encyclopedia, but was never asked a question. This script prepares it from the knowledge graph and the encyclopedia's
text; `sft.py` then pretrains it on the corpus. `bash run.sh base` does both and puts the result into `data/base`,
which is shipped.

The corpus is three files, trained on one after the other, because letters are bound before facts or much later:

    lookups.jsonl   four options, then "X is (B)." for each: chats, whose look-ups alone are trained on. Plain text
                    hardly teaches a small model to bind an option's text to its letter, and without it nothing that
                    follows gets beyond 25%
    facts.jsonl     every medical page as plain text; the graph in short sentences, a page's facts in ever new order, a
                    disease's symptoms in ever new selections; some look-ups
    reading.jsonl   look-ups amid facts: what was bound in a bare list has to be found in a longer text too

Reads kg.sqlite, prose.jsonl (kg_build.py --text) and synth.jsonl (for the tokenizer alone: the words of questions).
Writes init/ (a Hugging Face folder) and the corpus.

    python -m data.make_base --run runs/base
"""

from __future__ import annotations

import random
import sqlite3
from collections import defaultdict
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

from records import LETTERS, RunDir, read_jsonl, run_stage, stage_parser, write_jsonl
from reward import INSTRUCTION, format_response
from teacher import fact_sentence, lookup_sentence, symptoms_sentence

END, START_TURN, END_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (  # ChatML, as Qwen's
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def facts_of_entities(path: Path) -> dict[str, list[tuple[str, str, str]]]:
    """Every entity's facts as (subject, relation, object) titles, whichever end it is."""
    facts = defaultdict(list)
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    rows = database.execute(
        "SELECT DISTINCT s.title, r.relation, o.title FROM relation r "
        "JOIN entity s ON s.id = r.subject JOIN entity o ON o.id = r.object ORDER BY 1, 2, 3"
    )
    for subject, relation, object_ in rows:
        facts[subject].append((subject, relation, object_))
        facts[object_].append((subject, relation, object_))
    database.close()
    return facts


def facts_text(name: str, facts: list[tuple[str, str, str]], rng: random.Random, most: int = 8) -> str:
    """Some of an entity's facts in random order, its symptoms in random selections of one to four."""
    sentences = []
    for subject, relation, object_ in rng.sample(facts, min(most, len(facts))):
        if relation == "symptom" and subject == name:
            symptoms = [fact[2] for fact in facts if fact[:2] == (name, "symptom")]
            sentences.append(symptoms_sentence(name, rng.sample(symptoms, rng.randint(1, min(4, len(symptoms))))))
        else:
            sentences.append(fact_sentence(subject, relation, object_))
    return " " + " ".join(sentences)


def lookups_chat(names: list[str], rng: random.Random, options: int = 4) -> dict:
    """A chat that lists options and looks each of them up, in another order."""
    shown = rng.sample(names, options)
    listing = "\n".join(f"{letter}. {name}" for letter, name in zip(LETTERS, shown))
    order = rng.sample(range(options), options)
    answer = " " + " ".join(lookup_sentence(shown[index], LETTERS[index]) for index in order)
    return {"messages": [{"role": "user", "content": listing}, {"role": "assistant", "content": answer}]}


def reading_chat(names: list[str], facts: dict[str, list[tuple[str, str, str]]], rng: random.Random) -> dict:
    """A chat that looks two options up amid facts: a fact before the options, facts of an option before its look-up."""
    shown = rng.sample(names, 4)
    listing = "\n".join(f"{letter}. {name}" for letter, name in zip(LETTERS, shown))
    other = rng.choice(names)
    system = [{"role": "system", "content": INSTRUCTION}] if rng.random() < 0.5 else []
    user = {"role": "user", "content": f"{facts_text(other, facts[other], rng, 2).strip()}\n{listing}"}
    answer = ""
    for index in rng.sample(range(4), 2):
        told = facts_text(shown[index], facts[shown[index]], rng, rng.randint(1, 2))
        answer += f"{told} {lookup_sentence(shown[index], LETTERS[index])}"
    return {"messages": [*system, user, {"role": "assistant", "content": answer}]}


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
        "--lookups", type=int, default=40_000, help="chats in lookups.jsonl; 2.5 times as many in reading.jsonl"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    run = RunDir(args.run)
    rng = random.Random(args.seed)
    torch.manual_seed(args.seed)
    facts = facts_of_entities(run.input("kg.sqlite"))
    prose = [row["text"] for row in read_jsonl(run.output("prose.jsonl"), "python kg_build.py --text prose.jsonl")]
    fact_texts = [facts_text(name, facts[name], rng) for name in sorted(facts) for _ in range(args.facts)]
    names = sorted(facts)
    lookups = [lookups_chat(names, rng) for _ in range(args.lookups)]
    rows = [{"text": text} for text in prose * args.prose + fact_texts] + lookups[: args.lookups // 3]
    rng.shuffle(rows)
    write_jsonl(run.output("lookups.jsonl"), lookups)
    write_jsonl(run.output("facts.jsonl"), rows)
    reading = [reading_chat(names, facts, rng) for _ in range(5 * args.lookups // 2)]
    write_jsonl(run.output("reading.jsonl"), rng.sample(reading + rows[::5], len(reading) + len(rows[::5])))

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
