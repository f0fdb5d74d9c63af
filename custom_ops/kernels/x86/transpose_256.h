// From rows to lanes in registers of 256 bits.
#ifndef QFA_KERNELS_X86_TRANSPOSE_256_H_
#define QFA_KERNELS_X86_TRANSPOSE_256_H_

#include <immintrin.h>

#include "kernels/kernels.h"

namespace qfa {
namespace {

// Transposes 8 x 8 floats held in 8 vectors.
inline __attribute__((always_inline)) void transpose(__m256 (&x)[8]) {
  __m256 y[8];
  for (int i = 0; i < 8; i += 2) {
    y[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
    y[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
  }
  __m256 z[8];
  for (int i = 0; i < 8; i += 4) {
    z[i] = _mm256_shuffle_ps(y[i], y[i + 2], 0x44);
    z[i + 1] = _mm256_shuffle_ps(y[i], y[i + 2], 0xee);
    z[i + 2] = _mm256_shuffle_ps(y[i + 1], y[i + 3], 0x44);
    z[i + 3] = _mm256_shuffle_ps(y[i + 1], y[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    x[i] = _mm256_permute2f128_ps(z[i], z[i + 4], 0x20);
    x[4 + i] = _mm256_permute2f128_ps(z[i], z[i + 4], 0x31);
  }
}

// Calls take(group, lane, codes) with each group of four codes of eight lanes.
template <typename Take>
inline __attribute__((always_inline)) void for_each_group(const int8_t* rows, int64_t width,
                                                          const Take& take) {
  for (int lane = 0; lane < kLanes; lane += 8) {
    for (int64_t c = 0; c < width; c += 32) {
      __m256 x[8];
      for (int i = 0; i < 8; ++i) {
        x[i] = _mm256_loadu_ps(reinterpret_cast<const float*>(rows + (lane + i) * width + c));
      }
      transpose(x);
      for (int i = 0; i < 8; ++i) take(c / 4 + i, lane, _mm256_castps_si256(x[i]));
    }
  }
}

}  // namespace
}  // namespace qfa

#endif  // QFA_KERNELS_X86_TRANSPOSE_256_H_
