// Between rows and lanes with AVX2: 8 x 8 floats are transposed in registers.
#include <immintrin.h>

#include "kernels/kernels.h"
#include "kernels/x86/transpose_256.h"

namespace qfa {
namespace {

void store(void* p, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }

}  // namespace

// For scores_avx2: of each group of four codes the two even ones of 32 lanes as words of 16 bits,
// then the two odd ones.
void pack_queries_avx2(const int8_t* rows, int64_t width, uint8_t* packed) {
  for_each_group(rows, width, [&](int64_t group, int lane, __m256i codes) {
    uint8_t* target = packed + 2 * group * kGroupBytes + 4 * lane;
    store(target, _mm256_srai_epi16(_mm256_slli_epi16(codes, 8), 8));
    store(target + kGroupBytes, _mm256_srai_epi16(codes, 8));
  });
}

BiasSummary read_bias_avx2(const void* const* rows, int vectors, int count, float* tile) {
  const __m256 lowest = _mm256_set1_ps(kLowestBias), greatest = _mm256_set1_ps(kGreatestBias);
  const __m256 infinity = _mm256_set1_ps(__builtin_inff());
  const __m256 hidden = _mm256_set1_ps(-__builtin_inff());
  const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  __m256 seen = _mm256_setzero_ps(), masked = seen, biased = seen;
  for (int lane = 0; lane < vectors * kVectorLanes; lane += 8) {
    for (int j = 0; j < kKeyBlock; j += 8) {
      const int left = count - j;
      const __m256i live_bits = _mm256_cmpgt_epi32(_mm256_set1_epi32(left), index);
      const __m256 live = _mm256_castsi256_ps(live_bits);
      __m256 x[8];
      for (int i = 0; i < 8; ++i) {
        const char* row = static_cast<const char*>(rows[lane + i]) + (left > 0 ? 4 * j : 0);
        const __m256 bias = _mm256_maskload_ps(reinterpret_cast<const float*>(row), live_bits);
        const __m256 low = _mm256_and_ps(live, _mm256_cmp_ps(bias, lowest, _CMP_LE_OQ));
        const __m256 shown = _mm256_andnot_ps(low, live);
        const __m256 nonzero = _mm256_cmp_ps(bias, _mm256_setzero_ps(), _CMP_NEQ_UQ);
        masked = _mm256_or_ps(masked, low);
        seen = _mm256_or_ps(seen, shown);
        biased = _mm256_or_ps(biased, _mm256_and_ps(shown, nonzero));
        // The minimum returns its second operand, here the bias, when it is NaN.
        const __m256 infinite = _mm256_cmp_ps(bias, infinity, _CMP_EQ_OQ);
        const __m256 held = _mm256_blendv_ps(_mm256_min_ps(greatest, bias), bias, infinite);
        x[i] = _mm256_blendv_ps(held, hidden, low);
      }
      transpose(x);
      for (int i = 0; i < 8; ++i) _mm256_storeu_ps(tile + (j + i) * kLanes + lane, x[i]);
    }
  }
  return {_mm256_movemask_ps(seen) != 0, _mm256_movemask_ps(masked) != 0,
          _mm256_movemask_ps(biased) != 0};
}

void finish_rows_avx2(const float* output, int64_t channels, const float* factor, int vectors,
                      float* rows) {
  for (int lane = 0; lane < vectors * kVectorLanes; lane += 8) {
    const __m256 by = _mm256_loadu_ps(factor + lane);
    for (int64_t c = 0; c < channels; c += 8) {
      __m256 x[8];
      for (int i = 0; i < 8; ++i) {
        const __m256 value = _mm256_loadu_ps(output + (c + i) * kLanes + lane);
        x[i] = _mm256_add_ps(_mm256_mul_ps(value, by), _mm256_setzero_ps());
      }
      transpose(x);
      for (int i = 0; i < 8; ++i) _mm256_storeu_ps(rows + (lane + i) * channels + c, x[i]);
    }
  }
}

}  // namespace qfa
