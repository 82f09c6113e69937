"""A model that trainer and sampler do not compute as it is meant is refused at the start, in both ways to load it.

Each case is loaded in both ways: with its weights (one process) and empty (the sharded path of every GPU run).
"""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

import sft
from policy import Policy, load_config, load_policy, score, stop_tokens
from pretrained import turn_end
from reward import prompt_text
from rollout import Sampler
from tools.cli import UserError
from tools.run import seal


@pytest.fixture
def folder(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "model")


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def refused(folder, message):
    for empty in (False, True):
        with pytest.raises(UserError, match=message) as caught:
            load_policy(folder, empty=empty)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic"}}, "quantised"),
        (
            {"model_type": "mistral", "architectures": ["MistralForCausalLM"]},
            "does not know the architecture",
        ),
        ({"hidden_act": "gelu"}, "does not know the activation 'gelu'"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "the rope type 'dynamic'"),
        ({"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}, "sliding-window"),
        ({"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 8}, "sliding-window"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "does not know chunked_attention"),
        (
            {
                "rope_parameters": {
                    "rope_type": "linear",
                    "rope_theta": 1e4,
                    "factor": 2.0,
                    "partial_rotary_factor": 0.5,
                }
            },
            "does not know partial_rotary_factor",
        ),
        ({"final_logit_softcapping": 30.0}, "does not know final_logit_softcapping"),
        ({"logit_scale": 0.1}, "does not know logit_scale"),
        ({"hidden_size": "many"}, "cannot load the model"),
        ({"num_attention_heads": 0}, "cannot load the model"),
        ({"vocab_size": -1}, "cannot load the model"),
        ({"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}, "lacks 12 weights, such as model.layers.2"),
        (
            {"num_hidden_layers": 1, "layer_types": ["full_attention"]},
            "holds 12 weights that nothing reads, such as model.layers.1",
        ),
        ({"intermediate_size": 64}, "has the shape"),
        ({"tie_word_embeddings": False}, "lacks 1 weights, such as lm_head.weight"),
    ],
)
def test_a_config_that_is_not_computed_as_it_says_is_refused(folder, changes, message):
    edit(folder, **changes)
    of_weights = {"num_hidden_layers", "intermediate_size", "tie_word_embeddings", "num_attention_heads", "vocab_size"}
    if not set(changes) & of_weights:
        with pytest.raises(UserError, match=message):
            load_config(folder)  # all that --plan loads
    refused(folder, message)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: {k: v for k, v in s.items() if "layers.1.mlp" not in k}, "lacks 3 weights, such as .*layers.1.mlp"),
        (lambda s: {"base_model." + k: v for k, v in s.items()}, "lacks .* weights, such as"),
        (lambda s: s | {"lm_head.bias": torch.zeros(3)}, "nothing reads, such as lm_head.bias"),
        (
            lambda s: s | {"model.norm.weight_scale_inv": torch.ones(1)},
            "nothing reads, such as model.norm.weight_scale",
        ),
        (lambda s: s | {"model.norm.weight": s["model.norm.weight"].to(torch.float8_e4m3fn)}, "quantised .F8_E4M3"),
        (lambda s: s | {"model.norm.weight": s["model.norm.weight"].to(torch.int8)}, "quantised .I8"),
        (lambda s: s | {"lm_head.weight": s["model.embed_tokens.weight"] + 1}, "lm_head.weight is another matrix"),
    ],
)
def test_weights_that_are_not_the_models_are_refused(folder, change, message):
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
    refused(folder, message)


def test_harmless_extra_weights_are_accepted(folder):
    """The tied layer twice, and the rotary frequencies that old checkpoints hold."""
    state = load_file(folder / "model.safetensors")
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    load_policy(folder)


def test_damaged_and_left_over_files_are_refused(folder):
    shutil.copy(folder / "model.safetensors", folder / "old.safetensors")
    refused(folder, "is in two of its files")
    (folder / "old.safetensors").unlink()
    seal(folder)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1000] ^= 1
    weights.write_bytes(content)
    refused(folder, "model.safetensors has changed or is damaged since it was written .*; make it again")
    weights.write_bytes(content[:-1000])
    (folder / "checksums.json").unlink()
    refused(folder, "cannot load the model")
    weights.unlink()
    refused(folder, "holds no .*safetensors")


