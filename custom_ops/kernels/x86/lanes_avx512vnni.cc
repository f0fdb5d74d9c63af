// Kernels of kernels/lanes/ with AVX-512.
#include <immintrin.h>

#include "kernels/lanes/cap_scores.h"
#include "kernels/lanes/float_products.h"
#include "kernels/lanes/float_softmax.h"

namespace qfa {
namespace {

struct Sixteen {
  static constexpr int kWidth = 16;

  static Sixteen zero() { return {_mm512_setzero_ps()}; }
  static Sixteen load(const float* from) { return {_mm512_loadu_ps(from)}; }
  static Sixteen spread(float x) { return {_mm512_set1_ps(x)}; }
  static Sixteen fma(Sixteen a, Sixteen b, Sixteen c) {
    return {_mm512_fmadd_ps(a.value, b.value, c.value)};
  }
  void store(float* to) const { _mm512_storeu_ps(to, value); }

  __m512 value;
};

}  // namespace

void cap_scores_avx512vnni(const CapBlock& block) { cap_block(block); }

void float_softmax_avx512vnni(const FloatBlock& block) { float_block(block); }

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

}  // namespace qfa
