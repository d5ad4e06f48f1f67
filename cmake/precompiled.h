// The headers that nearly every source parses, precompiled by onnxfold_precompile (cmake/onnxfold.cmake). Nothing
// includes this file, and sources still include what they use: builds with ccache compile without it.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <tl/expected.hpp>
#include <unordered_map>
#include <variant>
#include <vector>
