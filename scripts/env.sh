# Where set-up puts what it made; sourced by the other scripts. Override ONNXFOLD_CACHE to move it.
export ONNXFOLD_CACHE=${ONNXFOLD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/onnxfold}
export ONNXFOLD_TOOLS=$ONNXFOLD_CACHE/tools-cmake3.31.6
export ONNXFOLD_ONNX=$ONNXFOLD_CACHE/onnx-1.23.2-gcc$(g++ -dumpversion 2>/dev/null || echo 12)
export ONNXFOLD_TEST_VENV=$ONNXFOLD_CACHE/tests-onnx1.23.2-ort1.32.0-format14.0.6
export PATH=$ONNXFOLD_TOOLS/bin:$PATH
