#include "passes/registry.h"
