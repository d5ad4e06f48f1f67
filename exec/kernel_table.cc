#include "exec/kernel.h"
