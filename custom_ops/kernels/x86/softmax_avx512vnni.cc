// Softmax of one block with AVX-512: lanes are queries, so nothing is ever summed across a vector.
#include <immintrin.h>

#include "kernels/exp2.h"
#include "kernels/kernels.h"
#include "kernels/score_zero.h"

namespace qfa {
namespace {

__m512 exp2_of_nonpositive(__m512 x) {
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 f = _mm512_sub_ps(x, whole);
  __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(kExp2C5), f, _mm512_set1_ps(kExp2C4));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kExp2C3));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kExp2C2));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kExp2C1));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  // Not-less-than is true for NaN, which therefore stays.
  const __mmask16 above = _mm512_cmp_ps_mask(x, _mm512_set1_ps(kExp2Floor), _CMP_NLT_UQ);
  return _mm512_maskz_scalef_ps(above, p, whole);
}

__m512 weight_exp2(__m512 x) {
  constexpr int kToZero = _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC;
  const __m512 f = _mm512_reduce_ps(x, kToZero);
  const __m512 whole = _mm512_sub_ps(x, f);
  __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(kWeightExp2C3), f, _mm512_set1_ps(kWeightExp2C2));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kWeightExp2C1));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  // Nothing is compared with the floor: what lies below it is flushed to zero, see FloatMode.
  return _mm512_scalef_ps(p, whole);
}

// Scores as floats, times the scale of their query.
template <bool narrow>
__m512 scaled(__m512i score, __m512 scale, __m512 shift) {
  if (narrow) return _mm512_fmadd_ps(_mm512_castsi512_ps(score), scale, shift);
  return _mm512_mul_ps(_mm512_cvtepi32_ps(score), scale);
}

enum Masking { kNone, kLimits, kBias };

// Turns scores into exponents in place and finds the largest of each lane.
template <Masking masking, bool narrow, int vectors>
inline __attribute__((always_inline)) void exponents_of(const SoftmaxBlock& b,
                                                        __m512 (&largest)[vectors]) {
  const __m512 lowest = _mm512_set1_ps(-__builtin_inff());
  const float *key_scale = b.key_scale, *value_log2 = b.value_log2, *bias_row = b.bias;
  __m512 query_scale[vectors], shift[vectors];
  __m512i limit[vectors];
  for (int v = 0; v < vectors; ++v) {
    query_scale[v] = _mm512_loadu_ps(b.query_scale + v * kVectorLanes);
    shift[v] = _mm512_mul_ps(query_scale[v], _mm512_set1_ps(-kFloatOfScoreZero));
    limit[v] = masking != kNone && b.limits != nullptr
                   ? _mm512_loadu_si512(b.limits + v * kVectorLanes)
                   : _mm512_set1_epi32(kKeyBlock);
    largest[v] = lowest;
  }
  int32_t* scores = b.scores;
  const int keys = b.keys;
#pragma GCC unroll 2
  for (int j = 0; j < keys; ++j, scores += kLanes) {
    const __m512 scale = _mm512_set1_ps(key_scale[j]), log2 = _mm512_set1_ps(value_log2[j]);
    for (int v = 0; v < vectors; ++v) {
      const __m512 t =
          scaled<narrow>(_mm512_loadu_si512(scores + v * kVectorLanes), query_scale[v], shift[v]);
      __m512 u = _mm512_fmadd_ps(t, scale, log2);
      if (masking != kNone) {
        __mmask16 seen = _mm512_cmplt_epi32_mask(_mm512_set1_epi32(j), limit[v]);
        if (masking == kBias) {
          const __m512 bias = _mm512_loadu_ps(bias_row + j * kLanes + v * kVectorLanes);
          seen &= _mm512_cmp_ps_mask(bias, lowest, _CMP_NEQ_UQ);
          u = _mm512_fmadd_ps(bias, _mm512_set1_ps(kLog2E), u);
        }
        u = _mm512_mask_blend_ps(seen, lowest, u);
      }
      largest[v] = _mm512_max_ps(u, largest[v]);  // takes the second operand when u is NaN
      _mm512_storeu_ps(scores + v * kVectorLanes, u);
    }
  }
}

