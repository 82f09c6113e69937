#!/usr/bin/env bash
# Everything that only a GPU can show, in one call: bash bench/gpu.sh [FOLDER], with the packages of tests/run.sh.
# FOLDER keeps what was printed; a part that fails does not keep the others from running.
cd "$(dirname "$0")/.."
folder=${1:-runs/gpu}
mkdir -p "$folder"
failed=0
part() { # NAME COMMAND...
  echo "== $1 =="
  "${@:2}" 2>&1 | tee "$folder/$1.txt"
  [ "${PIPESTATUS[0]}" = 0 ] || failed=1
}
part tests env GPU_TESTS=1 python3 -m pytest -q tests/test_gpu.py tests/test_decode.py tests/test_top_p.py
part grpo python3 -m bench.grpo_step --device cuda
part sampler python3 -m bench.sampler --device cuda
exit $failed
