#!/usr/bin/env bash
# The whole method, from an encyclopedia to the ablation table (Table 4):   bash run.sh [tiny | 7b | 32b | base]
#   tiny   a laptop's CPU, 15 minutes, no network after the installation (default)
#   7b     the paper's full recipe: Qwen2.5-7B-Instruct, live Wikipedia, teacher LLM, 8 GPUs
#   32b    the paper's recipe without cold start: Qwen3-32B
#   base   make the tiny recipe's base model again from the encyclopedia, into data/base (90 minutes)
# Run it again and it continues where it stopped. RUN=folder SEED=0 GPUS=8 are read from the environment.
#
# An ablation, beside a finished run (BASELINE=runs/tiny):   bash run.sh tiny STAGE [arguments for this stage ...]
#   bash run.sh tiny rl1 --with-std    the stages before STAGE are shared, STAGE and those behind it run again
#   bash run.sh tiny rl1               the same without arguments, after you have changed the code
set -euo pipefail
cd "$(dirname "$0")"
fail() {
  echo "run.sh: error: $1" >&2
  exit 1
}

case ${1:-tiny} in
tiny | 7b | 32b | base) ;;
-h | --help) sed -n '2,/^set/{s/^# \{0,1\}//p;}' run.sh && exit ;;
*) fail "unknown recipe '$1'; known: tiny, 7b, 32b, base (see bash run.sh --help)" ;;
esac
words=("$0" "$@") recipe=${1:-tiny} ablated=${2:-} seed=${SEED:-0}
baseline=${BASELINE:-runs/$recipe}
run=${RUN:-$baseline${ablated:+-$(sed 's/ --/--/g; s/[ /]/-/g' <<<"${*:2}")}} # e.g. runs/tiny-rl1--with-std
train="torchrun --nproc_per_node ${GPUS:-8} --" # without the --, torchrun takes --run for an option of its own
ladder=("Base=base" "+CoT cold start=sft" "+RL stage 1=rl1" "+RL stage 2=rl2")
nine="careqa jmed medbullets medmcqa medqa medxpertqa pubmedqa mmlu_pro_biology mmlu_pro_health" # Table 3
made="kg_build kg.sqlite
synth synth.jsonl
curate train.jsonl heldout.jsonl
distill cot.jsonl
sft sft
rl1 rl1
rl2 rl2"

stage() { # NAME COMMAND: announce the stage and run it, with the rest of the command line if it is the ablated one
  echo "== $1 =="
  [ "$1" != "$ablated" ] || set -- "$@" "${words[@]:3}"
  local status=0
  "${@:2}" & # in the background: only then a request to stop (Ctrl-C, SIGTERM) can be handed on while it runs
  trap "kill -TERM $! 2>/dev/null" INT TERM
  wait $! || status=$?
  while kill -0 $! 2>/dev/null; do wait $! || status=$?; done # it saves
  trap - INT TERM
  [ $status -lt 128 ] || fail "stage $1 was stopped by signal $((status - 128)); the same command continues"
  return $status
}

link() { cp -al "$1" "$2" 2>/dev/null || cp -a "$1" "$2"; } # hard links where cp knows them: macOS copies

check_flags() { # FLAG...: let the ablated stage read its arguments, and no more, before a folder is made for it
  case $ablated in
  rl?) set -- grpo --stage "${ablated#rl}" "$@" ;;
  *) set -- "$ablated" "$@" ;;
  esac
  python -c "import sys, tools.cli as cli, $1 as it; sys.argv[0] = it.__file__; cli.run_stage(it.parse_args)" "${@:2}"
}

