#include "analysis/calibrate/dataset.h"
