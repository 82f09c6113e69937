# Sourced by run.sh and tests/run.sh: a virtual environment in .venv, with `install FILE` for a requirements file.
# An environment that is active already is used as it is. Nothing is installed twice.
if [ -z "${VIRTUAL_ENV:-}" ]; then
  "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "error: ${PYTHON:-python3} is missing or older than Python 3.10; name another: PYTHON=python3.12 bash $0" >&2
    exit 1
  }
  [ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
  source .venv/bin/activate
fi

install() {
  local stamp="$VIRTUAL_ENV/.installed-$(cksum <"$1" | tr ' ' -)"
  [ -e "$stamp" ] && return
  python -m pip install --quiet --disable-pip-version-check -r "$1"
  touch "$stamp"
}
install requirements.txt
