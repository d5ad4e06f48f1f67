#!/usr/bin/env bash
# Sets up, builds, and runs the main job on a sample: a vision transformer to 4 bits, checked on 1,000 images.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
source scripts/env.sh
log=$(mktemp)
trap 'rm -f "$log"' EXIT
cmake --preset release -DONNXFOLD_TESTS=OFF -Wno-dev >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
cmake --build --preset release --target onnxfold
mkdir -p out
build/release/cli/onnxfold compress samples/vit_a.onnx -o out/vit_a-int4.onnx --recipe int4 \
  --data samples/digits_test.npz --force
