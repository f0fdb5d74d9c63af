// Logarithm of scales in plain arithmetic: the same bits with any C library, and simple enough for
// compilers to take several at a time.
#ifndef QFA_KERNELS_LOG2_H_
#define QFA_KERNELS_LOG2_H_

#include <stdint.h>

#include <bit>

namespace qfa {

// log2(1 + z) = C1 * z + C2 * z^2 + ...: minimax in relative error, 2.8e-8.
inline constexpr float kLog2C1 = 0x1.715476p+0f;
inline constexpr float kLog2C2 = -0x1.715472p-1f;
inline constexpr float kLog2C3 = 0x1.ec7366p-2f;
inline constexpr float kLog2C4 = -0x1.715b7cp-2f;
inline constexpr float kLog2C5 = 0x1.26dd46p-2f;
inline constexpr float kLog2C6 = -0x1.e9810cp-3f;
inline constexpr float kLog2C7 = 0x1.b94e94p-3f;
inline constexpr float kLog2C8 = -0x1.a77d4cp-3f;
inline constexpr float kLog2C9 = 0x1.01b5p-3f;

// The bits of the root of 1/2, where the logarithm of the number behind the exponent changes sign.
inline constexpr uint32_t kRootOfHalfBits = 0x3f3504f3u;

// log2 of a positive normal number, exact for powers of two, else within 2e-7 of it relatively
// (near 1 absolutely). NaN for NaN.
inline float log2_of_scale(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  // x = 2^exponent * (1 + z), with 1 + z between the roots of 1/2 and 2.
  const int32_t exponent = static_cast<int32_t>(bits - kRootOfHalfBits) >> 23;
  const float z = std::bit_cast<float>(bits - (static_cast<uint32_t>(exponent) << 23)) - 1.0f;
  float p = kLog2C9;
  p = p * z + kLog2C8;
  p = p * z + kLog2C7;
  p = p * z + kLog2C6;
  p = p * z + kLog2C5;
  p = p * z + kLog2C4;
  p = p * z + kLog2C3;
  p = p * z + kLog2C2;
  p = p * z + kLog2C1;
  const float result = static_cast<float>(exponent) + p * z;
  return x == x ? result : x;
}

}  // namespace qfa

#endif  // QFA_KERNELS_LOG2_H_
