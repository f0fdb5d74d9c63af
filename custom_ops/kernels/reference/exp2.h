// 2^x for x <= 0 in plain C++; every instruction set computes it in this order.
#ifndef QFA_KERNELS_REFERENCE_EXP2_H_
#define QFA_KERNELS_REFERENCE_EXP2_H_

#include <math.h>
#include <stdint.h>

#include <bit>

#include "kernels/exp2.h"

namespace qfa {

inline float exp2_of_nonpositive(float x) {
  if (x < kExp2Floor) return 0.0f;
  if (x != x) return x;
  const float whole = nearbyintf(x);
  const float f = x - whole;
  float p = fmaf(kExp2C5, f, kExp2C4);
  p = fmaf(p, f, kExp2C3);
  p = fmaf(p, f, kExp2C2);
  p = fmaf(p, f, kExp2C1);
  p = fmaf(p, f, 1.0f);
  const auto exponent = static_cast<uint32_t>(static_cast<int32_t>(whole)) << 23;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(p) + exponent);
}

// The same for weights that become codes: see kernels/exp2.h.
inline float weight_exp2(float x) {
  if (x < kExp2Floor) return 0.0f;
  if (x != x) return x;
  const float whole = truncf(x);
  const float f = x - whole;
  float p = fmaf(kWeightExp2C3, f, kWeightExp2C2);
  p = fmaf(p, f, kWeightExp2C1);
  p = fmaf(p, f, 1.0f);
  const auto exponent = static_cast<uint32_t>(static_cast<int32_t>(whole)) << 23;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(p) + exponent);
}

}  // namespace qfa

#endif  // QFA_KERNELS_REFERENCE_EXP2_H_
