#!/usr/bin/env bash
# Builds in place without network, tests on the GPU, and measures: most valuable first, each row written as it comes.
#   benchmarks/gpu.sh [--minutes 8] [--no-tests] [--dry-run]
# Rows go to gpu.csv in $OUT, or in benchmarks/results. --dry-run takes small sizes and no GPU.
set -u
minutes=8 tests=yes dry=()
while [ $# -gt 0 ]; do
    case $1 in
        --minutes) minutes=$2 && shift ;;
        --no-tests) tests=no ;;
        --dry-run) dry=(--dry-run) ;;
        *) echo "usage: benchmarks/gpu.sh [--minutes 8] [--no-tests] [--dry-run]" >&2 && exit 2 ;;
    esac
    shift
done
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
out=${OUT:-benchmarks/results}
began=$(date +%s)
until=$((began + minutes * 60))
# What is in this folder, not what is installed.
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
if [ ${#dry[@]} -gt 0 ]; then
    export TRITON_INTERPRET=1
fi
mkdir -p "$out"
wrong=0

say() {
    echo "== $(($(date +%s) - began)) s: $*"
}

section() {
    say "$1"
    # What was begun in time may take a little longer; its rows are there all the same.
    local left=$((until - $(date +%s) + 30))
    timeout $((left > 30 ? left : 30)) "$python" -m benchmarks.run gpu --section "$1" --until "$until" --out "$out" "${dry[@]}" || wrong=1
}

say "build"
# Where it is built and what builds it is not there, it is taken as it is.
"$python" setup.py -q build_ext --inplace || "$python" -c "import lmc_fast._native" || exit 1
if [ ${#dry[@]} -eq 0 ]; then
    nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem --format=csv,noheader || true
    # Kernels are compiled side by side, for what measures to find them.
    warmers=()
    for share in 0 1 2 3 4 5 6 7; do
        timeout 150 "$python" -m benchmarks.run gpu --section warm --share "$share/8" >/dev/null 2>&1 &
        warmers+=($!)
    done
    if [ $tests = yes ]; then
        say "tests"
        workers=()
        "$python" -c "import xdist" 2>/dev/null && workers=(-n 6)
        "$python" -m pytest -m gpu --require-gpu --slow -p no:cacheprovider "${workers[@]}" 2>&1 | tail -n 30
        [ "${PIPESTATUS[0]}" -eq 0 ] || wrong=1
    fi
    wait "${warmers[@]}"
fi
section kernels
section variants
section matchings
section goals
say "done"
exit $wrong
