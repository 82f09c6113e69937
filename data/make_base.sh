#!/usr/bin/env bash
# Make the tiny recipe's base model again from the encyclopedia, into data/base (90 minutes):   bash data/make_base.sh
# Run it again and it resumes where it stopped. RUN=folder is read from the environment.
set -euo pipefail
cd "$(dirname "$0")/.."
source ./setup.sh
export HF_HUB_OFFLINE=1
run=${RUN:-runs/base}
pretrain=(python sft.py --run "$run" --batch-size 64 --warmup 0.03 --max-length 256 --micro-tokens 4096 --save-every 250)

python kg_build.py --run "$run" --source data/encyclopedia.xml --text "$run/prose.jsonl"
python synth.py --run "$run" --questions 8000 --no-long-paths --plain-wordings
python -m data.make_base --run "$run"
"${pretrain[@]}" --model "$run/init" --data lookups.jsonl --output lookups --steps 2500 --lr 2e-3
"${pretrain[@]}" --model "$run/lookups" --data facts.jsonl --output facts --steps 3000 --lr 1.5e-3
"${pretrain[@]}" --model "$run/facts" --data reading.jsonl --output reading --steps 1600 --lr 1e-3
"${pretrain[@]}" --model "$run/reading" --data subject.jsonl --output subject --steps 6500 --lr 1e-3
rm -rf data/base && cp -r "$run/subject" data/base
