// Requests drawn from the bytes of a fuzzer.
#ifndef QFA_FUZZ_REQUEST_H_
#define QFA_FUZZ_REQUEST_H_

#include <memory>
#include <vector>

#include "buffer.h"
#include "bytes.h"
#include "qfa/qfa.h"

namespace qfa::fuzz {

// A target: where its numbers lie in a buffer, to compare those of two runs.
struct Target {
  const Buffer* buffer;
  int64_t element_bytes;
  qfa_dtype dtype;
  bool is_number;  // compared as numbers, where any NaN equals any other; else byte by byte
};

// A valid request with all its memory. The same bytes always give the same one.
struct Request {
  qfa_attention attention;
  std::vector<std::unique_ptr<Buffer>> buffers;
  std::vector<Target> targets;
  bool is_repeatable = true;  // false: the contract leaves the result open

  explicit Request(Bytes& bytes);
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;
};

}  // namespace qfa::fuzz

#endif  // QFA_FUZZ_REQUEST_H_
