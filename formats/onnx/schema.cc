#include "formats/onnx/schema.h"
