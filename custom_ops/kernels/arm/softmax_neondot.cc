// Softmax of one block with NEON: lanes are queries, so nothing is ever summed across a vector.
#include "kernels/arm/exp2.h"
#include "kernels/kernels.h"
#include "kernels/score_zero.h"

namespace qfa {
namespace {

// Registers side by side, so that the steps of one hide the latency of the others.
constexpr int kSpan = 2;
constexpr int kWidth = 4;

enum Masking { kNone, kLimits, kBias };

// Scores times the scale of their query; `narrow` ones are floats as they lie.
template <bool narrow>
QFA_INLINE float32x4_t scaled(int32x4_t score, float32x4_t scale, float32x4_t shift) {
  if (narrow) return vfmaq_f32(shift, vreinterpretq_f32_s32(score), scale);
  return vmulq_f32(vcvtq_f32_s32(score), scale);
}

// Turns scores into exponents in place and finds the largest of each lane.
template <Masking masking, bool narrow>
QFA_INLINE void exponents_of(const SoftmaxBlock& b, int first_lane, float32x4_t (&largest)[kSpan]) {
  float32x4_t query_scale[kSpan], shift[kSpan];
  int32x4_t limit[kSpan];
  for (int v = 0; v < kSpan; ++v) {
    const int lane = first_lane + v * kWidth;
    query_scale[v] = vld1q_f32(b.query_scale + lane);
    shift[v] = vmulq_n_f32(query_scale[v], -kFloatOfScoreZero);
    limit[v] = masking != kNone && b.limits != nullptr ? vld1q_s32(b.limits + lane)
                                                       : vdupq_n_s32(kKeyBlock);
    largest[v] = lowest();
  }
  // Stores might change the block itself, as far as the compiler knows.
  const int keys = b.keys;
  const float *key_scale = b.key_scale, *value_log2 = b.value_log2, *bias_row = b.bias;
  int32_t* scores = b.scores + first_lane;
#pragma GCC unroll 4
  for (int j = 0; j < keys; ++j, scores += kLanes) {
    for (int v = 0; v < kSpan; ++v) {
      const int32x4_t score = vld1q_s32(scores + v * kWidth);
      const float32x4_t t = scaled<narrow>(score, query_scale[v], shift[v]);
      float32x4_t u = vfmaq_n_f32(vdupq_n_f32(value_log2[j]), t, key_scale[j]);
      if (masking != kNone) {
        uint32x4_t seen = vcgtq_s32(limit[v], vdupq_n_s32(j));
        if (masking == kBias) {
          const float32x4_t bias = vld1q_f32(bias_row + j * kLanes + first_lane + v * kWidth);
          seen = vbicq_u32(seen, vceqq_f32(bias, lowest()));
          u = vfmaq_n_f32(u, bias, kLog2E);
        }
        u = vbslq_f32(seen, u, lowest());
      }
      largest[v] = vmaxnmq_f32(largest[v], u);  // the number where u is NaN
      vst1q_f32(reinterpret_cast<float*>(scores + v * kWidth), u);
    }
  }
}

// Turns exponents into packed weights and sums the weights of each lane.
QFA_INLINE void weights_of(const SoftmaxBlock& b, int first_lane,
                           const float32x4_t (&reference)[kSpan], float32x4_t (&sum)[kSpan]) {
  const float32x4_t steps = vdupq_n_f32(255.0f), shift = vdupq_n_f32(0x1p23f);
  const auto* exponents = reinterpret_cast<const float*>(b.scores + first_lane);
  const float* value_inverse = b.value_inverse;
  uint8_t* weights = b.weights + 4 * first_lane;
  const int keys = b.keys;
  float32x4_t column[4][kSpan];
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) {
    float32x4_t part[4][kSpan];
    for (int i = 0; i < 4; ++i) {
      for (int v = 0; v < kSpan; ++v) part[i][v] = vdupq_n_f32(0.0f);
    }
    for (int j = 4 * q; j < keys; j += 16) {
      const float32x4_t inverse = vld1q_f32(value_inverse + j);
      uint32x4_t code[4][kSpan];
      const auto take = [&]<int i>() __attribute__((always_inline)) {
#pragma GCC unroll 2
        for (int v = 0; v < kSpan; ++v) {
          const float32x4_t u = vld1q_f32(exponents + (j + i) * kLanes + v * kWidth);
          const float32x4_t y = weight_exp2(vsubq_f32(u, reference[v]));
          part[i][v] = vfmaq_laneq_f32(part[i][v], y, inverse, i);
          code[i][v] = vreinterpretq_u32_f32(vfmaq_f32(shift, y, steps));
        }
      };
      take.template operator()<0>();
      take.template operator()<1>();
      take.template operator()<2>();
      take.template operator()<3>();
      for (int v = 0; v < kSpan; ++v) {
        // The code is the low byte of each lane; each insertion drops the bytes above it.
        uint32x4_t packed = vsliq_n_u32(code[0][v], code[1][v], 8);
        packed = vsliq_n_u32(packed, code[2][v], 16);
        packed = vsliq_n_u32(packed, code[3][v], 24);
        vst1q_u8(weights + j / 4 * kGroupBytes + 4 * v * kWidth, vreinterpretq_u8_u32(packed));
      }
    }
    for (int v = 0; v < kSpan; ++v) {
      column[q][v] =
          vaddq_f32(vaddq_f32(part[0][v], part[1][v]), vaddq_f32(part[2][v], part[3][v]));
    }
  }
  for (int v = 0; v < kSpan; ++v) {
    sum[v] =
        vaddq_f32(vaddq_f32(column[0][v], column[1][v]), vaddq_f32(column[2][v], column[3][v]));
  }
  weights += keys / 4 * kGroupBytes;
  for (int j = keys; j < kKeyBlock; j += 4, weights += kGroupBytes) {
    for (int v = 0; v < kSpan; ++v) vst1q_u8(weights + 4 * v * kWidth, vdupq_n_u8(0));
  }
}

// Joins the block with what came before.
QFA_INLINE void join(const SoftmaxBlock& b, int lane, float32x4_t largest, float32x4_t sum) {
  const float32x4_t before = vld1q_f32(b.running_max + lane);
  const float32x4_t joined = vmaxnmq_f32(largest, before);
  const float32x4_t base = zero_for_nothing(joined);
  const float32x4_t keep = exp2_of_nonpositive(vsubq_f32(before, base));
  const float32x4_t gain = exp2_of_nonpositive(vsubq_f32(largest, base));
  const float32x4_t total = vld1q_f32(b.running_sum + lane);
  vst1q_f32(b.keep + lane, keep);
  vst1q_f32(b.gain + lane, gain);
  vst1q_f32(b.running_max + lane, joined);
  vst1q_f32(b.running_sum + lane, vfmaq_f32(vmulq_f32(gain, sum), total, keep));
}

template <Masking masking, bool narrow>
void softmax_lanes(const SoftmaxBlock& b, int first_lane) {
  float32x4_t largest[kSpan], reference[kSpan], sum[kSpan];
  exponents_of<masking, narrow>(b, first_lane, largest);
  for (int v = 0; v < kSpan; ++v) reference[v] = zero_for_nothing(largest[v]);
  weights_of(b, first_lane, reference, sum);
  for (int v = 0; v < kSpan; ++v) join(b, first_lane + v * kWidth, largest[v], sum[v]);
}

template <bool narrow>
void softmax_block(const SoftmaxBlock& block) {
  for (int lane = 0; lane < block.vectors * kVectorLanes; lane += kSpan * kWidth) {
    if (block.bias != nullptr) {
      softmax_lanes<kBias, narrow>(block, lane);
    } else if (block.limits != nullptr) {
      softmax_lanes<kLimits, narrow>(block, lane);
    } else {
      softmax_lanes<kNone, narrow>(block, lane);
    }
  }
}

}  // namespace

void softmax_neondot(const SoftmaxBlock& block) {
  block.score_zero != 0 ? softmax_block<true>(block) : softmax_block<false>(block);
}

}  // namespace qfa
