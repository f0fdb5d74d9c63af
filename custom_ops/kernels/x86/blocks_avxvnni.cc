// Integer products with the 256-bit form of VNNI: 4 rows by 16 lanes of int32 stay in registers.
#include <immintrin.h>

#include "kernels/kernels.h"
#include "kernels/x86/transpose_256.h"

namespace qfa {
namespace {

constexpr int kRows = 4;
constexpr int kWidth = 8;
constexpr int kVectors = 2;

__m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

void store(void* p, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }

// sum += four unsigned codes of each lane times four signed codes. In assembly as in
// blocks_avx512vnni.cc.
inline __attribute__((always_inline)) void dot(__m256i& sum, __m256i lanes, __m256i row) {
  __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(lanes), "x"(row));
}

// product[r][v] += sum over groups of four codes of rows[r] times packed[group][lane], for 16
// lanes.
inline __attribute__((always_inline)) void multiply(const int8_t* rows, int64_t row_stride,
                                                    const uint8_t* packed, int64_t groups,
                                                    __m256i (&product)[kRows][kVectors]) {
  for (int64_t g = 0; g < groups; ++g, packed += kGroupBytes) {
    const __m256i lanes[kVectors] = {load(packed), load(packed + 4 * kWidth)};
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      int32_t four;
      __builtin_memcpy(&four, rows + r * row_stride + 4 * g, 4);
      const __m256i row = _mm256_set1_epi32(four);
      for (int v = 0; v < kVectors; ++v) {
        dot(product[r][v], lanes[v], row);
      }
    }
  }
}

}  // namespace

// Codes plus 128, so that sums begin at what that adds, taken away.
void pack_queries_avxvnni(const int8_t* rows, int64_t width, uint8_t* packed) {
  const __m256i offset = _mm256_set1_epi8(-128);
  for_each_group(rows, width, [&](int64_t group, int lane, __m256i codes) {
    store(packed + group * kGroupBytes + 4 * lane, _mm256_xor_si256(codes, offset));
  });
}

void scores_avxvnni(const int8_t* keys, int64_t key_stride, int64_t groups, const uint8_t* packed,
                    const int32_t* start, int key_count, int vectors, int32_t* scores) {
  for (int lane = 0; lane < vectors * kVectorLanes; lane += kVectors * kWidth) {
    for (int j = 0; j < key_count; j += kRows) {
      __m256i product[kRows][kVectors];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) product[r][v] = _mm256_set1_epi32(start[j + r]);
      }
      multiply(keys + j * key_stride, key_stride, packed + 4 * lane, groups, product);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) {
          store(scores + (j + r) * kLanes + lane + v * kWidth, product[r][v]);
        }
      }
    }
  }
}

void accumulate_avxvnni(const int8_t* values, int64_t channels, const uint8_t* weights,
                        int key_count, const float* keep, const float* gain, int vectors,
                        float* output) {
  for (int lane = 0; lane < vectors * kVectorLanes; lane += kVectors * kWidth) {
    for (int64_t c = 0; c < channels; c += kRows) {
      __m256i product[kRows][kVectors];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) product[r][v] = _mm256_setzero_si256();
      }
      multiply(values + c * kKeyBlock, kKeyBlock, weights + 4 * lane, key_count / 4, product);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        const __m256 kept = _mm256_loadu_ps(keep + lane + v * kWidth);
        const __m256 gained = _mm256_loadu_ps(gain + lane + v * kWidth);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          float* target = output + (c + r) * kLanes + lane + v * kWidth;
          const __m256 old = _mm256_mul_ps(_mm256_loadu_ps(target), kept);
          _mm256_storeu_ps(target, _mm256_fmadd_ps(gained, _mm256_cvtepi32_ps(product[r][v]), old));
        }
      }
    }
  }
}

}  // namespace qfa
