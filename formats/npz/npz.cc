#include "formats/npz/npz.h"
