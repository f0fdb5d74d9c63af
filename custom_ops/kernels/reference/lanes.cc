// Kernels of kernels/lanes/ in plain C++.
#include "kernels/lanes/cap_scores.h"
#include "kernels/lanes/float_products.h"
#include "kernels/lanes/float_softmax.h"

namespace qfa {
namespace {

struct One {
  static constexpr int kWidth = 1;

  static One zero() { return {0.0f}; }
  static One load(const float* from) { return {*from}; }
  static One spread(float x) { return {x}; }
  static One fma(One a, One b, One c) { return {__builtin_fmaf(a.value, b.value, c.value)}; }
  void store(float* to) const { *to = value; }

  float value;
};

}  // namespace

void cap_scores_scalar(const CapBlock& block) { cap_block(block); }

void float_softmax_scalar(const FloatBlock& block) { float_block(block); }

void float_scores_scalar(const float* keys, int64_t channels, const float* queries, int key_count,
                         int vectors, float* scores) {
  for (int lane = 0; lane < vectors * kVectorLanes; lane += 4) {
    score_lanes<One, 2, 4>(keys, channels, queries, key_count, lane, scores);
  }
}

void float_accumulate_scalar(const float* values, int64_t channels, const float* weights,
                             int key_count, const float* keep, int vectors, float* output) {
  for (int lane = 0; lane < vectors * kVectorLanes; lane += 4) {
    accumulate_lanes<One, 2, 4>(values, channels, weights, key_count, keep, lane, output);
  }
}

}  // namespace qfa
