// Between rows and lanes with AVX-512: 16 x 16 floats are transposed in registers.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace qfa {
namespace {

// Transposes 16 x 16 floats held in 16 vectors.
inline __attribute__((always_inline)) void transpose(__m512 (&x)[16]) {
  __m512 y[16];
  for (int i = 0; i < 16; i += 2) {
    y[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    x[i] = _mm512_shuffle_ps(y[i], y[i + 2], 0x44);
    x[i + 1] = _mm512_shuffle_ps(y[i], y[i + 2], 0xee);
    x[i + 2] = _mm512_shuffle_ps(y[i + 1], y[i + 3], 0x44);
    x[i + 3] = _mm512_shuffle_ps(y[i + 1], y[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    for (int half = 0; half < 16; half += 8) {
      y[half + i] = _mm512_shuffle_f32x4(x[half + i], x[half + 4 + i], 0x88);
      y[half + 4 + i] = _mm512_shuffle_f32x4(x[half + i], x[half + 4 + i], 0xdd);
    }
  }
  for (int i = 0; i < 8; ++i) {
    x[i] = _mm512_shuffle_f32x4(y[i], y[8 + i], 0x88);
    x[8 + i] = _mm512_shuffle_f32x4(y[i], y[8 + i], 0xdd);
  }
}

}  // namespace

void pack_queries_avx512vnni(const int8_t* rows, int64_t width, uint8_t* packed) {
  const __m512i offset = _mm512_set1_epi8(-128);
  for (int lane = 0; lane < kLanes; lane += kVectorLanes) {
    for (int64_t c = 0; c < width; c += 64) {
      __m512 x[16];
      for (int i = 0; i < 16; ++i) x[i] = _mm512_loadu_ps(rows + (lane + i) * width + c);
      transpose(x);
      for (int i = 0; i < 16; ++i) {
        const __m512i codes = _mm512_xor_si512(_mm512_castps_si512(x[i]), offset);
        _mm512_storeu_si512(packed + (c / 4 + i) * kGroupBytes + 4 * lane, codes);
      }
    }
  }
}

BiasSummary read_bias_avx512vnni(const void* const* rows, int vectors, int count, float* tile) {
  const __m512 lowest = _mm512_set1_ps(kLowestBias), greatest = _mm512_set1_ps(kGreatestBias);
  const __m512 hidden = _mm512_set1_ps(-__builtin_inff());
  constexpr int kPositiveInfinity = 0x08;
  // One bit for each of 16 keys: which hold something of the kind.
  uint32_t seen = 0, masked = 0, biased = 0;
  for (int lane = 0; lane < vectors * kVectorLanes; lane += kVectorLanes) {
    for (int j = 0; j < kKeyBlock; j += 16) {
      const int left = count - j;
      const __mmask16 live = left >= 16 ? static_cast<__mmask16>(0xffff)
                                        : static_cast<__mmask16>(left > 0 ? (1 << left) - 1 : 0);
      __m512 x[16];
      for (int i = 0; i < 16; ++i) {
        const char* row = static_cast<const char*>(rows[lane + i]) + (left > 0 ? 4 * j : 0);
        const __m512 bias = _mm512_maskz_loadu_ps(live, row);
        const __mmask16 low = _mm512_mask_cmp_ps_mask(live, bias, lowest, _CMP_LE_OQ);
        const __mmask16 shown = static_cast<__mmask16>(live & ~low);
        masked |= low;
        seen |= shown;
        biased |= _mm512_mask_cmp_ps_mask(shown, bias, _mm512_setzero_ps(), _CMP_NEQ_UQ);
        // The minimum returns its second operand, here the bias, when it is NaN.
        const __mmask16 infinite = _mm512_fpclass_ps_mask(bias, kPositiveInfinity);
        const __m512 held =
            _mm512_mask_min_ps(bias, static_cast<__mmask16>(~infinite), greatest, bias);
        x[i] = _mm512_mask_blend_ps(low, held, hidden);
      }
      transpose(x);
      for (int i = 0; i < 16; ++i) _mm512_storeu_ps(tile + (j + i) * kLanes + lane, x[i]);
    }
  }
  return {seen != 0, masked != 0, biased != 0};
}

void finish_rows_avx512vnni(const float* output, int64_t channels, const float* factor, int vectors,
                            float* rows) {
  for (int lane = 0; lane < vectors * kVectorLanes; lane += kVectorLanes) {
    const __m512 by = _mm512_loadu_ps(factor + lane);
    for (int64_t c = 0; c < channels; c += 16) {
      __m512 x[16];
      for (int i = 0; i < 16; ++i) {
        const __m512 value = _mm512_loadu_ps(output + (c + i) * kLanes + lane);
        x[i] = _mm512_add_ps(_mm512_mul_ps(value, by), _mm512_setzero_ps());
      }
      transpose(x);
      for (int i = 0; i < 16; ++i) _mm512_storeu_ps(rows + (lane + i) * channels + c, x[i]);
    }
  }
}

}  // namespace qfa
