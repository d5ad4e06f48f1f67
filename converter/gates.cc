#include "converter/gates.h"
