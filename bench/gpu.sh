#!/usr/bin/env bash
# Everything that only a GPU can show, within nine minutes: bash bench/gpu.sh FOLDER [PART ...]; see bench/gpu.py --help.
cd "$(dirname "$0")/.." && exec "${PYTHON:-python3}" -m bench.gpu "$@"
