#include <gmock/gmock.h>

#include <fstream>

#include "tests/cli/program.h"
#include "tests/support/paths.h"

namespace onnxfold::test::pack_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// A product whose weight is large enough for a file of its own.
std::string weighted() {
  std::string numbers = "0";
  for (int i = 1; i < 512; ++i) numbers += ", " + std::to_string(i % 7);
  return "<ir_version: 8, opset_import: [\"\" : 17]> g (float[1, 16] x) => (float[1, 32] y) <float[16, 32] w = {" +
         numbers + "}> { y = MatMul(x, w) }";
}

TEST(Pack, AModelAndItsExternalDataComeBack) {
  const std::string folder = temp_dir();
  const std::string in = write_model(folder, "in.onnx", weighted()), model = folder + "/m.onnx";
  ASSERT_EQ(run_program({"convert", in, "-o", model, "--external"}).code, 0);
  const std::string packed = folder + "/m.onnxz";
  const Outcome outcome = run_program({"pack", model, "-o", packed});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("files       m.onnx, m.onnx.data"));
  const std::string before = read_file(model), data = read_file(model + ".data");
  EXPECT_EQ(run_program({"unpack", packed, "-o", model}).code, 2);  // it exists
  const std::string other = temp_dir();
  EXPECT_EQ(run_program({"unpack", packed, "-o", other + "/n.onnx"}).code, 0);
  EXPECT_THAT(files_in(other), ElementsAre("m.onnx.data", "n.onnx"));
  EXPECT_EQ(read_file(other + "/n.onnx"), before);
  EXPECT_EQ(read_file(other + "/m.onnx.data"), data);
  EXPECT_EQ(run_program({"inspect", other + "/n.onnx"}).code, 0);
}

TEST(Pack, WhatIsNoModelIsRefused) {
  const std::string folder = temp_dir();
  std::ofstream(folder + "/junk") << "junk";
  EXPECT_EQ(run_program({"pack", folder + "/junk", "-o", folder + "/p"}).code, 3);
  const Outcome outcome = run_program({"unpack", folder + "/junk", "-o", folder + "/m.onnx"});
  EXPECT_EQ(outcome.code, 3);
  EXPECT_THAT(outcome.err, HasSubstr("no packed model"));
  EXPECT_EQ(run_program({"unpack", folder + "/nowhere", "-o", folder + "/m.onnx"}).code, 4);
  EXPECT_EQ(run_program({"pack", folder + "/junk"}).code, 2);
  EXPECT_THAT(files_in(folder), ElementsAre("junk"));
}

}  // namespace
}  // namespace onnxfold::test::pack_test
