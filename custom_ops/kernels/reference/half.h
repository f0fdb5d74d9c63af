// IEEE half precision and bfloat16 in integer arithmetic, for processors without a conversion
// instruction.
#ifndef QFA_KERNELS_REFERENCE_HALF_H_
#define QFA_KERNELS_REFERENCE_HALF_H_

#include <stdint.h>

#include <bit>

namespace qfa {

inline float float_from_half(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0x1f) {
    // The quiet bit is set, as the hardware does.
    const uint32_t quiet = mantissa != 0 ? 0x400000u : 0u;
    return std::bit_cast<float>(sign | 0x7f800000u | quiet | (mantissa << 13));
  }
  if (exponent == 0) {
    // Subnormal: mantissa * 2^-24 is exact in float.
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

inline uint16_t half_from_float(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  }
  if (magnitude >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 2^16 and above
  if (magnitude < 0x33000000u) return static_cast<uint16_t>(sign);             // below 2^-25
  // How many low mantissa bits the half cannot hold; more for its subnormals.
  const uint32_t exponent = magnitude >> 23;
  const uint32_t dropped = exponent < 113u ? 126u - exponent : 13u;
  const uint32_t significand = (magnitude & 0x7fffffu) | 0x800000u;
  const uint32_t biased = exponent < 113u ? 0u : (exponent - 113u) << 10;
  uint32_t result = (significand >> dropped) + biased;
  const uint32_t rest = significand & ((1u << dropped) - 1u);
  const uint32_t middle = 1u << (dropped - 1u);
  // A carry walks into the exponent, which is the correct rounding (up to infinity).
  if (rest > middle || (rest == middle && (result & 1u) != 0)) ++result;
  return static_cast<uint16_t>(sign | result);
}

// bfloat16 is the upper half of a float32.
inline float float_from_bfloat(uint16_t bfloat) {
  return std::bit_cast<float>(static_cast<uint32_t>(bfloat) << 16);
}

inline uint16_t bfloat_from_float(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  // Half a step less one, and one more if the kept part is odd: to nearest, ties to even.
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace qfa

#endif  // QFA_KERNELS_REFERENCE_HALF_H_
