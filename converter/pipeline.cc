#include "converter/pipeline.h"
