// Kernels of kernels/lanes/ in plain C++.
#include "kernels/lanes/cap_scores.h"
#include "kernels/lanes/float_products.h"
#include "kernels/lanes/float_softmax.h"
#include "kernels/lanes/joins.h"

namespace qfa {
namespace {

struct One {
  using Mask = bool;
  static constexpr int kWidth = 1;

  static One load(const float* from) { return {*from}; }
  static One spread(float x) { return {x}; }
  static One fma(One a, One b, One c) { return {__builtin_fmaf(a.value, b.value, c.value)}; }
  static Mask less(One a, One b) { return a.value < b.value; }
  static Mask equal(One a, One b) { return a.value == b.value; }
  static One select(Mask mask, One a, One b) { return mask ? a : b; }
  static One round(One x) { return {(x.value + kRounder) - kRounder}; }
  static One times_power(One x, One n) {
    // The sum holds n in its low bits.
    const One sum = {n.value + kRounder};
    return x.value != x.value ? x : of_bits(x.bits() + (sum.bits() << 23));
  }
  static One magnitude(One x) { return of_bits(x.bits() & kMagnitude); }
  static One with_sign_of(One x, One y) { return of_bits(x.bits() | (y.bits() & ~kMagnitude)); }
  static One from_ints(const int32_t* ints, int32_t add) {
    return {static_cast<float>(*ints + add)};
  }
  static Mask above(const int32_t* ints, int32_t j) { return *ints > j; }
  One operator+(One b) const { return {value + b.value}; }
  One operator-(One b) const { return {value - b.value}; }
  One operator*(One b) const { return {value * b.value}; }
  One operator/(One b) const { return {value / b.value}; }
  void store(float* to) const { *to = value; }

  static constexpr uint32_t kMagnitude = 0x7fffffffu;
  static constexpr float kRounder = 0x1.8p23f;
  static One of_bits(uint32_t bits) { return {__builtin_bit_cast(float, bits)}; }
  uint32_t bits() const { return __builtin_bit_cast(uint32_t, value); }

  float value;
};

}  // namespace

void cap_scores_scalar(const CapBlock& block) { cap_block<One>(block); }

void float_softmax_scalar(const FloatBlock& block) { float_block<One, 1>(block); }

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

void join_states_scalar(const JoinBlock& block) { join_state_lanes<One>(block); }

void join_lanes_scalar(const float* part, int64_t channels, const float* keep, const float* gain,
                       int vectors, float* total) {
  join_channel_lanes<One>(part, channels, keep, gain, vectors, total);
}

void join_rows_scalar(const float* part, int64_t channels, int query_count, const float* keep,
                      const float* gain, float* total) {
  join_query_rows<One>(part, channels, query_count, keep, gain, total);
}

}  // namespace qfa
