// The two approximations of 2^x for four x <= 0 with NEON: see kernels/exp2.h.
#ifndef QFA_KERNELS_ARM_EXP2_H_
#define QFA_KERNELS_ARM_EXP2_H_

#include <arm_neon.h>

#include "kernels/exp2.h"

#define QFA_INLINE inline __attribute__((always_inline))

namespace qfa {
namespace {

QFA_INLINE float32x4_t exp2_of_nonpositive(float32x4_t x) {
  // The sum rounds x to a whole number, half to even, and holds it plus 128 in its low bits: moved
  // to the exponent, these are the power of two of that number, doubled, for which the polynomial
  // is halved. Powers are multiplied, not added to the exponent, so that NaN stays NaN.
  const float32x4_t rounder = vdupq_n_f32(0x1.8p23f + 128.0f);
  const float32x4_t sum = vaddq_f32(x, rounder);
  const float32x4_t f = vsubq_f32(x, vsubq_f32(sum, rounder));
  float32x4_t p = vfmaq_f32(vdupq_n_f32(0.5f * kExp2C4), vdupq_n_f32(0.5f * kExp2C5), f);
  p = vfmaq_f32(vdupq_n_f32(0.5f * kExp2C3), p, f);
  p = vfmaq_f32(vdupq_n_f32(0.5f * kExp2C2), p, f);
  p = vfmaq_f32(vdupq_n_f32(0.5f * kExp2C1), p, f);
  p = vfmaq_f32(vdupq_n_f32(0.5f), p, f);
  const int32x4_t power = vshlq_n_s32(vreinterpretq_s32_f32(sum), 23);
  const float32x4_t y = vmulq_f32(p, vreinterpretq_f32_s32(power));
  const uint32x4_t below = vcltq_f32(x, vdupq_n_f32(kExp2Floor));
  return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(y), below));
}

QFA_INLINE float32x4_t weight_exp2(float32x4_t x) {
  const int32x4_t whole = vcvtq_s32_f32(x);  // 0 for NaN, which therefore stays
  const float32x4_t f = vsubq_f32(x, vrndq_f32(x));
  float32x4_t p = vfmaq_f32(vdupq_n_f32(kWeightExp2C2), vdupq_n_f32(kWeightExp2C3), f);
  p = vfmaq_f32(vdupq_n_f32(kWeightExp2C1), p, f);
  p = vfmaq_f32(vdupq_n_f32(1.0f), p, f);
  const int32x4_t y = vaddq_s32(vreinterpretq_s32_f32(p), vshlq_n_s32(whole, 23));
  const uint32x4_t below = vcltq_f32(x, vdupq_n_f32(kExp2Floor));
  return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_s32(y), below));
}

QFA_INLINE float32x4_t lowest() { return vdupq_n_f32(-__builtin_inff()); }

// Exponents are measured against 0 where nothing is seen: all of them are -inf.
QFA_INLINE float32x4_t zero_for_nothing(float32x4_t largest) {
  const uint32x4_t nothing = vceqq_f32(largest, lowest());
  return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(largest), nothing));
}

}  // namespace
}  // namespace qfa

#endif  // QFA_KERNELS_ARM_EXP2_H_
