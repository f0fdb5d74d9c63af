// Kernels of kernels/lanes/ with NEON.
#include <arm_neon.h>

#include "kernels/lanes/cap_scores.h"
#include "kernels/lanes/float_products.h"
#include "kernels/lanes/float_softmax.h"
#include "kernels/lanes/joins.h"

namespace qfa {
namespace {

struct Four {
  struct Mask {
    uint32x4_t lanes;
  };
  static constexpr int kWidth = 4;

  static Four load(const float* from) { return {vld1q_f32(from)}; }
  static Four spread(float x) { return {vdupq_n_f32(x)}; }
  static Four fma(Four a, Four b, Four c) { return {vfmaq_f32(c.value, a.value, b.value)}; }
  static Mask less(Four a, Four b) { return {vcltq_f32(a.value, b.value)}; }
  static Mask equal(Four a, Four b) { return {vceqq_f32(a.value, b.value)}; }
  static Four select(Mask mask, Four a, Four b) {
    return {vbslq_f32(mask.lanes, a.value, b.value)};
  }
  static Four round(Four x) { return {vrndnq_f32(x.value)}; }
  static Four times_power(Four x, Four n) {
    // A NaN becomes 0 here: NaN stays NaN.
    const int32x4_t exponent = vshlq_n_s32(vcvtnq_s32_f32(n.value), 23);
    return {vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x.value), exponent))};
  }
  static Four magnitude(Four x) { return {vabsq_f32(x.value)}; }
  static Four with_sign_of(Four x, Four y) {
    return {vbslq_f32(vdupq_n_u32(0x80000000u), y.value, x.value)};
  }
  static Four from_ints(const int32_t* ints, int32_t add) {
    return {vcvtq_f32_s32(vaddq_s32(vld1q_s32(ints), vdupq_n_s32(add)))};
  }
  static Mask above(const int32_t* ints, int32_t j) {
    return {vcgtq_s32(vld1q_s32(ints), vdupq_n_s32(j))};
  }
  Four operator+(Four b) const { return {vaddq_f32(value, b.value)}; }
  Four operator-(Four b) const { return {vsubq_f32(value, b.value)}; }
  Four operator*(Four b) const { return {vmulq_f32(value, b.value)}; }
  Four operator/(Four b) const { return {vdivq_f32(value, b.value)}; }
  void store(float* to) const { vst1q_f32(to, value); }

  float32x4_t value;
};

}  // namespace

void cap_scores_neondot(const CapBlock& block) { cap_block<Four>(block); }

void float_softmax_neondot(const FloatBlock& block) { float_block<Four, 2>(block); }

void float_scores_neondot(const float* keys, int64_t channels, const float* queries, int key_count,
                          int vectors, float* scores) {
  for (int lane = 0; lane < vectors * kVectorLanes; lane += kVectorLanes) {
    score_lanes<Four, 4, 4>(keys, channels, queries, key_count, lane, scores);
  }
}

void float_accumulate_neondot(const float* values, int64_t channels, const float* weights,
                              int key_count, const float* keep, int vectors, float* output) {
  for (int lane = 0; lane < vectors * kVectorLanes; lane += kVectorLanes) {
    accumulate_lanes<Four, 4, 4>(values, channels, weights, key_count, keep, lane, output);
  }
}

void join_states_neondot(const JoinBlock& block) { join_state_lanes<Four>(block); }

void join_lanes_neondot(const float* part, int64_t channels, const float* keep, const float* gain,
                        int vectors, float* total) {
  join_channel_lanes<Four>(part, channels, keep, gain, vectors, total);
}

void join_rows_neondot(const float* part, int64_t channels, int query_count, const float* keep,
                       const float* gain, float* total) {
  join_query_rows<Four>(part, channels, query_count, keep, gain, total);
}

}  // namespace qfa