// Turns exponents into packed weights and sums the weights of each lane.
template <int vectors>
inline __attribute__((always_inline)) void weights_of(const SoftmaxBlock& b,
                                                      const __m512 (&reference)[vectors],
                                                      __m512 (&sum)[vectors]) {
  const __m512 steps = _mm512_set1_ps(255.0f), shift = _mm512_set1_ps(0x1p23f);
  const __m512i low_byte = _mm512_set1_epi32(0xff);
  const auto* exponents = reinterpret_cast<const float*>(b.scores);
  const float* value_inverse = b.value_inverse;
  uint8_t* weights = b.weights;
  const int keys = b.keys;
  const auto column_of = [&](int first, __m512(&column)[vectors]) {
    __m512 part[4][vectors];
    for (int i = 0; i < 4; ++i) {
      for (int v = 0; v < vectors; ++v) part[i][v] = _mm512_setzero_ps();
    }
    for (int j = first; j < keys; j += 16) {
      __m512i code[4][vectors];
      for (int i = 0; i < 4; ++i) {
        const __m512 inverse = _mm512_set1_ps(value_inverse[j + i]);
        for (int v = 0; v < vectors; ++v) {
          const __m512 u = _mm512_loadu_ps(exponents + (j + i) * kLanes + v * kVectorLanes);
          const __m512 y = weight_exp2(_mm512_sub_ps(u, reference[v]));
          part[i][v] = _mm512_fmadd_ps(y, inverse, part[i][v]);
          code[i][v] = _mm512_castps_si512(_mm512_fmadd_ps(y, steps, shift));
        }
      }
      // The code is the low byte of each lane; the bytes above it fall out of the shifts.
      constexpr int kAndOr = 0xea, kOrOr = 0xfe;
      for (int v = 0; v < vectors; ++v) {
        const __m512i ends = _mm512_ternarylogic_epi32(code[0][v], low_byte,
                                                       _mm512_slli_epi32(code[3][v], 24), kAndOr);
        const __m512i packed = _mm512_ternarylogic_epi32(ends, _mm512_slli_epi32(code[1][v], 8),
                                                         _mm512_slli_epi32(code[2][v], 16), kOrOr);
        _mm512_storeu_si512(weights + j / 4 * kGroupBytes + 4 * v * kVectorLanes, packed);
      }
    }
    for (int v = 0; v < vectors; ++v) {
      column[v] = _mm512_add_ps(_mm512_add_ps(part[0][v], part[1][v]),
                                _mm512_add_ps(part[2][v], part[3][v]));
    }
  };
  __m512 column[4][vectors];
  for (int q = 0; q < 4; ++q) column_of(4 * q, column[q]);
  for (int v = 0; v < vectors; ++v) {
    sum[v] = _mm512_add_ps(_mm512_add_ps(column[0][v], column[1][v]),
                           _mm512_add_ps(column[2][v], column[3][v]));
  }
  weights += keys / 4 * kGroupBytes;
  for (int j = keys; j < kKeyBlock; j += 4, weights += kGroupBytes) {
    for (int v = 0; v < vectors; ++v) {
      _mm512_storeu_si512(weights + 4 * v * kVectorLanes, _mm512_setzero_si512());
    }
  }
}

// Joins the block with what came before.
void join(const SoftmaxBlock& b, int first_lane, __m512 largest, __m512 sum) {
  const __m512 lowest = _mm512_set1_ps(-__builtin_inff());
  const __m512 before = _mm512_loadu_ps(b.running_max + first_lane);
  const __m512 joined = _mm512_max_ps(largest, before);
  const __mmask16 nothing = _mm512_cmp_ps_mask(joined, lowest, _CMP_EQ_OQ);
  const __m512 base = _mm512_mask_blend_ps(nothing, joined, _mm512_setzero_ps());
  const __m512 keep = exp2_of_nonpositive(_mm512_sub_ps(before, base));
  const __m512 gain = exp2_of_nonpositive(_mm512_sub_ps(largest, base));
  const __m512 total = _mm512_loadu_ps(b.running_sum + first_lane);
  _mm512_storeu_ps(b.keep + first_lane, keep);
  _mm512_storeu_ps(b.gain + first_lane, gain);
  _mm512_storeu_ps(b.running_max + first_lane, joined);
  _mm512_storeu_ps(b.running_sum + first_lane,
                   _mm512_fmadd_ps(total, keep, _mm512_mul_ps(gain, sum)));
}

template <Masking masking, int vectors>
void softmax_of(const SoftmaxBlock& b) {
  __m512 largest[vectors], reference[vectors], sum[vectors];
  if (b.score_zero != 0) {
    exponents_of<masking, true, vectors>(b, largest);
  } else {
    exponents_of<masking, false, vectors>(b, largest);
  }
  for (int v = 0; v < vectors; ++v) {
    // A lane that sees nothing here has every u = -inf; measured against 0 its weights are zero.
    const __mmask16 nothing =
        _mm512_cmp_ps_mask(largest[v], _mm512_set1_ps(-__builtin_inff()), _CMP_EQ_OQ);
    reference[v] = _mm512_mask_blend_ps(nothing, largest[v], _mm512_setzero_ps());
  }
  weights_of<vectors>(b, reference, sum);
  for (int v = 0; v < vectors; ++v) join(b, v * kVectorLanes, largest[v], sum[v]);
}

template <int vectors>
void softmax_masked(const SoftmaxBlock& b) {
  if (b.bias != nullptr) {
    softmax_of<kBias, vectors>(b);
  } else if (b.limits != nullptr) {
    softmax_of<kLimits, vectors>(b);
  } else {
    softmax_of<kNone, vectors>(b);
  }
}

}  // namespace

void softmax_avx512vnni(const SoftmaxBlock& block) {
  block.vectors == 1 ? softmax_masked<1>(block) : softmax_masked<2>(block);
}

}  // namespace qfa
