// Softmax of one block with AVX-512: lanes are queries, so nothing is ever summed across a vector.
#include <immintrin.h>

#include "kernels/exp2.h"
#include "kernels/kernels.h"

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

enum Masking { kNone, kLimits, kBias };

template <Masking masking>
void softmax_vector(const SoftmaxBlock& b, int first_lane) {
  const __m512 lowest = _mm512_set1_ps(-__builtin_inff());
  const __m512 query_scale = _mm512_loadu_ps(b.query_scale + first_lane);
  __m512i limit = _mm512_setzero_si512();
  if (masking != kNone && b.limits != nullptr) {
    limit = _mm512_loadu_si512(b.limits + first_lane);
  } else {
    limit = _mm512_set1_epi32(kKeyBlock);
  }

  int32_t* scores = b.scores + first_lane;
  __m512 largest = lowest;
  for (int j = 0; j < b.keys; ++j, scores += kLanes) {
    const __m512i score =
        _mm512_add_epi32(_mm512_loadu_si512(scores), _mm512_set1_epi32(b.correction[j]));
    const __m512 t = _mm512_mul_ps(_mm512_cvtepi32_ps(score), query_scale);
    __m512 u = _mm512_fmadd_ps(t, _mm512_set1_ps(b.key_scale[j]), _mm512_set1_ps(b.value_log2[j]));
    if (masking != kNone) {
      __mmask16 seen = _mm512_cmplt_epi32_mask(_mm512_set1_epi32(j), limit);
      if (masking == kBias) {
        const __m512 bias = _mm512_loadu_ps(b.bias + j * kLanes + first_lane);
        seen &= _mm512_cmp_ps_mask(bias, lowest, _CMP_NEQ_UQ);
        u = _mm512_fmadd_ps(bias, _mm512_set1_ps(kLog2E), u);
      }
      u = _mm512_mask_blend_ps(seen, lowest, u);
    }
    largest = _mm512_max_ps(u, largest);  // takes the second operand when u is NaN
    _mm512_storeu_ps(scores, u);
  }

  // A lane that sees nothing here has every u = -inf; measured against 0 its weights are zero.
  const __mmask16 nothing = _mm512_cmp_ps_mask(largest, lowest, _CMP_EQ_OQ);
  const __m512 reference = _mm512_mask_blend_ps(nothing, largest, _mm512_setzero_ps());
  const __m512 steps = _mm512_set1_ps(255.0f), shift = _mm512_set1_ps(0x1p23f);
  const __m512i low_byte = _mm512_set1_epi32(0xff);
  const int32_t* exponents = b.scores + first_lane;
  uint8_t* weights = b.weights + 4 * first_lane;
  __m512 sum = _mm512_setzero_ps();
  for (int j = 0; j < b.keys; j += 4, weights += kGroupBytes) {
    __m512i code[4];
    for (int i = 0; i < 4; ++i, exponents += kLanes) {
      const __m512 y = exp2_of_nonpositive(_mm512_sub_ps(_mm512_loadu_ps(exponents), reference));
      sum = _mm512_fmadd_ps(y, _mm512_set1_ps(b.value_inverse[j + i]), sum);
      code[i] = _mm512_castps_si512(_mm512_fmadd_ps(y, steps, shift));
    }
    // The code is the low byte of each lane; the bytes above it fall out of the shifts.
    constexpr int kAndOr = 0xea, kOrOr = 0xfe;
    __m512i packed =
        _mm512_ternarylogic_epi32(code[0], low_byte, _mm512_slli_epi32(code[3], 24), kAndOr);
    const __m512i second = _mm512_slli_epi32(code[1], 8);
    const __m512i third = _mm512_slli_epi32(code[2], 16);
    packed = _mm512_ternarylogic_epi32(packed, second, third, kOrOr);
    _mm512_storeu_si512(weights, packed);
  }
  for (int j = b.keys; j < kKeyBlock; j += 4, weights += kGroupBytes) {
    _mm512_storeu_si512(weights, _mm512_setzero_si512());
  }

  const __m512 before = _mm512_loadu_ps(b.running_max + first_lane);
  const __m512 joined = _mm512_max_ps(largest, before);
  const __mmask16 still_nothing = _mm512_cmp_ps_mask(joined, lowest, _CMP_EQ_OQ);
  const __m512 base = _mm512_mask_blend_ps(still_nothing, joined, _mm512_setzero_ps());
  const __m512 keep = exp2_of_nonpositive(_mm512_sub_ps(before, base));
  const __m512 gain = exp2_of_nonpositive(_mm512_sub_ps(largest, base));
  const __m512 total = _mm512_loadu_ps(b.running_sum + first_lane);
  _mm512_storeu_ps(b.keep + first_lane, keep);
  _mm512_storeu_ps(b.gain + first_lane, gain);
  _mm512_storeu_ps(b.running_max + first_lane, joined);
  _mm512_storeu_ps(b.running_sum + first_lane,
                   _mm512_fmadd_ps(total, keep, _mm512_mul_ps(gain, sum)));
}

}  // namespace

void softmax_avx512vnni(const SoftmaxBlock& block) {
  for (int lane = 0; lane < block.vectors * kVectorLanes; lane += kVectorLanes) {
    if (block.bias != nullptr) {
      softmax_vector<kBias>(block, lane);
    } else if (block.limits != nullptr) {
      softmax_vector<kLimits>(block, lane);
    } else {
      softmax_vector<kNone>(block, lane);
    }
  }
}

}  // namespace qfa
