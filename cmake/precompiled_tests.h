// As precompiled.h, for the test binaries.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <random>
#include <sstream>

#include "cmake/precompiled.h"
#include "ir/model.h"
