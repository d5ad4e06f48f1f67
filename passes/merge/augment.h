// More calibration data out of little: images moved by a pixel.
#pragma once

#include "analysis/calibrate/dataset.h"
#include "ir/result.h"

namespace onnxfold {

// Is there an input of images [N, C, H, W]?
bool has_images(const Dataset& data);

// Every batch `copies` times, 1 to 9: floating inputs [N, C, H, W] as they are and moved by one pixel, what the border
// uncovers repeated from it; nine copies go in all eight directions, of fewer each batch has others in turn. The
// unmoved batches come first. No labels are kept. Errors: invalid_argument, when no input is an image.
Result<Dataset> with_moved_images(const Dataset& data, int copies = 9);

}  // namespace onnxfold
