// Attention in bfloat16 with the products of AVX512-BF16.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace qfa {
namespace {

__m512bh pairs_at(const uint16_t* from) {
  return reinterpret_cast<__m512bh>(_mm512_loadu_si512(from));
}

__m512bh spread_pair(const uint16_t* from) {
  int32_t pair;
  __builtin_memcpy(&pair, from, 4);
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
}

// sum[r][v] = sum over pairs of the products of rows[r] and lanes[.][v].
template <int rows, int span>
inline __attribute__((always_inline)) void multiply(const uint16_t* row, int64_t stride,
                                                    const uint16_t* lanes, int64_t pairs,
                                                    __m512 (&sum)[rows][span]) {
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < span; ++v) sum[r][v] = _mm512_setzero_ps();
  }
  for (int64_t p = 0; p < pairs; ++p, lanes += 2 * kLanes) {
    __m512bh x[span];
#pragma GCC unroll 2
    for (int v = 0; v < span; ++v) x[v] = pairs_at(lanes + 2 * v * kVectorLanes);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      const __m512bh factor = spread_pair(row + r * stride + 2 * p);
#pragma GCC unroll 2
      for (int v = 0; v < span; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], factor, x[v]);
    }
  }
}

template <int rows, int span>
void score_rows(const uint16_t* keys, int64_t width, const uint16_t* packed, int key_count,
                float* scores) {
  for (int64_t j = 0; j < key_count; j += rows) {
    __m512 sum[rows][span];
    multiply(keys + j * width, width, packed, width / 2, sum);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < span; ++v) {
        _mm512_storeu_ps(scores + (j + r) * kLanes + v * kVectorLanes, sum[r][v]);
      }
    }
  }
}

template <int rows, int span>
void accumulate_rows(const uint16_t* values, int64_t channels, const uint16_t* weights,
                     const float* keep, float* output) {
  for (int64_t c = 0; c < channels; c += rows) {
    __m512 sum[rows][span];
    multiply(values + c * kKeyBlock, kKeyBlock, weights, kKeyBlock / 2, sum);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < span; ++v) {
        float* target = output + (c + r) * kLanes + v * kVectorLanes;
        const __m512 kept = _mm512_loadu_ps(keep + v * kVectorLanes);
        _mm512_storeu_ps(target, _mm512_fmadd_ps(_mm512_loadu_ps(target), kept, sum[r][v]));
      }
    }
  }
}

}  // namespace

void bfloat_scores_avx512bf16(const uint16_t* keys, int64_t width, const uint16_t* packed,
                              int key_count, int vectors, float* scores) {
  if (vectors == 1) {
    score_rows<16, 1>(keys, width, packed, key_count, scores);
  } else {
    score_rows<8, 2>(keys, width, packed, key_count, scores);
  }
}

void bfloat_accumulate_avx512bf16(const uint16_t* values, int64_t channels, const uint16_t* weights,
                                  const float* keep, int vectors, float* output) {
  if (vectors == 1) {
    accumulate_rows<16, 1>(values, channels, weights, keep, output);
  } else {
    accumulate_rows<8, 2>(values, channels, weights, keep, output);
  }
}

}  // namespace qfa
