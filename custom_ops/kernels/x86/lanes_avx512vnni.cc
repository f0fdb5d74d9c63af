// Kernels of kernels/lanes/ with AVX-512.
#include <immintrin.h>

#include "kernels/lanes/cap_scores.h"
#include "kernels/lanes/float_products.h"
#include "kernels/lanes/float_softmax.h"
#include "kernels/lanes/joins.h"

namespace qfa {
namespace {

struct Sixteen {
  using Mask = __mmask16;
  static constexpr int kWidth = 16;

  static Sixteen load(const float* from) { return {_mm512_loadu_ps(from)}; }
  static Sixteen spread(float x) { return {_mm512_set1_ps(x)}; }
  static Sixteen fma(Sixteen a, Sixteen b, Sixteen c) {
    return {_mm512_fmadd_ps(a.value, b.value, c.value)};
  }
  static Mask less(Sixteen a, Sixteen b) {
    return _mm512_cmp_ps_mask(a.value, b.value, _CMP_LT_OQ);
  }
  static Mask equal(Sixteen a, Sixteen b) {
    return _mm512_cmp_ps_mask(a.value, b.value, _CMP_EQ_OQ);
  }
  static Sixteen select(Mask mask, Sixteen a, Sixteen b) {
    return {_mm512_mask_blend_ps(mask, b.value, a.value)};
  }
  static Sixteen round(Sixteen x) {
    return {_mm512_roundscale_ps(x.value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  static Sixteen times_power(Sixteen x, Sixteen n) { return {_mm512_scalef_ps(x.value, n.value)}; }
  static Sixteen magnitude(Sixteen x) { return {_mm512_andnot_ps(_mm512_set1_ps(-0.0f), x.value)}; }
  static Sixteen with_sign_of(Sixteen x, Sixteen y) {
    return {_mm512_or_ps(x.value, _mm512_and_ps(_mm512_set1_ps(-0.0f), y.value))};
  }
  static Sixteen from_ints(const int32_t* ints, int32_t add) {
    return {_mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_loadu_si512(ints), _mm512_set1_epi32(add)))};
  }
  static Mask above(const int32_t* ints, int32_t j) {
    return _mm512_cmpgt_epi32_mask(_mm512_loadu_si512(ints), _mm512_set1_epi32(j));
  }
  Sixteen operator+(Sixteen b) const { return {_mm512_add_ps(value, b.value)}; }
  Sixteen operator-(Sixteen b) const { return {_mm512_sub_ps(value, b.value)}; }
  Sixteen operator*(Sixteen b) const { return {_mm512_mul_ps(value, b.value)}; }
  Sixteen operator/(Sixteen b) const { return {_mm512_div_ps(value, b.value)}; }
  void store(float* to) const { _mm512_storeu_ps(to, value); }

  __m512 value;
};

}  // namespace

void cap_scores_avx512vnni(const CapBlock& block) { cap_block<Sixteen>(block); }

void float_softmax_avx512vnni(const FloatBlock& block) {
  block.vectors == 1 ? float_block<Sixteen, 1>(block) : float_block<Sixteen, 2>(block);
}

void float_scores_avx512vnni(const float* keys, int64_t channels, const float* queries,
                             int key_count, int vectors, float* scores) {
  if (vectors == 1) {
    score_lanes<Sixteen, 16, 1>(keys, channels, queries, key_count, 0, scores);
  } else {
    score_lanes<Sixteen, 8, 2>(keys, channels, queries, key_count, 0, scores);
  }
}

void float_accumulate_avx512vnni(const float* values, int64_t channels, const float* weights,
                                 int key_count, const float* keep, int vectors, float* output) {
  if (vectors == 1) {
    accumulate_lanes<Sixteen, 16, 1>(values, channels, weights, key_count, keep, 0, output);
  } else {
    accumulate_lanes<Sixteen, 8, 2>(values, channels, weights, key_count, keep, 0, output);
  }
}

void join_states_avx512vnni(const JoinBlock& block) { join_state_lanes<Sixteen>(block); }

void join_lanes_avx512vnni(const float* part, int64_t channels, const float* keep,
                           const float* gain, int vectors, float* total) {
  join_channel_lanes<Sixteen>(part, channels, keep, gain, vectors, total);
}

void join_rows_avx512vnni(const float* part, int64_t channels, int query_count, const float* keep,
                          const float* gain, float* total) {
  join_query_rows<Sixteen>(part, channels, query_count, keep, gain, total);
}

}  // namespace qfa
