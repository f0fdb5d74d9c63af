// Arithmetic of one lane without branches, for loops that the compiler turns into vectors.
//
// The files of kernels/lanes/ are written once and included by one file per instruction set, which
// is compiled with that set's flags. Everything is in an anonymous namespace and calls no library,
// so that no copy for one set is ever linked into another.
#ifndef QFA_KERNELS_LANES_LANES_H_
#define QFA_KERNELS_LANES_LANES_H_

#include <stdint.h>

#include "kernels/exp2.h"

namespace qfa {
namespace {

inline uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }
inline float float_of(uint32_t x) { return __builtin_bit_cast(float, x); }

// 2^x for x <= 0, as exp2_of_nonpositive everywhere: 0 below kExp2Floor, NaN for NaN.
inline float exp2_lane(float x) {
  // Adding this rounds to the nearest whole number, which is then in the low bits of the sum.
  constexpr float kRounder = 0x1.8p23f;
  const float held = x < kExp2Floor ? kExp2Floor : x;
  const float rounded = held + kRounder;
  const float f = held - (rounded - kRounder);
  float p = __builtin_fmaf(kExp2C5, f, kExp2C4);
  p = __builtin_fmaf(p, f, kExp2C3);
  p = __builtin_fmaf(p, f, kExp2C2);
  p = __builtin_fmaf(p, f, kExp2C1);
  p = __builtin_fmaf(p, f, 1.0f);
  const float power = float_of(bits_of(p) + (bits_of(rounded) << 23));
  const float result = x < kExp2Floor ? 0.0f : power;
  return x == x ? result : x;
}

// tanh within 2.5e-7 relatively; NaN for NaN.
inline float tanh_lane(float x) {
  // (tanh(x) / x - 1) / x^2 up to kSmall: minimax in relative error of tanh, 2.8e-9.
  constexpr float kSmall = 0.6f;
  const float z = x * x;
  float p = __builtin_fmaf(-0x1.82584cp-8f, z, 0x1.54b89ep-6f);
  p = __builtin_fmaf(p, z, -0x1.b898dep-5f);
  p = __builtin_fmaf(p, z, 0x1.1109aep-3f);
  p = __builtin_fmaf(p, z, -0x1.55553ep-2f);
  const float small = __builtin_fmaf(x * z, p, x);
  const uint32_t sign = bits_of(x) & 0x80000000u;
  const float magnitude = float_of(bits_of(x) ^ sign);
  const float e = exp2_lane(magnitude * (-2.0f * kLog2E));
  const float large = float_of(bits_of((1.0f - e) / (1.0f + e)) | sign);
  return magnitude < kSmall ? small : large;
}

}  // namespace
}  // namespace qfa

#endif  // QFA_KERNELS_LANES_LANES_H_
