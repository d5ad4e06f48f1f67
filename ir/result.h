// Result<T> and Error: how every floor reports failure.
//
// Nothing below cli/ prints, exits or throws: a function that can fail returns Result<T> (or Status, when there is no
// value). Exceptions of libraries stop at one wrapper function per library.
#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace onnxfold {

// What went wrong, as coarse as a caller can act on. cli/ maps these to exit codes.
enum class Code {
  kInvalidArgument,  // an option, recipe or data file asks for something impossible (exit 2)
  kUnsupported,      // a legal input that we do not handle (exit 3)
  kCorrupt,          // a file that breaks its own format (exit 3)
  kIo,               // a file could not be read or written (exit 4)
  kResource,         // out of the memory budget (exit 5)
  kGate,             // a check or accuracy gate failed (exit 1)
  kInternal,         // a bug of ours (exit 70)
};

struct Error {
  Code code = Code::kInternal;
  std::string message;

  // The same error with one more phrase of context in front: "quantize: node \"fc1\": <message>".
  [[nodiscard]] Error in(std::string_view context) const& { return Error{code, std::string(context) + ": " + message}; }
};

template <typename T>
using Result = tl::expected<T, Error>;
using Status = Result<void>;

// Builds the failing side of a Result: `return fail(Code::kCorrupt, "...")`.
inline tl::unexpected<Error> fail(Code code, std::string message) {
  return tl::unexpected<Error>(Error{code, std::move(message)});
}
inline tl::unexpected<Error> fail(Error error) { return tl::unexpected<Error>(std::move(error)); }

}  // namespace onnxfold

#define ONNXFOLD_CONCAT_(a, b) a##b
#define ONNXFOLD_CONCAT(a, b) ONNXFOLD_CONCAT_(a, b)

// OF_TRY(status_expression): returns the error, if any, from the enclosing function.
#define OF_TRY(expression)                                                                                   \
  do {                                                                                                       \
    if (auto of_status_ = (expression); !of_status_) return ::onnxfold::fail(std::move(of_status_).error()); \
  } while (false)

// OF_ASSIGN(auto x, result_expression): unwraps the value or returns the error from the enclosing function.
#define OF_ASSIGN(declaration, expression) OF_ASSIGN_(declaration, expression, ONNXFOLD_CONCAT(of_result_, __LINE__))
#define OF_ASSIGN_(declaration, expression, temporary)                   \
  auto temporary = (expression);                                         \
  if (!temporary) return ::onnxfold::fail(std::move(temporary).error()); \
  declaration = std::move(*temporary)
