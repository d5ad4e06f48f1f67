#!/usr/bin/env bash
# clang-format over every source file; with --tidy [BASE_COMMIT] also clang-tidy over all files, or those that differ from a
# commit (needs a configured release build for its compile commands, and `scripts/setup.sh --tools`).
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/env.sh
[[ -e $ONNXFOLD_TEST_VENV/complete ]] || scripts/setup.sh --tests
PATH=$ONNXFOLD_TEST_VENV/bin:$PATH
mapfile -t files < <(git ls-files '*.cc' '*.h')
printf '%s\n' "${files[@]}" | xargs -P "$(nproc)" -n 100 clang-format --dry-run --Werror
[[ ${1:-} == --tidy ]] || exit 0
mapfile -t changed < <(if [[ -n ${2:-} ]]; then git diff --name-only --diff-filter=d "$2" -- '*.cc'; else git ls-files '*.cc'; fi)
((${#changed[@]})) || exit 0
printf '%s\n' "${changed[@]}" | xargs -P "$(nproc)" -n 4 clang-tidy -p build/release --quiet --extra-arg=-Wno-unknown-warning-option
