#!/usr/bin/env bash
# Installs what onnxfold needs: Debian packages, CMake and Ninja (PyPI, pinned), and ONNX 1.23.2 C++ (PyPI source
# archive, hash pinned) built once into a cache outside the tree.
#   scripts/setup.sh          what the build needs
#   scripts/setup.sh --tests  and what the tests need (onnx, onnxruntime, numpy, clang-format in a private environment)
#   scripts/setup.sh --tools  and clang, clang-tidy and Google Benchmark: the preset clang, lint.sh --tidy, benchmarks/
# Prints nothing but progress; the paths it made are read back with `source scripts/env.sh`.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/env.sh

packages=(
  g++ libprotobuf-dev protobuf-compiler   # ONNX files
  libdnnl-dev libhwy-dev libeigen3-dev    # products and convolutions, SIMD, float64 linear algebra
  libboost-program-options-dev libexpected-dev libfmt-dev libyaml-cpp-dev nlohmann-json3-dev
  liblemon-dev                            # exact optimal transport (network simplex)
  libxxhash-dev libzip-dev zlib1g-dev libzstd-dev python3-venv
)
tests=; [[ ${1:-} == --tests || ${1:-} == --tools ]] && tests=yes
[[ $tests ]] && packages+=(libgtest-dev unzip)
[[ ${1:-} == --tools ]] && packages+=(clang clang-tidy libbenchmark-dev)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if ((${#missing[@]})); then
  echo "setup: installing ${missing[*]}"
  as_root=(); [[ $EUID -eq 0 ]] || as_root=(sudo)
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

mkdir -p "$ONNXFOLD_CACHE"
if [[ ! -e $ONNXFOLD_TOOLS/complete ]]; then
  echo "setup: CMake and Ninja"
  rm -rf "$ONNXFOLD_TOOLS"
  python3 -m venv "$ONNXFOLD_TOOLS"
  "$ONNXFOLD_TOOLS/bin/pip" install -q --disable-pip-version-check --require-hashes -r scripts/requirements-build.txt
  touch "$ONNXFOLD_TOOLS/complete"
fi

build_onnx() {
  local work; work=$(mktemp -d)
  trap 'rm -rf "$work"' RETURN
  "$ONNXFOLD_TOOLS/bin/pip" download -q --disable-pip-version-check --no-deps --no-binary onnx -d "$work" \
    --require-hashes -r scripts/requirements-onnx.txt
  tar xzf "$work"/onnx-*.tar.gz -C "$work" --strip-components=1
  cmake -S "$work" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_STANDARD=20 \
    -DONNX_BUILD_PYTHON=OFF -DONNX_ML=ON -DONNX_USE_PROTOBUF_SHARED_LIBS=ON \
    -DCMAKE_POSITION_INDEPENDENT_CODE=ON -DCMAKE_INSTALL_PREFIX="$ONNXFOLD_ONNX.partial" >"$work/log" 2>&1 &&
    cmake --build "$work/build" --target install >>"$work/log" 2>&1 || { tail -30 "$work/log" >&2; return 1; }
  mv "$ONNXFOLD_ONNX.partial" "$ONNXFOLD_ONNX"
}
if [[ ! -d $ONNXFOLD_ONNX ]]; then
  echo "setup: building ONNX 1.23.2 (3 to 5 minutes, once)"
  build_onnx
fi

if [[ $tests && ! -e $ONNXFOLD_TEST_VENV/complete ]]; then
  echo "setup: test environment"
  rm -rf "$ONNXFOLD_TEST_VENV"
  python3 -m venv "$ONNXFOLD_TEST_VENV"
  "$ONNXFOLD_TEST_VENV/bin/pip" install -q --disable-pip-version-check --require-hashes -r scripts/requirements-test.txt
  touch "$ONNXFOLD_TEST_VENV/complete"
fi
