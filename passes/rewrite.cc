#include "passes/rewrite.h"
