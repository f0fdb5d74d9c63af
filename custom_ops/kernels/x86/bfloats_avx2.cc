// Attention in bfloat16 with AVX2, which has no products of bfloat16.
#include <immintrin.h>

#include "kernels/lanes/bfloats.h"

namespace qfa {
namespace {

struct Eight {
  static constexpr int kWidth = 8, kRows = 4;
  using Floats = Lanes<kWidth>::Floats;
  static Floats fma(Floats a, Floats b, Floats c) {
    return reinterpret_cast<Floats>(_mm256_fmadd_ps(
        reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
  }
  static void softmax(const FloatBlock& block) { float_softmax_avx2(block); }
};

using Blocks = Bfloats<Eight>;

// Transposes 8 rows of 8 dwords.
template <typename Row, typename Put>
inline __attribute__((always_inline)) void transpose_dwords(const Row& row, const Put& put) {
  __m256i half[8];
#pragma GCC unroll 2
  for (int r = 0; r < 2; ++r) {
    const __m256i a = row(4 * r), b = row(4 * r + 1), c = row(4 * r + 2), d = row(4 * r + 3);
    const __m256i ab = _mm256_unpacklo_epi32(a, b), cd = _mm256_unpacklo_epi32(c, d);
    const __m256i AB = _mm256_unpackhi_epi32(a, b), CD = _mm256_unpackhi_epi32(c, d);
    half[4 * r] = _mm256_unpacklo_epi64(ab, cd);
    half[4 * r + 1] = _mm256_unpackhi_epi64(ab, cd);
    half[4 * r + 2] = _mm256_unpacklo_epi64(AB, CD);
    half[4 * r + 3] = _mm256_unpackhi_epi64(AB, CD);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    put(i, _mm256_permute2x128_si256(half[i], half[4 + i], 0x20));
    put(4 + i, _mm256_permute2x128_si256(half[i], half[4 + i], 0x31));
  }
}

}  // namespace

void pack_bfloats_avx2(const uint16_t* rows, int64_t width, uint16_t* packed) {
  for (int64_t c = 0; c < width; c += 16) {
    for (int lane = 0; lane < kLanes; lane += 8) {
      transpose_dwords(
          [&](int64_t r) {
            return _mm256_loadu_si256(
                reinterpret_cast<const __m256i*>(rows + (lane + r) * width + c));
          },
          [&](int64_t i, __m256i x) {
            _mm256_storeu_si256(
                reinterpret_cast<__m256i*>(packed + ((c / 2 + i) * kLanes + lane) * 2), x);
          });
    }
  }
}

void transpose_bfloats_avx2(const uint16_t* rows, int64_t row_stride, int64_t channels,
                            uint16_t* columns) {
  for (int64_t c = 0; c < channels; c += 8) {
    for (int64_t j = 0; j < kKeyBlock; j += 16) {
      transpose_dwords(
          [&](int64_t r) {
            const uint16_t* from = rows + (j + 2 * r) * row_stride + c;
            const auto load = [](const uint16_t* row) {
              return _mm_loadu_si128(reinterpret_cast<const __m128i*>(row));
            };
            const __m128i a = load(from), b = load(from + row_stride);
            return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_unpacklo_epi16(a, b)),
                                           _mm_unpackhi_epi16(a, b), 1);
          },
          [&](int64_t i, __m256i x) {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(columns + (c + i) * kKeyBlock + j), x);
          });
    }
  }
}

void bfloat_scores_avx2(const uint16_t* keys, int64_t width, const uint16_t* packed, int key_count,
                        int vectors, float* scores) {
  Blocks::scores(keys, width, packed, key_count, vectors, scores);
}

void bfloat_softmax_avx2(const FloatBlock& block, const float* key_scale, const float* value_scale,
                         uint16_t* weights) {
  Blocks::softmax(block, key_scale, value_scale, weights);
}

void bfloat_accumulate_avx2(const uint16_t* values, int64_t channels, const uint16_t* weights,
                            const float* keep, int vectors, float* output) {
  Blocks::accumulate(values, channels, weights, keep, vectors, output);
}

}  // namespace qfa
