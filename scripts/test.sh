#!/usr/bin/env bash
# Sets up what the tests need, builds, and runs every test.
#   scripts/test.sh             the release build, all tests
#   scripts/test.sh PRESET      another preset of CMakePresets.json (asan-ubsan, clang)
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:-release}
scripts/setup.sh --tests
source scripts/env.sh

# The ONNX test data: the package's own models, and every backend node case written out once.
export ONNXFOLD_TEST_PYTHON=$ONNXFOLD_TEST_VENV/bin/python
export ONNXFOLD_TEST_DATA=$ONNXFOLD_CACHE/test-data-onnx1.23.2
if [[ ! -e $ONNXFOLD_TEST_DATA/complete ]]; then
  rm -rf "$ONNXFOLD_TEST_DATA" && mkdir -p "$ONNXFOLD_TEST_DATA"
  package=$("$ONNXFOLD_TEST_PYTHON" -c 'import onnx, pathlib; print(pathlib.Path(onnx.__file__).parent)')
  ln -s "$package/backend/test/data" "$ONNXFOLD_TEST_DATA/onnx-package"
  "$ONNXFOLD_TEST_PYTHON" scripts/dump_node_tests.py "$ONNXFOLD_TEST_DATA/node"
  touch "$ONNXFOLD_TEST_DATA/complete"
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
cmake --preset "$preset" -DONNXFOLD_TESTS=ON -Wno-dev >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
cmake --build --preset "$preset"
ctest --test-dir "build/$preset" --output-on-failure -j "$(nproc)"
