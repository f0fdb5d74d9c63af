// How integer scores are written, so that a vector of them can be taken for floats.
//
// The float 1.5 * 2^23 + s has the bits of 1.5 * 2^23 plus s, for |s| < 2^22. Sums that start from
// those bits need no conversion: with a scale of at most 22 significant bits (score_scale) the
// product of both numbers is exact, and fma(score, scale, -(1.5 * 2^23 * scale)) is s * scale,
// rounded once.
#ifndef QFA_KERNELS_SCORE_ZERO_H_
#define QFA_KERNELS_SCORE_ZERO_H_

#include <stdint.h>

#include <bit>

namespace qfa {

inline constexpr float kFloatOfScoreZero = 0x1.8p23f;
inline constexpr int32_t kScoreZero = std::bit_cast<int32_t>(kFloatOfScoreZero);

// What is added to scores over 4 * groups channels. Codes are at most 127, so 256 channels stay
// below 2^22; beyond those, scores are plain integers.
inline constexpr int32_t score_zero(int64_t groups) { return groups <= 64 ? kScoreZero : 0; }

// The scale of a query's scores: `scale` rounded to 22 significant bits, its magnitude at most
// 2^100 so that no product above overflows. NaN stays.
inline float score_scale(float scale) {
  constexpr float kGreatest = 0x1p100f;
  if (scale > kGreatest) return kGreatest;
  if (scale < -kGreatest) return -kGreatest;
  if (scale != scale) return scale;
  return std::bit_cast<float>((std::bit_cast<uint32_t>(scale) + 2u) & ~3u);
}

}  // namespace qfa

#endif  // QFA_KERNELS_SCORE_ZERO_H_