def test_an_index_that_loses_weights_is_refused(folder):
    """Transformers would load what it finds by the index, and make the rest up."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    places = {name: second if "layers.1" in name else first for name in state}
    for file in (first, second):
        save_file({name: state[name] for name in state if places[name] == file}, folder / file, {"format": "pt"})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    load_policy(folder)
    for lost in (dict.fromkeys(places, first), {name: file for name, file in places.items() if file == first}):
        index.write_text(json.dumps({"metadata": {}, "weight_map": lost}))
        refused(folder, "does not name the file of 12 weights, such as model.layers.1")


def test_an_empty_tokenizer_is_refused(folder):
    """Which transformers makes without a word where the file is missing."""
    (folder / "tokenizer.json").unlink()
    refused(folder, "the tokenizer makes '' of 'Is it so")


@pytest.mark.parametrize("end", [10**6, -1, 1.5, True, "</s>", [[2]]])
def test_an_end_that_is_no_token_is_refused(folder, end):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    refused(folder, "eos_token_id .* is no id of this model's tokens|cannot load the model")


def test_a_config_that_transformers_reads_but_does_not_save_is_no_end_of_a_training(folder, tmp_path):
    """Settings that contradict each other, as in many folders of the hub; another form of what the model returns."""
    (folder / "generation_config.json").write_text('{"eos_token_id": 2, "temperature": 0.6, "do_sample": false}')
    edit(folder, return_dict=False, output_attentions=True)
    for empty in (False, True):
        model, _ = load_policy(folder, empty=empty)
        assert model.generation_config.eos_token_id == [2]
        model.generation_config.save_pretrained(tmp_path)
        model.config.save_pretrained(tmp_path)
    tokens = torch.tensor([[1, 2, 3]])
    Policy(load_policy(folder)[0])(tokens, tokens > 1)


def test_dropout_is_off_whatever_the_config_says(folder):
    edit(folder, attention_dropout=0.5)
    for empty in (False, True):
        model, _ = load_policy(folder, empty=empty)
        assert {layer.self_attn.attention_dropout for layer in model.model.layers} == {0.0}


def without_tokens(folder, least):
    """Take at least `least` tokens from the middle of a folder's tokenizer, whose ids no other token gets: those that
    no other is merged from. Returns their ids."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    vocab, merges = content["model"]["vocab"], content["model"]["merges"]
    parts = {part for pair in merges for part in pair}
    taken = {"".join(pair) for pair in merges[: len(merges) // 2]} - parts
    assert len(taken) >= least
    content["model"]["merges"] = [pair for pair in merges if "".join(pair) not in taken]
    holes = sorted(vocab.pop(token) for token in taken)
    file.write_text(json.dumps(content))
    return holes


@pytest.mark.parametrize("where", ["beyond", "within", "both"])
def test_what_no_token_of_the_tokenizer_has_has_no_probability(folder, where):
    """Ids beyond its tokens, and holes between them: neither in the sampler nor in the trainer, and both agree: on
    log-probabilities, and the trainer with itself."""
    unknown = without_tokens(folder, 3) if where != "beyond" else []
    model, tokenizer = load_policy(folder)
    torch.manual_seed(0)
    if where != "within":
        unknown += range(model.config.vocab_size, model.config.vocab_size + 50)
        model.resize_token_embeddings(model.config.vocab_size + 50)
    model.model.embed_tokens.weight.data[unknown] *= 30  # likely, if nothing were done
    model.save_pretrained(folder)
    model, _ = load_policy(folder)
    assert [id for stretch in model.unknown_tokens for id in range(model.config.vocab_size)[stretch]] == unknown
    assert all(tokenizer.decode([id]) == "" for id in unknown)
    groups = Sampler(model).generate([[5, 6, 7]] * 20, max_new_tokens=16, stop_ids=[0], seeds=range(20))
    from policy import Example

    for (sample,) in groups:
        assert not set(sample.tokens) & set(unknown)
        example = Example([5, 6, 7, *sample.tokens], [False] * 3 + [True] * len(sample.tokens))
        (trained,) = score(Policy(model), [example], 4096, torch.device("cpu"))
        assert torch.allclose(trained, torch.tensor(sample.logprobs), atol=1e-4)
    logprobs, entropies = Policy(model)(torch.tensor([[5, 6, 7]]), torch.tensor([[False, True, True]]))
    assert logprobs.isfinite().all() and entropies.isfinite().all()
    logprobs.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


# ---------------------------------------------------------------------------------------------------------- templates

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
START = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML + START
SYSTEM_DROPPED = CHATML.replace("%}<", "%}{% if m.role != 'system' %}<").replace("{% endfor", "{% endif %}{% endfor")
LLAMA = (
    "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }} {{ eos_token }}"
    "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
)
CUTS = CHATML.replace("m.content", "(m.content.split('</think>')[-1] if m.role == 'assistant' else m.content)") + START


@pytest.mark.parametrize("template", [NO_SYSTEM, SYSTEM_DROPPED + START, SYSTEM_DROPPED, CHATML, LLAMA])
def test_templates_of_many_forms_ask_and_train(tiny, chats, template):
    """Whatever the template lacks: the prompt asks all that was meant, and the assistant's turn follows it."""
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = template
    system, user, assistant = chats[0]["messages"]
    prompt = prompt_text(tokenizer, [system, user])
    assert system["content"] in prompt and user["content"] in prompt
    assert prompt.rstrip().endswith("[/INST]" if template == LLAMA else "<|im_start|>assistant")
    example = sft.chat_example(chats[0]["messages"], tokenizer, [tokenizer.eos_token_id, turn_end(tokenizer)])
    trained = [token for token, scored in zip(example.tokens, example.scored) if scored]
    assert tokenizer.decode(trained[:-1]).strip() == assistant["content"]


def test_a_template_that_cuts_the_reasoning_out_is_refused(tiny, chats):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = CUTS
    with pytest.raises(UserError, match="leaves out a part of the assistant's turn"):
        sft.chat_example(chats[0]["messages"], tokenizer, [tokenizer.eos_token_id])


@pytest.mark.parametrize(
    "template", ["{{ 1 / 0 }}", "{% for n in range(10 ** 9) %}{% endfor %}", "{{ 'x'.y.z }}", "{%"]
)
def test_a_template_is_a_program_that_may_fail(tiny, chats, template):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = template
    with pytest.raises(UserError, match="the chat template cannot write this chat"):
        prompt_text(tokenizer, chats[0]["messages"][:-1])
    assert turn_end(tokenizer) is None


def test_what_the_template_ends_a_turn_with_is_a_stop_too(folder):
    """Base models: their EOS is another token."""
    model, tokenizer = load_policy(folder)
    end = tokenizer.eos_token_id
    tokenizer.eos_token = next(token for id, token in tokenizer.added_tokens_decoder.items() if id != end).content
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    assert set(stop_tokens(model, tokenizer)) == {end, tokenizer.eos_token_id}
