// Asking for memory before it is read.
#ifndef QFA_ATTENTION_PREFETCH_H_
#define QFA_ATTENTION_PREFETCH_H_

#include <stdint.h>

namespace qfa {

// `ahead` bytes behind `start`, which may lie beyond the tensor: nothing is read there.
inline void prefetch(const void* start, int64_t ahead, int64_t bytes) {
  constexpr int64_t kLine = 64;
  // As a number, because a pointer must not leave its tensor.
  const uintptr_t first = reinterpret_cast<uintptr_t>(start) + static_cast<uintptr_t>(ahead);
  for (int64_t byte = 0; byte < bytes; byte += kLine) {
    __builtin_prefetch(reinterpret_cast<const void*>(first + static_cast<uintptr_t>(byte)));
  }
}

}  // namespace qfa

#endif  // QFA_ATTENTION_PREFETCH_H_
