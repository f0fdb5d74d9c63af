// Kernels of kernels/lanes/ with AVX2.
#include <immintrin.h>

#include "kernels/lanes/cap_scores.h"
#include "kernels/lanes/float_products.h"
#include "kernels/lanes/float_softmax.h"
#include "kernels/lanes/joins.h"

namespace qfa {
namespace {

struct Eight {
  struct Mask {
    __m256 lanes;
  };
  static constexpr int kWidth = 8;

  static Eight load(const float* from) { return {_mm256_loadu_ps(from)}; }
  static Eight spread(float x) { return {_mm256_set1_ps(x)}; }
  static Eight fma(Eight a, Eight b, Eight c) {
    return {_mm256_fmadd_ps(a.value, b.value, c.value)};
  }
  static Mask less(Eight a, Eight b) { return {_mm256_cmp_ps(a.value, b.value, _CMP_LT_OQ)}; }
  static Mask equal(Eight a, Eight b) { return {_mm256_cmp_ps(a.value, b.value, _CMP_EQ_OQ)}; }
  static Eight select(Mask mask, Eight a, Eight b) {
    return {_mm256_blendv_ps(b.value, a.value, mask.lanes)};
  }
  static Eight round(Eight x) {
    return {_mm256_round_ps(x.value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  static Eight times_power(Eight x, Eight n) {
    // A NaN becomes INT_MIN here, which the shift turns into 0: NaN stays NaN.
    const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n.value), 23);
    return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x.value), exponent))};
  }
  static Eight magnitude(Eight x) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), x.value)}; }
  static Eight with_sign_of(Eight x, Eight y) {
    return {_mm256_or_ps(x.value, _mm256_and_ps(_mm256_set1_ps(-0.0f), y.value))};
  }
  static __m256i load_ints(const int32_t* ints) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(ints));
  }
  static Eight from_ints(const int32_t* ints, int32_t add) {
    return {_mm256_cvtepi32_ps(_mm256_add_epi32(load_ints(ints), _mm256_set1_epi32(add)))};
  }
  static Mask above(const int32_t* ints, int32_t j) {
    return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(load_ints(ints), _mm256_set1_epi32(j)))};
  }
  Eight operator+(Eight b) const { return {_mm256_add_ps(value, b.value)}; }
  Eight operator-(Eight b) const { return {_mm256_sub_ps(value, b.value)}; }
  Eight operator*(Eight b) const { return {_mm256_mul_ps(value, b.value)}; }
  Eight operator/(Eight b) const { return {_mm256_div_ps(value, b.value)}; }
  void store(float* to) const { _mm256_storeu_ps(to, value); }

  __m256 value;
};

}  // namespace

void cap_scores_avx2(const CapBlock& block) { cap_block<Eight>(block); }

void float_softmax_avx2(const FloatBlock& block) { float_block<Eight, 2>(block); }

void float_scores_avx2(const float* keys, int64_t channels, const float* queries, int key_count,
                       int vectors, float* scores) {
  for (int lane = 0; lane < vectors * kVectorLanes; lane += kVectorLanes) {
    score_lanes<Eight, 4, 2>(keys, channels, queries, key_count, lane, scores);
  }
}

void float_accumulate_avx2(const float* values, int64_t channels, const float* weights,
                           int key_count, const float* keep, int vectors, float* output) {
  for (int lane = 0; lane < vectors * kVectorLanes; lane += kVectorLanes) {
    accumulate_lanes<Eight, 4, 2>(values, channels, weights, key_count, keep, lane, output);
  }
}

void join_states_avx2(const JoinBlock& block) { join_state_lanes<Eight>(block); }

void join_lanes_avx2(const float* part, int64_t channels, const float* keep, const float* gain,
                     int vectors, float* total) {
  join_channel_lanes<Eight>(part, channels, keep, gain, vectors, total);
}

void join_rows_avx2(const float* part, int64_t channels, int query_count, const float* keep,
                    const float* gain, float* total) {
  join_query_rows<Eight>(part, channels, query_count, keep, gain, total);
}

}  // namespace qfa