fork() { # into the ablation's run directory: what the stages before made, as hard links, its metrics and evaluation
  [ -e "$baseline/report.html" ] || fail "$baseline is no finished run; finish it (bash run.sh $recipe) or set BASELINE"
  local output=$(awk -v stage="$ablated" '$1 == stage { print $2 }' <<<"$made") name files file model label
  [ -n "$output" ] && [ -e "$baseline/$output" ] ||
    fail "unknown stage '$ablated' of $recipe; known: $(cut -d' ' -f1 <<<"$made" | xargs)"
  check_flags "${words[@]:3}"
  rm -rf "$run.partial" && mkdir -p "$run.partial"
  while read -r name files && [ "$name" != "$ablated" ]; do
    for file in $files; do [ ! -e "$baseline/$file" ] || link "$baseline/$file" "$run.partial"; done
    grep "^{\"stage\": \"$name\"" "$baseline/metrics.jsonl" >>"$run.partial/metrics.jsonl" || true
  done <<<"$made"
  for model in "${ladder[@]}"; do
    label=${model%%=*}
    [ -e "$run.partial/heldout.jsonl" ] && [[ $label = Base || -e $run.partial/${model#*=} ]] || continue
    for file in "$baseline"/eval/*/"$label".json*; do
      [ -e "$file" ] || continue
      mkdir -p "$run.partial/eval/$(basename "$(dirname "$file")")"
      link "$file" "$run.partial/${file#"$baseline/"}"
    done
    grep "^{\"stage\": \"evaluate\".*\"model\": \"$label\"" "$baseline/metrics.jsonl" >>"$run.partial/metrics.jsonl" || true
  done
  for file in teacher_cache.jsonl decisions.jsonl; do # what was paid for, and what a person decided: appended to
    [ ! -e "$baseline/$file" ] || cp "$baseline/$file" "$run.partial"
  done
  mv "$run.partial" "$run"
}
if [ "$recipe" = 7b ] || [ "$recipe" = 32b ]; then
  [ "${CONTACT:-}" ] || fail "CONTACT is not set: Wikipedia asks for an address (export CONTACT=you@example.org)"
  [ "${TEACHER:-}" ] || fail "TEACHER is not set: name a language model (export TEACHER=openai:openai/gpt-oss-120b)"
fi

source ./setup.sh
[ -z "$ablated" ] || [ -d "$run" ] || fork
# glibc gives every freed tensor back to the kernel and asks for it again; on a CPU that costs a fifth of the time.
export MALLOC_MMAP_THRESHOLD_=10000000000 MALLOC_TRIM_THRESHOLD_=10000000000 MALLOC_TOP_PAD_=100000000

case $recipe in
tiny)
  export HF_HUB_OFFLINE=1
  rl="--run $run --seed $seed --questions 64 --group-size 8 --max-new-tokens 80 --lr 3e-4 --lr-decay 0.9 --share-prompts --micro-tokens 8192"
  stage kg_build python kg_build.py --run "$run" --source data/encyclopedia.xml
  stage synth python synth.py --run "$run" --questions 12000 --no-long-paths --plain-wordings
  stage curate python curate.py --run "$run" --heldout 500
  stage distill python distill.py --run "$run" --teacher evidence --questions 1200 --seed "$seed"
  stage sft python sft.py --run "$run" --model data/base --seed "$seed" --epochs 1 --batch-size 8 --lr 1e-3 --micro-tokens 4096 --save-every 25
  stage rl1 python grpo.py --stage 1 --steps 110 --cache-gb 0.5 $rl
  stage rl2 python grpo.py --stage 2 --steps 96 --cache-gb 0.5 --round-steps 32 --mine-samples 2 --group-growth 2 $rl
  stage evaluate python evaluate.py --run "$run" --max-new-tokens 80 --cache-gb 0.5 --model "Base=data/base" "${ladder[@]:1}"
  stage report python report.py --run "$run"
  ;;
7b)
  stage kg_build python kg_build.py --run "$run" --source api --contact "$CONTACT"
  stage synth python synth.py --run "$run" --teacher "$TEACHER"
  stage curate python curate.py --run "$run" --public medqa medmcqa cmexam pubmedqa --teacher "$TEACHER"
  stage distill python distill.py --run "$run" --teacher "$TEACHER" --tokenizer Qwen/Qwen2.5-7B-Instruct
  stage sft $train sft.py --run "$run" --model Qwen/Qwen2.5-7B-Instruct
  stage rl1 $train grpo.py --run "$run" --stage 1
  stage rl2 $train grpo.py --run "$run" --stage 2
  stage evaluate $train evaluate.py --run "$run" --benchmark $nine --model "Base=Qwen/Qwen2.5-7B-Instruct" "${ladder[@]:1}"
  stage report python report.py --run "$run"
  ;;
32b)
  fit="--gradient-checkpointing --micro-tokens 8192 --cpu-offload --cache-gb 5" # see: python grpo.py --plan ...
  stage kg_build python kg_build.py --run "$run" --source api --contact "$CONTACT"
  stage synth python synth.py --run "$run" --teacher "$TEACHER"
  stage curate python curate.py --run "$run" --public medqa medmcqa cmexam pubmedqa --teacher "$TEACHER"
  stage rl1 $train grpo.py --run "$run" --stage 1 --model Qwen/Qwen3-32B $fit
  stage rl2 $train grpo.py --run "$run" --stage 2 $fit
  stage evaluate $train evaluate.py --run "$run" --benchmark $nine --model "Base=Qwen/Qwen3-32B" "${ladder[@]:2}" --cache-gb 5
  stage report python report.py --run "$run"
  ;;
base)
  export HF_HUB_OFFLINE=1
  pretrain="--run $run --batch-size 64 --warmup 0.03 --max-length 256 --micro-tokens 4096 --save-every 250"
  stage kg_build python kg_build.py --run "$run" --source data/encyclopedia.xml --text "$run/prose.jsonl"
  stage synth python synth.py --run "$run" --questions 8000 --no-long-paths --plain-wordings
  stage make_base python -m data.make_base --run "$run"
  stage lookups python sft.py $pretrain --model "$run/init" --data lookups.jsonl --output lookups --steps 2500 --lr 2e-3
  stage facts python sft.py $pretrain --model "$run/lookups" --data facts.jsonl --output facts --steps 3000 --lr 1.5e-3
  stage reading python sft.py $pretrain --model "$run/facts" --data reading.jsonl --output reading --steps 1600 --lr 1e-3
  stage subject python sft.py $pretrain --model "$run/reading" --data subject.jsonl --output subject --steps 6500 --lr 1e-3
  rm -rf data/base && cp -r "$run/subject" data/base
  ;;
esac
[ -z "$ablated" ] || stage compare python evaluate.py --table "$baseline" "$run"
