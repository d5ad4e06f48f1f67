#include "exec/array.h"
