#!/usr/bin/env bash
# The whole method, from an encyclopedia to the ablation table (Table 4):   bash run.sh [tiny | 1gpu | 7b | 32b]
#   tiny   on a laptop's CPU, 20 to 45 minutes, no network after the installation (default)
#   1gpu   on one card from 16 GB up, no key: adapters (LoRA) on a MODEL (Qwen/Qwen2.5-1.5B-Instruct), real exam questions
#   7b     our recipe for the paper's 7B setting: Qwen2.5-7B-Instruct, live Wikipedia, a teacher, 8 GPUs
#   32b    our recipe for the paper's 32B setting: Qwen3-32B, without a cold start
# Run it again and it resumes where it stopped. It reads RUN=folder SEED=0 GPUS=8 from the environment, for 1gpu also MODEL,
# TEACHER and LOCAL=folder (docs/hardware.md), for 7b and 32b CONTACT=address TEACHER=openai:MODEL VERIFIER=openai:MODEL.
# First: bash run.sh 7b rehearse    tries every stage of a recipe on tiny amounts, at its largest memory (docs/large.md)
# An ablation, forked from a finished run (BASELINE=runs/tiny):   bash run.sh tiny STAGE [flags for this stage ...]
#   bash run.sh tiny rl1 --with-std    the stages before STAGE are shared; STAGE and those after it run again
set -euo pipefail && cd "$(dirname "$0")"
fail() { echo "run.sh: error: $1" >&2 && exit 1; }
recipe=${1:-tiny} ablated=${2:-} seed=${SEED:-0} contact=${CONTACT:-} teacher=${TEACHER:-}; [[ $ablated != -h && $ablated != --help ]] || recipe=-h
case $recipe in
tiny | 1gpu) ;;
7b | 32b)
  [[ $contact ]] || fail "CONTACT is not set: Wikipedia wants an address (export CONTACT=you@example.org)"
  [[ $teacher ]] || fail "TEACHER is not set: name a language model (export TEACHER=openai:openai/gpt-oss-120b)" ;;
