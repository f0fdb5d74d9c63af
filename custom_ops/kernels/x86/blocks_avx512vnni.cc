// Integer products with VNNI: 8 rows by 32 lanes, or 16 by 16, of int32 stay in registers.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace qfa {
namespace {

constexpr int kSums = 16;

// sum += four unsigned codes of each lane times four signed codes. In assembly because GCC 12
// copies every accumulator of the loop below around the intrinsic, and spills some.
inline __attribute__((always_inline)) void dot(__m512i& sum, __m512i lanes, __m512i row) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(lanes), "v"(row));
}

// product[r][v] += sum over groups of four codes of rows[r] times packed[group][lane].
template <int vectors>
inline __attribute__((always_inline)) void multiply(const int8_t* rows, int64_t row_stride,
                                                    const uint8_t* packed, int64_t groups,
                                                    __m512i (&product)[kSums / vectors][vectors]) {
  constexpr int kRows = kSums / vectors;
  for (int64_t g = 0; g < groups; ++g) {
    __m512i lanes[vectors];
    for (int v = 0; v < vectors; ++v) {
      lanes[v] = _mm512_loadu_si512(packed + g * kGroupBytes + v * 64);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      int32_t four;
      __builtin_memcpy(&four, rows + r * row_stride + 4 * g, 4);
      const __m512i row = _mm512_set1_epi32(four);
      for (int v = 0; v < vectors; ++v) {
        dot(product[r][v], lanes[v], row);
      }
    }
  }
}

template <int vectors>
void scores_of(const int8_t* keys, int64_t key_stride, int64_t groups, const uint8_t* packed,
               const int32_t* start, int key_count, int32_t* scores) {
  constexpr int kRows = kSums / vectors;
  for (int j = 0; j < key_count; j += kRows) {
    __m512i product[kRows][vectors];
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < vectors; ++v) product[r][v] = _mm512_set1_epi32(start[j + r]);
    }
    multiply<vectors>(keys + j * key_stride, key_stride, packed, groups, product);
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < vectors; ++v) {
        _mm512_storeu_si512(scores + (j + r) * kLanes + v * kVectorLanes, product[r][v]);
      }
    }
  }
}

template <int vectors, bool whole>
void accumulate_into(const int8_t* values, int64_t channels, const uint8_t* weights, int key_count,
                     const float* keep, const float* gain, float* output) {
  constexpr int kRows = kSums / vectors;
  __m512 kept[vectors], gained[vectors];
  for (int v = 0; v < vectors; ++v) {
    kept[v] = _mm512_loadu_ps(keep + v * kVectorLanes);
    gained[v] = _mm512_loadu_ps(gain + v * kVectorLanes);
  }
  for (int64_t c = 0; c < channels; c += kRows) {
    __m512i product[kRows][vectors];
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < vectors; ++v) product[r][v] = _mm512_setzero_si512();
    }
    multiply<vectors>(values + c * kKeyBlock, kKeyBlock, weights,
                      whole ? kKeyBlock / 4 : key_count / 4, product);
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < vectors; ++v) {
        float* target = output + (c + r) * kLanes + v * kVectorLanes;
        const __m512 old = _mm512_mul_ps(_mm512_loadu_ps(target), kept[v]);
        const __m512 added = _mm512_cvtepi32_ps(product[r][v]);
        _mm512_storeu_ps(target, _mm512_fmadd_ps(gained[v], added, old));
      }
    }
  }
}

}  // namespace

void scores_avx512vnni(const int8_t* keys, int64_t key_stride, int64_t groups,
                       const uint8_t* packed, const int32_t* start, int key_count, int vectors,
                       int32_t* scores) {
  if (vectors == 1) {
    scores_of<1>(keys, key_stride, groups, packed, start, key_count, scores);
  } else {
    scores_of<2>(keys, key_stride, groups, packed, start, key_count, scores);
  }
}

void accumulate_avx512vnni(const int8_t* values, int64_t channels, const uint8_t* weights,
                           int key_count, const float* keep, const float* gain, int vectors,
                           float* output) {
  const bool whole = key_count == kKeyBlock;
  if (vectors == 1) {
    (whole ? accumulate_into<1, true> : accumulate_into<1, false>)(values, channels, weights,
                                                                   key_count, keep, gain, output);
  } else {
    (whole ? accumulate_into<2, true> : accumulate_into<2, false>)(values, channels, weights,
                                                                   key_count, keep, gain, output);
  }
}

}  // namespace qfa
