// Integer products with AVX2, exact: the byte multiply-add of AVX2 saturates at 16 bits, so bytes
// are split into even and odd ones, widened, and multiplied in pairs of 16-bit words.
#include <immintrin.h>

#include "kernels/kernels.h"
#include "kernels/score_zero.h"

namespace qfa {
namespace {

constexpr int kRows = 4;
constexpr int kWidth = 8;
constexpr int kVectors = 2;
constexpr int kMostGroups = 256;  // 1024 channels

__m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

void store(void* p, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }

// Codes of four rows, widened: each entry holds the two even, or the two odd, codes of a group of
// four.
struct Strip {
  alignas(32) int32_t even[kRows][kMostGroups];
  alignas(32) int32_t odd[kRows][kMostGroups];
};

// Rows are readable up to a multiple of 64 bytes.
void widen(const int8_t* rows, int64_t row_stride, int64_t groups, Strip& strip) {
  for (int r = 0; r < kRows; ++r) {
    for (int64_t g = 0; g < groups; g += kWidth) {
      const __m256i codes = load(rows + r * row_stride + 4 * g);
      store(strip.even[r] + g, _mm256_srai_epi16(_mm256_slli_epi16(codes, 8), 8));
      store(strip.odd[r] + g, _mm256_srai_epi16(codes, 8));
    }
  }
}

// In assembly because GCC 12 else copies every sum of the loop below, and spills some.
inline __attribute__((always_inline)) void add(__m256i& sum, __m256i x) {
  __asm__("vpaddd %1, %0, %0" : "+x"(sum) : "x"(x));
}

// product[r][v] += sum over groups of four codes of rows[r] times those of 16 lanes, of which
// `wide` holds the even ones of all kLanes, then the odd ones.
inline __attribute__((always_inline)) void multiply(const Strip& strip, const uint8_t* wide,
                                                    int64_t groups,
                                                    __m256i (&product)[kRows][kVectors]) {
  for (int64_t g = 0; g < groups; ++g, wide += 2 * kGroupBytes) {
    const __m256i even[kVectors] = {load(wide), load(wide + 4 * kWidth)};
    const __m256i odd[kVectors] = {load(wide + kGroupBytes), load(wide + kGroupBytes + 4 * kWidth)};
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const __m256i row_even = _mm256_set1_epi32(strip.even[r][g]);
      const __m256i row_odd = _mm256_set1_epi32(strip.odd[r][g]);
      for (int v = 0; v < kVectors; ++v) {
        add(product[r][v], _mm256_madd_epi16(even[v], row_even));
        add(product[r][v], _mm256_madd_epi16(odd[v], row_odd));
      }
    }
  }
}

}  // namespace

void scores_avx2(const int8_t* keys, int64_t key_stride, int64_t groups, const uint8_t* packed,
                 const int32_t*, int key_count, int vectors, int32_t* scores) {
  // pack_queries_avx2 leaves signed numbers.
  const __m256i start = _mm256_set1_epi32(score_zero(groups));
  Strip strip;
  for (int j = 0; j < key_count; j += kRows) {
    widen(keys + j * key_stride, key_stride, groups, strip);
    for (int lane = 0; lane < vectors * kVectorLanes; lane += kVectors * kWidth) {
      __m256i product[kRows][kVectors];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) product[r][v] = start;
      }
      multiply(strip, packed + 4 * lane, groups, product);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) {
          store(scores + (j + r) * kLanes + lane + v * kWidth, product[r][v]);
        }
      }
    }
  }
}

void accumulate_avx2(const int8_t* values, int64_t channels, const uint8_t* weights, int key_count,
                     const float* keep, const float* gain, int vectors, float* output) {
  const int64_t groups = key_count / 4;
  alignas(32) uint8_t wide[kKeyBlock * kLanes * 2];
  const __m256i low_bytes = _mm256_set1_epi16(0xff);
  for (int64_t i = 0; i < groups * kGroupBytes; i += 32) {
    const __m256i codes = load(weights + i);
    uint8_t* target = wide + i + i / kGroupBytes * kGroupBytes;
    store(target, _mm256_and_si256(codes, low_bytes));
    store(target + kGroupBytes, _mm256_srli_epi16(codes, 8));
  }
  Strip strip;
  for (int64_t c = 0; c < channels; c += kRows) {
    widen(values + c * kKeyBlock, kKeyBlock, groups, strip);
    for (int lane = 0; lane < vectors * kVectorLanes; lane += kVectors * kWidth) {
      __m256i product[kRows][kVectors];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) product[r][v] = _mm256_setzero_si256();
      }
      multiply(strip, wide + 4 * lane, groups, product);
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
