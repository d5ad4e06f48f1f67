#!/bin/sh
# Runs a Python test, or says "skipped" (77) when no interpreter is set up.
[ -n "$ONNXFOLD_TEST_PYTHON" ] || exit 77
exec "$ONNXFOLD_TEST_PYTHON" "$@"
