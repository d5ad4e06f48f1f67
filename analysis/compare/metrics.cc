#include "analysis/compare/metrics.h"
