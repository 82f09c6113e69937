#!/usr/bin/env bash
# The whole method, from an encyclopedia to the ablation table (Table 4):   bash run.sh [tiny | 7b | 32b | base]
#   tiny   a laptop's CPU, 15 minutes, no network after the installation (default)
#   7b     the paper's full recipe: Qwen2.5-7B-Instruct, live Wikipedia, teacher LLM, 8 GPUs
#   32b    the paper's recipe without cold start: Qwen3-32B
#   base   make the tiny recipe's base model again from the encyclopedia, into data/base (90 minutes)
# Run it again and it continues where it stopped. RUN=folder SEED=0 GPUS=8 are read from the environment.
set -euo pipefail
cd "$(dirname "$0")"
source ./setup.sh
# glibc gives every freed tensor back to the kernel and asks for it again; on a CPU that costs a fifth of the time.
export MALLOC_MMAP_THRESHOLD_=10000000000 MALLOC_TRIM_THRESHOLD_=10000000000 MALLOC_TOP_PAD_=100000000
recipe=${1:-tiny} seed=${SEED:-0}
run=${RUN:-runs/$recipe}
train="torchrun --nproc_per_node ${GPUS:-8} --" # without the --, torchrun takes --run for an option of its own
ladder=("Base=base" "+CoT cold start=sft" "+RL stage 1=rl1" "+RL stage 2=rl2")

case $recipe in
tiny)
  export HF_HUB_OFFLINE=1
  rl="--run $run --seed $seed --questions 64 --group-size 8 --max-new-tokens 80 --lr 3e-4 --lr-decay 0.9 --share-prompts --micro-tokens 8192"
  python kg_build.py --run "$run" --source data/encyclopedia.xml
  python synth.py --run "$run" --questions 12000 --no-long-paths
  python curate.py --run "$run" --heldout 500
  python distill.py --run "$run" --teacher evidence --questions 2000 --seed "$seed"
  python sft.py --run "$run" --model data/base --seed "$seed" --epochs 1 --batch-size 32 --lr 1.2e-3 --micro-tokens 4096 --save-every 25
  python grpo.py --stage 1 --steps 110 --cache-gb 0.5 $rl
  python grpo.py --stage 2 --steps 70 --cache-gb 0.5 --round-steps 35 --mine-samples 2 $rl
  python evaluate.py --run "$run" --max-new-tokens 80 --cache-gb 0.5 --model "Base=data/base" "${ladder[@]:1}"
  python report.py --run "$run"
  ;;
7b)
  python kg_build.py --run "$run" --source api --contact "${CONTACT:?your e-mail address: Wikipedia asks for it}"
  python synth.py --run "$run" --teacher "${TEACHER:?e.g. openai:openai/gpt-oss-120b}"
  python curate.py --run "$run" --public medqa medmcqa cmexam pubmedqa --teacher "$TEACHER"
  python distill.py --run "$run" --teacher "$TEACHER"
  $train sft.py --run "$run" --model Qwen/Qwen2.5-7B-Instruct
  $train grpo.py --run "$run" --stage 1
  $train grpo.py --run "$run" --stage 2
  $train evaluate.py --run "$run" --benchmark careqa jmed medbullets medmcqa medqa medxpertqa pubmedqa mmlu_pro_biology \
    mmlu_pro_health --model "Base=Qwen/Qwen2.5-7B-Instruct" "${ladder[@]:1}"
  python report.py --run "$run"
  ;;
32b)
  python kg_build.py --run "$run" --source api --contact "${CONTACT:?your e-mail address: Wikipedia asks for it}"
  python synth.py --run "$run" --teacher "${TEACHER:?e.g. openai:openai/gpt-oss-120b}"
  python curate.py --run "$run" --public medqa medmcqa cmexam pubmedqa --teacher "$TEACHER"
  $train grpo.py --run "$run" --stage 1 --model Qwen/Qwen3-32B --gradient-checkpointing --micro-tokens 8192
  $train grpo.py --run "$run" --stage 2 --gradient-checkpointing --micro-tokens 8192
  $train evaluate.py --run "$run" --benchmark careqa jmed medbullets medmcqa medqa medxpertqa pubmedqa mmlu_pro_biology \
    mmlu_pro_health --model "Base=Qwen/Qwen3-32B" "${ladder[@]:2}"
  python report.py --run "$run"
  ;;
base)
  export HF_HUB_OFFLINE=1
  pretrain="--run $run --batch-size 64 --warmup 0.03 --max-length 256 --micro-tokens 4096 --save-every 250"
  python kg_build.py --run "$run" --source data/encyclopedia.xml --text "$run/prose.jsonl"
  python synth.py --run "$run" --questions 8000 --no-long-paths
  python -m data.make_base --run "$run"
  python sft.py $pretrain --model "$run/init" --data lookups.jsonl --output lookups --steps 2500 --lr 2e-3
  python sft.py $pretrain --model "$run/lookups" --data facts.jsonl --output facts --steps 3000 --lr 1.5e-3
  python sft.py $pretrain --model "$run/facts" --data reading.jsonl --output reading --steps 1600 --lr 1e-3
  python sft.py $pretrain --model "$run/reading" --data subject.jsonl --output subject --steps 6500 --lr 1e-3
  rm -rf data/base && cp -r "$run/subject" data/base
  ;;
*)
  echo "run.sh: unknown recipe '$recipe'; known: tiny, 7b, 32b, base" >&2
  exit 1
  ;;
esac
