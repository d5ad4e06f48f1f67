#include "tests/support/rewrite_test.h"
