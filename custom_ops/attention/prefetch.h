// Asking for memory before it is read.
#ifndef QFA_ATTENTION_PREFETCH_H_
#define QFA_ATTENTION_PREFETCH_H_

#include <stdint.h>

#include "kernels/kernels.h"

namespace qfa {

// The bytes from a row to the one a block of keys behind it. Modulo 2^64: the stride of a tensor of
// one row may be any number.
inline uintptr_t block_ahead(int64_t row_stride, int64_t element_bytes) {
  return uintptr_t{kKeyBlock} * static_cast<uintptr_t>(row_stride) *
         static_cast<uintptr_t>(element_bytes);
}

// `ahead` bytes behind `start`, which may lie beyond the tensor: nothing is read there.
inline void prefetch(const void* start, uintptr_t ahead, int64_t bytes) {
  constexpr int64_t kLine = 64;
  // As a number, because a pointer must not leave its tensor.
  const uintptr_t first = reinterpret_cast<uintptr_t>(start) + ahead;
  for (int64_t byte = 0; byte < bytes; byte += kLine) {
    __builtin_prefetch(reinterpret_cast<const void*>(first + static_cast<uintptr_t>(byte)));
  }
}

}  // namespace qfa

#endif  // QFA_ATTENTION_PREFETCH_H_
