#!/usr/bin/env bash
# The test command: installs what the tests need into .venv, then formatting, linting, tests.
set -euo pipefail
cd "$(dirname "$0")/.."
source ./setup.sh
install tests/requirements.txt

ruff format --check .
ruff check .
pytest -q -n 2 --dist loadfile --no-loadscope-reorder "$@"
