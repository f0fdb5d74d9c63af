// Asks the memory for the block of rows after the one that is worked on, line by line in the order
// of addresses. What hides memory is a steady trickle of requests: those for a block at once would
// wait for each other, and processors by themselves do not look far enough.
#ifndef QFA_KERNELS_X86_FEW_AHEAD_H_
#define QFA_KERNELS_X86_FEW_AHEAD_H_

#include <immintrin.h>

#include "kernels/kernels.h"

#define QFA_INLINE inline __attribute__((always_inline))

namespace qfa {
namespace {

constexpr int64_t kLine = 64;

// Rows of `width` bytes, a multiple of 64, `stride` bytes apart.
class RowsAhead {
 public:
  RowsAhead(const int8_t* rows, int64_t stride, int64_t width)
      : row_(rows + kKeyBlock * stride), stride_(stride), width_(width) {}

  template <int lines>
  QFA_INLINE void fetch() {
#pragma GCC unroll 8
    for (int i = 0; i < lines; ++i) {
      _mm_prefetch(reinterpret_cast<const char*>(row_ + column_), _MM_HINT_T0);
      column_ += kLine;
      if (column_ == width_) {
        row_ += stride_;
        column_ = 0;
      }
    }
  }

 private:
  const int8_t* row_;
  int64_t stride_, width_, column_ = 0;
};

// Rows of `width` floats without gaps.
class FloatsAhead {
 public:
  FloatsAhead(const float* rows, int64_t width)
      : next_(reinterpret_cast<const char*>(rows + kKeyBlock * width)) {}

  template <int lines>
  QFA_INLINE void fetch() {
#pragma GCC unroll 16
    for (int i = 0; i < lines; ++i, next_ += kLine) _mm_prefetch(next_, _MM_HINT_T0);
  }

 private:
  const char* next_;
};

}  // namespace
}  // namespace qfa

#endif  // QFA_KERNELS_X86_FEW_AHEAD_H_
