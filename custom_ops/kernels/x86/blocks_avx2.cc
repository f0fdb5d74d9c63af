// Integer products with AVX2, exact: the byte multiply-add of AVX2 saturates at 16 bits, so bytes
// are split into even and odd ones, widened, and multiplied in pairs of 16-bit words.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace qfa {
namespace {

constexpr int kRows = 4;
constexpr int kWidth = 8;
constexpr int kVectors = 2;
constexpr int kMostGroups = 256;  // 1024 channels

__m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

void store(void* p, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }

// A strip of rows, widened: each entry holds the two even, or the two odd, codes of a group of
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

// product[r][v] += sum over groups of four codes of rows[r] times packed[group][lane], for 16
// lanes.
inline __attribute__((always_inline)) void multiply(const Strip& strip, const uint8_t* packed,
                                                    int64_t groups,
                                                    __m256i (&product)[kRows][kVectors]) {
  const __m256i low_bytes = _mm256_set1_epi16(0xff);
  for (int64_t g = 0; g < groups; ++g, packed += kGroupBytes) {
    const __m256i first = load(packed), second = load(packed + 4 * kWidth);
    const __m256i even[kVectors] = {_mm256_and_si256(first, low_bytes),
                                    _mm256_and_si256(second, low_bytes)};
    const __m256i odd[kVectors] = {_mm256_srli_epi16(first, 8), _mm256_srli_epi16(second, 8)};
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const __m256i row_even = _mm256_set1_epi32(strip.even[r][g]);
      const __m256i row_odd = _mm256_set1_epi32(strip.odd[r][g]);
      for (int v = 0; v < kVectors; ++v) {
        product[r][v] = _mm256_add_epi32(product[r][v], _mm256_madd_epi16(even[v], row_even));
        product[r][v] = _mm256_add_epi32(product[r][v], _mm256_madd_epi16(odd[v], row_odd));
      }
    }
  }
}

}  // namespace

void scores_avx2(const int8_t* keys, int64_t key_stride, int64_t groups, const uint8_t* packed,
                 const int32_t* start, int key_count, int vectors, int32_t* scores) {
  Strip strip;
  for (int j = 0; j < key_count; j += kRows) {
    widen(keys + j * key_stride, key_stride, groups, strip);
    for (int lane = 0; lane < vectors * kVectorLanes; lane += kVectors * kWidth) {
      __m256i product[kRows][kVectors];
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) product[r][v] = _mm256_set1_epi32(start[j + r]);
      }
      multiply(strip, packed + 4 * lane, groups, product);
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
  Strip strip;
  for (int64_t c = 0; c < channels; c += kRows) {
    widen(values + c * kKeyBlock, kKeyBlock, key_count / 4, strip);
    for (int lane = 0; lane < vectors * kVectorLanes; lane += kVectors * kWidth) {
      __m256i product[kRows][kVectors];
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) product[r][v] = _mm256_setzero_si256();
      }
      multiply(strip, weights + 4 * lane, key_count / 4, product);
      for (int v = 0; v < kVectors; ++v) {
        const __m256 kept = _mm256_loadu_ps(keep + lane + v * kWidth);
        const __m256 gained = _mm256_loadu_ps(gain + lane + v * kWidth);
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
