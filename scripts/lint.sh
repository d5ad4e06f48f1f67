#!/usr/bin/env bash
# clang-format over every source file, and clang-tidy over the ones that differ from a commit (default: all).
#   scripts/lint.sh [BASE_COMMIT]      needs a configured release build for its compile commands
set -euo pipefail
cd "$(dirname "$0")/.."
mapfile -t files < <(git ls-files '*.cc' '*.h')
clang-format --dry-run --Werror "${files[@]}"
if [[ -n ${1:-} ]]; then
  mapfile -t changed < <(git diff --name-only --diff-filter=d "$1" -- '*.cc')
else
  mapfile -t changed < <(git ls-files '*.cc')
fi
((${#changed[@]})) || exit 0
printf '%s\n' "${changed[@]}" | xargs -P "$(nproc)" -n 4 clang-tidy -p build/release --quiet
