// Softmax of one block with AVX2: lanes are queries, so nothing is ever summed across a vector.
#include <immintrin.h>

#include "kernels/exp2.h"
#include "kernels/kernels.h"
#include "kernels/score_zero.h"

namespace qfa {
namespace {

constexpr int kWidth = 8;

__m256 exp2_of_nonpositive(__m256 x) {
  // A NaN becomes INT_MIN here, which the shift below turns into 0: NaN stays NaN.
  const __m256i exponent = _mm256_cvtps_epi32(x);
  const __m256 f = _mm256_sub_ps(x, _mm256_cvtepi32_ps(exponent));
  __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(kExp2C5), f, _mm256_set1_ps(kExp2C4));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kExp2C3));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kExp2C2));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kExp2C1));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f));
  const __m256i bits = _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(exponent, 23));
  const __m256 above = _mm256_cmp_ps(x, _mm256_set1_ps(kExp2Floor), _CMP_NLT_UQ);
  return _mm256_and_ps(_mm256_castsi256_ps(bits), above);
}

__m256 weight_exp2(__m256 x) {
  const __m256i exponent = _mm256_cvttps_epi32(x);
  const __m256 f = _mm256_sub_ps(x, _mm256_cvtepi32_ps(exponent));
  __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(kWeightExp2C3), f, _mm256_set1_ps(kWeightExp2C2));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kWeightExp2C1));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f));
  const __m256i bits = _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(exponent, 23));
  const __m256 above = _mm256_cmp_ps(x, _mm256_set1_ps(kExp2Floor), _CMP_NLT_UQ);
  return _mm256_and_ps(_mm256_castsi256_ps(bits), above);
}

// Scores as floats, times the scale of their query.
template <bool narrow>
__m256 scaled(__m256i score, __m256 scale, __m256 shift) {
  if (narrow) return _mm256_fmadd_ps(_mm256_castsi256_ps(score), scale, shift);
  return _mm256_mul_ps(_mm256_cvtepi32_ps(score), scale);
}

enum Masking { kNone, kLimits, kBias };

template <Masking masking, bool narrow>
void softmax_vector(const SoftmaxBlock& b, int first_lane) {
  const __m256 lowest = _mm256_set1_ps(-__builtin_inff());
  const __m256 query_scale = _mm256_loadu_ps(b.query_scale + first_lane);
  const __m256 shift_of_scores = _mm256_mul_ps(query_scale, _mm256_set1_ps(-kFloatOfScoreZero));
  const auto load = [](const int32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  };
  __m256i limit = _mm256_set1_epi32(kKeyBlock);
  if (masking != kNone && b.limits != nullptr) limit = load(b.limits + first_lane);

  int32_t* scores = b.scores + first_lane;
  __m256 largest = lowest;
  for (int j = 0; j < b.keys; ++j, scores += kLanes) {
    const __m256 t = scaled<narrow>(load(scores), query_scale, shift_of_scores);
    __m256 u = _mm256_fmadd_ps(t, _mm256_set1_ps(b.key_scale[j]), _mm256_set1_ps(b.value_log2[j]));
    if (masking != kNone) {
      __m256 seen = _mm256_castsi256_ps(_mm256_cmpgt_epi32(limit, _mm256_set1_epi32(j)));
      if (masking == kBias) {
        const __m256 bias = _mm256_loadu_ps(b.bias + j * kLanes + first_lane);
        seen = _mm256_and_ps(seen, _mm256_cmp_ps(bias, lowest, _CMP_NEQ_UQ));
        u = _mm256_fmadd_ps(bias, _mm256_set1_ps(kLog2E), u);
      }
      u = _mm256_blendv_ps(lowest, u, seen);
    }
    largest = _mm256_max_ps(u, largest);  // takes the second operand when u is NaN
    _mm256_storeu_ps(reinterpret_cast<float*>(scores), u);
  }

  // A lane that sees nothing here has every u = -inf; measured against 0 its weights are zero.
  const __m256 something = _mm256_cmp_ps(largest, lowest, _CMP_NEQ_OQ);
  const __m256 reference = _mm256_and_ps(largest, something);
  const __m256 steps = _mm256_set1_ps(255.0f), shift = _mm256_set1_ps(0x1p23f);
  const float* exponents = reinterpret_cast<const float*>(b.scores + first_lane);
  uint8_t* weights = b.weights + 4 * first_lane;
  __m256 column[4];
  for (int q = 0; q < 4; ++q) {
    __m256 part[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                      _mm256_setzero_ps()};
    for (int j = 4 * q; j < b.keys; j += 16) {
      __m256i code[4];
      for (int i = 0; i < 4; ++i) {
        const __m256 u = _mm256_loadu_ps(exponents + (j + i) * kLanes);
        const __m256 y = weight_exp2(_mm256_sub_ps(u, reference));
        part[i] = _mm256_fmadd_ps(y, _mm256_set1_ps(b.value_inverse[j + i]), part[i]);
        code[i] = _mm256_castps_si256(_mm256_fmadd_ps(y, steps, shift));
      }
      // The code is the low byte of each lane; the bytes above it fall out of the shifts.
      const __m256i low = _mm256_or_si256(_mm256_and_si256(code[0], _mm256_set1_epi32(0xff)),
                                          _mm256_slli_epi32(code[1], 8));
      const __m256i high =
          _mm256_or_si256(_mm256_slli_epi32(code[2], 16), _mm256_slli_epi32(code[3], 24));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(weights + j / 4 * kGroupBytes),
                          _mm256_or_si256(low, high));
    }
    column[q] = _mm256_add_ps(_mm256_add_ps(part[0], part[1]), _mm256_add_ps(part[2], part[3]));
  }
  const __m256 sum =
      _mm256_add_ps(_mm256_add_ps(column[0], column[1]), _mm256_add_ps(column[2], column[3]));
  weights += b.keys / 4 * kGroupBytes;
  for (int j = b.keys; j < kKeyBlock; j += 4, weights += kGroupBytes) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(weights), _mm256_setzero_si256());
  }

  const __m256 before = _mm256_loadu_ps(b.running_max + first_lane);
  const __m256 joined = _mm256_max_ps(largest, before);
  const __m256 base = _mm256_and_ps(joined, _mm256_cmp_ps(joined, lowest, _CMP_NEQ_OQ));
  const __m256 keep = exp2_of_nonpositive(_mm256_sub_ps(before, base));
  const __m256 gain = exp2_of_nonpositive(_mm256_sub_ps(largest, base));
  const __m256 total = _mm256_loadu_ps(b.running_sum + first_lane);
  _mm256_storeu_ps(b.keep + first_lane, keep);
  _mm256_storeu_ps(b.gain + first_lane, gain);
  _mm256_storeu_ps(b.running_max + first_lane, joined);
  _mm256_storeu_ps(b.running_sum + first_lane,
                   _mm256_fmadd_ps(total, keep, _mm256_mul_ps(gain, sum)));
}

template <bool narrow>
void softmax_block(const SoftmaxBlock& block) {
  for (int lane = 0; lane < block.vectors * kVectorLanes; lane += kWidth) {
    if (block.bias != nullptr) {
      softmax_vector<kBias, narrow>(block, lane);
    } else if (block.limits != nullptr) {
      softmax_vector<kLimits, narrow>(block, lane);
    } else {
      softmax_vector<kNone, narrow>(block, lane);
    }
  }
}

}  // namespace

void softmax_avx2(const SoftmaxBlock& block) {
  block.score_zero != 0 ? softmax_block<true>(block) : softmax_block<false>(block);
}

}  // namespace qfa
