#include "passes/merge/augment.h"

#include <algorithm>
#include <utility>

namespace onnxfold {
namespace {

bool is_image(const Datum& datum) {
  return datum.is_array() && datum.array.rank() == 4 && is_float(datum.array.dtype()) &&
         datum.array.storage() == Storage::kFloat;
}

Datum moved(const Datum& image, std::int64_t down, std::int64_t right) {
  const Array& from = image.array;
  Array to(from.dtype(), from.dims(), Precision::kFloat32);
  const std::int64_t planes = from.dim(0) * from.dim(1), high = from.dim(2), wide = from.dim(3);
  const float* source = from.data<float>();
  float* target = to.mutable_data<float>();
  for (std::int64_t plane = 0; plane < planes; ++plane) {
    for (std::int64_t y = 0; y < high; ++y) {
      const std::int64_t row = std::clamp<std::int64_t>(y - down, 0, high - 1);
      for (std::int64_t x = 0; x < wide; ++x) {
        const std::int64_t column = std::clamp<std::int64_t>(x - right, 0, wide - 1);
        target[(plane * high + y) * wide + x] = source[(plane * high + row) * wide + column];
      }
    }
  }
  return to;
}

}  // namespace

bool has_images(const Dataset& data) {
  return std::any_of(data.batches.begin(), data.batches.end(), [](const Feeds& feeds) {
    return std::any_of(feeds.begin(), feeds.end(), [](const auto& feed) { return is_image(feed.second); });
  });
}

Result<Dataset> with_moved_images(const Dataset& data, int copies) {
  Dataset result{data.batches, {}, data.batch_sizes, data.origin + ", moved by one pixel"};
  bool images = false;
  for (std::size_t i = 0; i < data.batches.size(); ++i) {
    for (int copy = 1; copy < copies; ++copy) {
      const int turn = (static_cast<int>(i % 8) * (copies - 1) + copy - 1) % 8, move = turn + (turn >= 4 ? 1 : 0);
      const int down = move / 3 - 1, right = move % 3 - 1;
      Feeds feeds = data.batches[i];
      for (auto& [name, datum] : feeds) {
        if (!is_image(datum)) continue;
        datum = moved(datum, down, right);
        images = true;
      }
      result.batches.push_back(std::move(feeds));
      result.batch_sizes.push_back(data.batch_sizes[i]);
    }
  }
  if (!images && copies > 1) return fail(Code::kInvalidArgument, "augment=move needs an input of images [N, C, H, W]");
  return result;
}

}  // namespace onnxfold
