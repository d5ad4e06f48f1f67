#include "converter/recipe.h"
