#!/usr/bin/env bash
# clang-format over every source file; with --tidy [BASE_COMMIT] also clang-tidy over all files, or those that differ from a
# commit (needs a configured release build for its compile commands).
set -euo pipefail
cd "$(dirname "$0")/.."
mapfile -t files < <(git ls-files '*.cc' '*.h')
clang-format --dry-run --Werror "${files[@]}"
[[ ${1:-} == --tidy ]] || exit 0
mapfile -t changed < <(if [[ -n ${2:-} ]]; then git diff --name-only --diff-filter=d "$2" -- '*.cc'; else git ls-files '*.cc'; fi)
((${#changed[@]})) || exit 0
printf '%s\n' "${changed[@]}" | xargs -P "$(nproc)" -n 4 clang-tidy -p build/release --quiet --extra-arg=-Wno-unknown-warning-option