-h | --help) sed -n '2,/^set/{s/^# \{0,1\}//p;}' run.sh && exit ;;
*) fail "unknown recipe '$recipe'; known: tiny, 1gpu, 7b, 32b (see bash run.sh --help)" ;;
esac
[[ $ablated != rehearse || $# = 2 && $recipe != tiny ]] || fail "rehearse takes no flags, and tries 1gpu, 7b or 32b: bash run.sh 7b rehearse"
known="kg_build synth curate distill sft rl1 rl2"; [[ " $known rehearse " = *" ${ablated:-rl1} "* ]] || fail "unknown stage '$ablated'; known: $known"
baseline=${BASELINE:-runs/$recipe}
run=${RUN:-$baseline${ablated:+-$(sed 's/ --/--/g; s/[ /]/-/g' <<<"${*:2}")}} # e.g. runs/tiny-rl1--with-std
ladder=("Base=base" "+CoT cold start=sft" "+RL stage 1=rl1" "+RL stage 2=rl2") # Table 4
train=(env TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --rdzv-backend c10d --rdzv-conf store_type=file # on loopback
  --nproc_per_node "${GPUS:-8}" --)
source ./setup.sh
source tools/stage.sh # `stage NAME COMMAND` runs a command in the run directory
case $recipe in
tiny) export HF_HUB_OFFLINE=1
  rl=(--questions 64 --group-size 8 --max-new-tokens 80 --lr 3e-4 --lr-decay 0.9 --share-prompts
    --micro-tokens 1024 --cache-gb 0.5 --seed "$seed")
  stage kg_build python kg_build.py --source data/encyclopedia.xml
  stage synth python synth.py --questions 12000 --no-long-paths --plain-wordings --single-facts 0.45
  stage curate python curate.py --heldout 500
  stage distill python distill.py --teacher evidence --questions 1800 --seed "$seed"
  stage sft python sft.py --model data/base --epochs 1 --batch-size 8 --lr 1e-3 --micro-tokens 4096 --save-every 25 --seed "$seed"
  stage rl1 python grpo.py --stage 1 --steps 110 "${rl[@]}"
  stage rl2 python grpo.py --stage 2 --steps 96 --round-steps 32 --mine-samples 2 --mine-budget 4200 --group-growth 2 "${rl[@]}"
  stage evaluate python evaluate.py --max-new-tokens 80 --cache-gb 0.5 --model "Base=data/base" "${ladder[@]:1}" ;;
1gpu)
  model=${LOCAL:+$LOCAL/}${MODEL:-Qwen/Qwen2.5-1.5B-Instruct}
  exams=("medqa${LOCAL:+=$LOCAL/medqa_train.jsonl}" "medmcqa${LOCAL:+=$LOCAL/medmcqa_train.json}")
  tests=("medqa${LOCAL:+=$LOCAL/medqa_test.jsonl}" "medmcqa${LOCAL:+=$LOCAL/medmcqa_dev.json}")
  lora=(--lora 16 --gradient-checkpointing --micro-tokens 4096 --save-dtype bfloat16 --seed "$seed") cache=(--cache-gb 5) # 16 GB
  rl=(--questions 64 --group-size 8 --max-new-tokens 512 --lr 1e-5 "${lora[@]}" "${cache[@]}")
  stage kg_build python kg_build.py --source data/encyclopedia.xml # a graph of your own: put kg.sqlite into RUN
  stage synth python synth.py --questions 12000
  stage curate python curate.py --public "${exams[@]}" --benchmark "${tests[@]}" --heldout 500
  stage distill python distill.py --teacher "${teacher:-evidence}" --questions 2000 --seed "$seed"
  stage sft python sft.py --model "$model" --epochs 2 --batch-size 16 --lr 1e-4 "${lora[@]}"
  stage rl1 python grpo.py --stage 1 --steps 100 "${rl[@]}"
  stage rl2 python grpo.py --stage 2 --steps 100 --mine-budget 8000 "${rl[@]}"
  stage evaluate python evaluate.py --benchmark "${tests[@]}" heldout --score loglikelihood --model "Base (likeliest letter)=$model"
  stage evaluate python evaluate.py --benchmark "${tests[@]}" heldout --max-new-tokens 512 "${cache[@]}" --model "Base=$model" "${ladder[@]:1}" ;;
7b | 32b) # the same data
  nine=(careqa jmed medbullets medmcqa medqa medxpertqa pubmedqa mmlu_pro_biology mmlu_pro_health) # Table 3
  asked=("${nine[@]}" heldout heldout_public)
  stage kg_build python kg_build.py --source api --contact "$contact" --teacher "$teacher"
  stage synth python synth.py --teacher "$teacher"
  stage curate python curate.py --public medqa medmcqa cmexam pubmedqa --tiers "${nine[@]}" --teacher "$teacher" ${VERIFIER:+--verifier "$VERIFIER"}
  if [ $recipe = 7b ]; then
    stage distill python distill.py --teacher "$teacher" --tokenizer Qwen/Qwen2.5-7B-Instruct --seed "$seed"
    stage sft "${train[@]}" sft.py --model Qwen/Qwen2.5-7B-Instruct --seed "$seed"
    stage rl1 "${train[@]}" grpo.py --stage 1 --seed "$seed"
    stage rl2 "${train[@]}" grpo.py --stage 2 --seed "$seed"
    stage evaluate "${train[@]}" evaluate.py --benchmark "${asked[@]}" --model "Base=Qwen/Qwen2.5-7B-Instruct" "${ladder[@]:1}"
  else
    fit=(--gradient-checkpointing --micro-tokens 8192 --cpu-offload --cache-gb 5) # see: python grpo.py --plan ...
    stage rl1 "${train[@]}" grpo.py --stage 1 --model Qwen/Qwen3-32B --seed "$seed" "${fit[@]}"
    stage rl2 "${train[@]}" grpo.py --stage 2 --seed "$seed" "${fit[@]}"
    stage evaluate "${train[@]}" evaluate.py --cache-gb 5 --benchmark "${asked[@]}" --model "Base=Qwen/Qwen3-32B" "${ladder[@]:2}"
  fi ;;
esac
stage report python report.py
[[ ! $ablated || $ablated = rehearse ]] || python report.py --table "$baseline" "$run"
