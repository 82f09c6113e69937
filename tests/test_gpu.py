"""What only a GPU can show: GPU_TESTS=1 pytest tests/test_gpu.py tests/test_decode.py tests/test_top_p.py"""

import pytest
import torch
from conftest import call_main, metrics_of
from test_grpo import SMALL, make_run
from test_rollout import CONFIGS, PROMPTS, check_greedy, check_logprobs, make, same

import fsdp_utils
import grpo
import rollout
import sft
from rollout import Sampler

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU, or GPU_TESTS is not set")
OPTIONS = {"samples": 5, "max_new_tokens": 40, "stop_ids": [1, 2, 3, 4], "top_p": 0.9}


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_tokens_are_those_of_generate(name):
    model = make(name).cuda()
    check_greedy(model, PROMPTS, [1, 2], 40)
    check_logprobs(model, PROMPTS, Sampler(model).generate(PROMPTS, **OPTIONS), 1.0)


def test_recorded_steps_change_nothing_and_outlive_an_update(monkeypatch):
    """The first call of a shape runs as it stands, the second is recorded, later ones are replayed: all the same, and
    the same as without the kernels."""
    model = make("qwen2").cuda()
    with monkeypatch.context() as patch:
        patch.setattr(rollout.kernels, "serve", lambda x: False)
        plain = Sampler(model).generate(PROMPTS, **OPTIONS)
    sampler = Sampler(model)
    for _ in range(4):
        same(sampler.generate(PROMPTS, **OPTIONS), plain)
    graphs = sampler.idle_state.recordings.graphs
    recorded = {key: item for key, item in graphs.items() if item}
    assert recorded
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # in place, as an optimiser does
    after = sampler.generate(PROMPTS, **OPTIONS)
    assert after != plain
    same(after, Sampler(model).generate(PROMPTS, **OPTIONS))
    assert all(sampler.idle_state.recordings.graphs[key] is item for key, item in recorded.items())
    for parameter in model.parameters():  # elsewhere, as FSDP may gather them
        parameter.data = parameter.data.clone()
    same(sampler.generate(PROMPTS, **OPTIONS), after)
    same(sampler.generate(PROMPTS, **OPTIONS), after)
    assert all(sampler.idle_state.recordings.graphs[key] is not item for key, item in recorded.items())


def test_the_training_stages_learn_in_bfloat16(tmp_path, tiny, cold_started, questions, monkeypatch):
    run = make_run(tmp_path / "run", cold_started, questions)
    (run / "cot.jsonl").write_bytes((cold_started / "cot.jsonl").read_bytes())
    flags = "--steps 20 --batch-size 12 --lr 5e-3 --gradient-checkpointing".split()
    call_main(sft, "--run", run, "--model", tiny, "--output", "sft2", *flags)
    losses = [row["loss"] for row in metrics_of(run, "sft2")]
    assert losses[-1] < 0.5 * losses[0]
    call_main(grpo, "--stage", 1, "--run", run, "--steps", 4, *SMALL)
    call_main(grpo, "--stage", 2, "--run", run, "--steps", 4, "--round-steps", 2, "--cpu-offload", *SMALL)
    with monkeypatch.context() as patch:  # asked to stop, it goes on from its checkpoint, elsewhere even
        patch.setattr(fsdp_utils.Job, "stopping", lambda _: True)
        with pytest.raises(SystemExit):
            call_main(grpo, "--stage", 1, "--run", run, "--output", "rl3", "--steps", 3, *SMALL)
    call_main(grpo, "--stage", 1, "--run", run, "--output", "rl3", "--steps", 3, "--cpu-offload", *SMALL)
    assert [row["step"] for row in metrics_of(run, "rl3")] == [1, 2, 3]
    for row in metrics_of(run, "rl1") + metrics_of(run, "rl2") + metrics_of(run, "rl3"):
        assert row.get("logprob_gap", 0) < 0.05 and row["peak_memory_gb"] < 2
