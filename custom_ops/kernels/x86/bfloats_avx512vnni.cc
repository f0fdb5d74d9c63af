// Attention in bfloat16 with AVX-512, which has no products of bfloat16.
#include <immintrin.h>

#include "kernels/lanes/bfloats.h"

namespace qfa {
namespace {

struct Sixteen {
  static constexpr int kWidth = 16, kRows = 8;
  using Floats = Lanes<kWidth>::Floats;
  static Floats fma(Floats a, Floats b, Floats c) {
    return reinterpret_cast<Floats>(_mm512_fmadd_ps(
        reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
  }
  static void softmax(const FloatBlock& block) { float_softmax_avx512vnni(block); }
};

using Blocks = Bfloats<Sixteen>;

// Transposes 16 rows of 16 dwords.
template <typename Row, typename Put>
inline __attribute__((always_inline)) void transpose_dwords(const Row& row, const Put& put) {
  __m512i quad[4][4];
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    const __m512i a = row(4 * r), b = row(4 * r + 1), c = row(4 * r + 2), d = row(4 * r + 3);
    const __m512i ab = _mm512_unpacklo_epi32(a, b), cd = _mm512_unpacklo_epi32(c, d);
    const __m512i AB = _mm512_unpackhi_epi32(a, b), CD = _mm512_unpackhi_epi32(c, d);
    quad[r][0] = _mm512_unpacklo_epi64(ab, cd);
    quad[r][1] = _mm512_unpackhi_epi64(ab, cd);
    quad[r][2] = _mm512_unpacklo_epi64(AB, CD);
    quad[r][3] = _mm512_unpackhi_epi64(AB, CD);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512i low01 = _mm512_shuffle_i32x4(quad[0][i], quad[1][i], 0x44);
    const __m512i low23 = _mm512_shuffle_i32x4(quad[2][i], quad[3][i], 0x44);
    const __m512i high01 = _mm512_shuffle_i32x4(quad[0][i], quad[1][i], 0xee);
    const __m512i high23 = _mm512_shuffle_i32x4(quad[2][i], quad[3][i], 0xee);
    put(i, _mm512_shuffle_i32x4(low01, low23, 0x88));
    put(4 + i, _mm512_shuffle_i32x4(low01, low23, 0xdd));
    put(8 + i, _mm512_shuffle_i32x4(high01, high23, 0x88));
    put(12 + i, _mm512_shuffle_i32x4(high01, high23, 0xdd));
  }
}

}  // namespace

void pack_bfloats_avx512vnni(const uint16_t* rows, int64_t width, uint16_t* packed) {
  for (int64_t c = 0; c < width; c += 32) {
    for (int lane = 0; lane < kLanes; lane += 16) {
      transpose_dwords([&](int64_t r) { return _mm512_loadu_si512(rows + (lane + r) * width + c); },
                       [&](int64_t i, __m512i x) {
                         _mm512_storeu_si512(packed + ((c / 2 + i) * kLanes + lane) * 2, x);
                       });
    }
  }
}

void transpose_bfloats_avx512vnni(const uint16_t* rows, int64_t row_stride, int64_t channels,
                                  uint16_t* columns) {
  // Two rows side by side become 16 pairs.
  const __m512i pair = _mm512_setr_epi32(0x100000, 0x110001, 0x120002, 0x130003, 0x140004, 0x150005,
                                         0x160006, 0x170007, 0x180008, 0x190009, 0x1a000a, 0x1b000b,
                                         0x1c000c, 0x1d000d, 0x1e000e, 0x1f000f);
  for (int64_t c = 0; c < channels; c += 16) {
    for (int64_t j = 0; j < kKeyBlock; j += 32) {
      transpose_dwords(
          [&](int64_t r) {
            const uint16_t* from = rows + (j + 2 * r) * row_stride + c;
            const auto load = [](const uint16_t* row) {
              return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row));
            };
            const __m512i both =
                _mm512_inserti64x4(_mm512_castsi256_si512(load(from)), load(from + row_stride), 1);
            return _mm512_permutexvar_epi16(pair, both);
          },
          [&](int64_t i, __m512i x) { _mm512_storeu_si512(columns + (c + i) * kKeyBlock + j, x); });
    }
  }
}

void bfloat_scores_avx512vnni(const uint16_t* keys, int64_t width, const uint16_t* packed,
                              int key_count, int vectors, float* scores) {
  Blocks::scores(keys, width, packed, key_count, vectors, scores);
}

void bfloat_softmax_avx512vnni(const FloatBlock& block, const float* key_scale,
                               const float* value_scale, uint16_t* weights) {
  Blocks::softmax(block, key_scale, value_scale, weights);
}

void bfloat_accumulate_avx512vnni(const uint16_t* values, int64_t channels, const uint16_t* weights,
                                  const float* keep, int vectors, float* output) {
  Blocks::accumulate(values, channels, weights, keep, vectors, output);
}

}  // namespace qfa
