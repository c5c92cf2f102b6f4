#!/usr/bin/env bash
# Everything that is owed on an NVIDIA GPU, the most valuable first; about 25 minutes for all parts.
#
#     bash benchmarks/gpu.sh                      all parts
#     bash benchmarks/gpu.sh check layer          these parts, in this order
#
# OUT           folder for rows, logs and the tuned launch settings (default: benchmarks/results)
# WHEELS        folder of wheels for packages that this machine lacks, such as peft 0.21.2 (optional)
# BENCH_COMMIT  the commit, where the tree came without its history (optional)
# PYTHON        default: python3
set -uo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-benchmarks/results}
python=${PYTHON:-python3}
mkdir -p "$out"
export PYTHONPATH="$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

if [ -n "${WHEELS:-}" ]; then
  site=$(mktemp -d)
  "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl || exit 1
  export PYTHONPATH="$site:$PYTHONPATH"
fi
"$python" -c 'import peft, torch, transformers, triton
print(torch.cuda.get_device_name(), "torch", torch.__version__, "triton", triton.__version__,
      "peft", peft.__version__, "transformers", transformers.__version__)' || exit 1

failed=()
part() { # name, most seconds, command ...
  local name=$1 limit=$2
  shift 2
  echo "== $name: $*"
  timeout "$limit" "$@" 2>&1 | tee "$out/$name.log" || failed+=("$name")
}
ask() { # question, seconds for its rounds, most seconds
  part "$1" "$3" "$python" benchmarks/run.py "$1" --device cuda --seconds "$2" --out "$out/cuda.jsonl"
}

[ $# -gt 0 ] || set -- check tune layer train_step memory decode quantized_step enable compile
for name in "$@"; do
  case $name in
    check) part check 180 "$python" benchmarks/check.py --device cuda ;;
    tune)
      part tune 240 "$python" benchmarks/tune_kernels.py --write
      cp src/doratune/ops/launch_table.py "$out/" # what the rows after it ran with
      ;;
    layer) ask layer 75 360 ;;
    train_step) ask train_step 120 420 ;;
    memory) ask memory 0 180 ;;
    decode) ask decode 20 120 ;;
    quantized_step) ask quantized_step 30 150 ;;
    enable) ask enable 10 60 ;;
    compile) ask compile 20 180 ;;
    *) echo "no part $name"; exit 2 ;;
  esac
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "not complete: ${failed[*]}"
  exit 1
fi
