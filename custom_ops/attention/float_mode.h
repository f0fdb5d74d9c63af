// The floating-point mode of all kernels, for the length of a scope: round to nearest, no traps.
// The host's thread may have set another mode; results must not depend on it, and it gets it back.
//
// On x86-64 results that are below 2^-126 become zero, so that a weight that is scaled down to
// there needs no comparison of its own, and is never slow. Operands below 2^-126 are taken as they
// are. On processors without a mode that is known here it does nothing.
#ifndef QFA_ATTENTION_FLOAT_MODE_H_
#define QFA_ATTENTION_FLOAT_MODE_H_

#include <stdint.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace qfa {

class [[maybe_unused]] FloatMode {
 public:
#if defined(__x86_64__)
  FloatMode() : saved_(_mm_getcsr()) { _mm_setcsr(kDefault | kFlushToZero); }
  ~FloatMode() { _mm_setcsr(saved_); }
#elif defined(__aarch64__)
  FloatMode() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved_));
    __asm__ volatile("msr fpcr, %0" : : "r"(uint64_t{0}));
  }
  ~FloatMode() { __asm__ volatile("msr fpcr, %0" : : "r"(saved_)); }
#else
  FloatMode() = default;
  ~FloatMode() = default;
#endif
  FloatMode(const FloatMode&) = delete;
  FloatMode& operator=(const FloatMode&) = delete;

 private:
#if defined(__x86_64__)
  static constexpr unsigned kDefault = 0x1f80, kFlushToZero = 0x8000;
  unsigned saved_;
#elif defined(__aarch64__)
  uint64_t saved_;
#endif
};

}  // namespace qfa

#endif  // QFA_ATTENTION_FLOAT_MODE_H_
