// The number that a float32 constant stands for.
#pragma once

namespace onnxfold {

// Formulas are exported with their constants rounded to float32: 1.4142135 for the square root of 2. When `value` is
// the float32 nearest to a number that such formulas use, that number; otherwise `value` itself. The numbers: square
// and fourth roots of whole numbers up to 4096 and their reciprocals (GELU, scales of attention), sqrt(2/pi), 0.044715
// and their product (tanh GELU), 1/6 (HardSwish). What is returned always rounds to `value`.
double intended_number(float value);

}  // namespace onnxfold
