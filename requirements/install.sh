#!/bin/bash
# `requirements/install.sh VENV/bin/python [options of pip install]`: makes the environment if there is none, then runs
# pip without its output. On a terminal, one line says each second what happens, because a large package is downloaded
# and written for minutes in silence.
set -u
python=$1; shift
pip=("$python" -m pip --disable-pip-version-check install)
make_environment=("${PYTHON:-python3}" -m venv "$(dirname "$(dirname "$python")")")

if [ ! -t 1 ]; then
  [ -x "$python" ] || "${make_environment[@]}" || exit
  exec "${pip[@]}" --quiet "$@"
fi

log=$(mktemp)
job=
trap 'kill $job 2>/dev/null; rm -f "$log"' EXIT
trap 'exit 130' INT TERM

step() {
  local line
  line=$(grep -E '^(Collecting|Looking|  Downloading|Installing|Obtaining|Building|Processing)' "$log" | tail -n 1)
  case $line in
    '') echo "starting" ;;
    Installing*) echo "writing packages, $(find "$packages" -maxdepth 1 -name '*.dist-info' | wc -l) so far" ;;
    *) sed -E 's/^ +//; s/ \(from .*//; s#file://[^ ]*/##' <<<"${line:0:90}" ;;
  esac
}

# Run a command, say what it does while it runs, and leave with its output if it fails.
follow() {
  "$@" >"$log" 2>&1 &
  job=$!
  while kill -0 "$job" 2>/dev/null; do
    printf '\r\033[K  %d s  %s' "$SECONDS" "$(step)"
    sleep 1
  done
  wait "$job"
  local code=$?
  printf '\r\033[K'
  [ "$code" -eq 0 ] || { tail -n 20 "$log" >&2; exit "$code"; }
}

[ -x "$python" ] || follow "${make_environment[@]}"
packages=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
follow "${pip[@]}" --progress-bar off "$@"
