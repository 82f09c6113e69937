#!/usr/bin/env bash
# The test command: installs what the tests need into .venv, then formatting, linting, tests.
set -euo pipefail
cd "$(dirname "$0")/.."
source ./setup.sh
install tests/requirements.txt

ruff format --check .
ruff check .
# One worker more than two cores: some tests wait, for a process that is killed or a clock that runs out.
pytest -q -n 3 --dist loadfile --no-loadscope-reorder "$@"
