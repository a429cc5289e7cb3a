# Sourced by cpu.sh and gpu.sh: `run SCRIPT ARGUMENTS` measures one benchmark, while there is time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
results="${RESULTS:-results/benchmarks.csv}"
failed=0

# A row ends after $limit seconds, and with all of them, after $total (0: none).
run() {
  local seconds="$limit"
  if [ "$total" -gt 0 ]; then
    local left=$((total - SECONDS))
    if [ "$left" -le 0 ]; then
      echo "no time left for: $*" >&2
      return
    fi
    seconds=$((left < seconds ? left : seconds))
  fi
  timeout "$seconds" python "benchmarks/$1" --results "$results" "${@:2}" || {
    local code=$?
    if [ "$code" -eq 124 ]; then echo "no end within $seconds s: $*" >&2; else echo "failed: $*" >&2; fi
    failed=1
  }
}

table() {
  python benchmarks/table.py "$results"
  exit "$failed"
}
