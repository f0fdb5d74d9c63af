// Kernels of kernels/lanes/ with AVX2.
#include <immintrin.h>

#include "kernels/lanes/cap_scores.h"
#include "kernels/lanes/float_products.h"
#include "kernels/lanes/float_softmax.h"

namespace qfa {
namespace {

struct Eight {
  static constexpr int kWidth = 8;

  static Eight zero() { return {_mm256_setzero_ps()}; }
  static Eight load(const float* from) { return {_mm256_loadu_ps(from)}; }
  static Eight spread(float x) { return {_mm256_set1_ps(x)}; }
  static Eight fma(Eight a, Eight b, Eight c) {
    return {_mm256_fmadd_ps(a.value, b.value, c.value)};
  }
  void store(float* to) const { _mm256_storeu_ps(to, value); }

  __m256 value;
};

}  // namespace

void cap_scores_avx2(const CapBlock& block) { cap_block(block); }

void float_softmax_avx2(const FloatBlock& block) { float_block(block); }

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

}  // namespace qfa
