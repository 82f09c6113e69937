# Sourced by run.sh and tests/run.sh: a virtual environment in .venv, with `install FILE` for a requirements file.
# An environment that is active already is used as it is. Nothing is installed twice.
if [ -z "${VIRTUAL_ENV:-}" ]; then
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
