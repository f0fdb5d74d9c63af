// Softmax of a block of keys for a few queries with NEON: lanes are keys.
#include "kernels/arm/exp2.h"
#include "kernels/kernels.h"
#include "kernels/log2.h"

namespace qfa {
namespace {

// Keys are taken 16 at a time, four in each register: one register for each four parts of BlockSum.
constexpr int kParts = 4;
constexpr int kChunk = 16;

struct Parts {
  float32x4_t at[kParts];
};

QFA_INLINE Parts spread(float x) {
  const float32x4_t all = vdupq_n_f32(x);
  return {{all, all, all, all}};
}

// Exponents of 16 keys from `first` on after biases and limits: `bias` of this query, or null.
template <bool masked>
QFA_INLINE float32x4_t mask(float32x4_t u, const float* bias, int32_t limit, int first) {
  if (!masked) return u;
  const int32_t indices[4] = {0, 1, 2, 3};
  const int32x4_t key = vaddq_s32(vld1q_s32(indices), vdupq_n_s32(first));
  uint32x4_t seen = vcltq_s32(key, vdupq_n_s32(limit));
  if (bias != nullptr) {
    const float32x4_t added = vld1q_f32(bias + first);
    seen = vbicq_u32(seen, vceqq_f32(added, lowest()));
    u = vfmaq_n_f32(u, added, kLog2E);
  }
  return vbslq_f32(seen, u, lowest());
}

QFA_INLINE float largest_of(const Parts& x) {
  return vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(x.at[0], x.at[1]), vmaxnmq_f32(x.at[2], x.at[3])));
}

// BlockSum of its 16 parts.
QFA_INLINE float block_sum(const Parts& part) {
  const float32x4_t first = vpaddq_f32(part.at[0], part.at[1]);
  const float32x4_t second = vpaddq_f32(part.at[2], part.at[3]);
  const float32x4_t columns = vpaddq_f32(first, second);
  const float32x2_t halves = vpadd_f32(vget_low_f32(columns), vget_high_f32(columns));
  return vget_lane_f32(halves, 0) + vget_lane_f32(halves, 1);
}

QFA_INLINE float larger(float a, float b) { return b > a ? b : a; }
QFA_INLINE float zero_for_nothing(float x) { return x == -__builtin_inff() ? 0.0f : x; }

template <bool masked>
void softmax_row(const FewBlock& b, int q) {
  const float* bias = b.bias == nullptr ? nullptr : b.bias + q * kKeyBlock;
  const int32_t limit = b.limits == nullptr ? kKeyBlock : b.limits[q];
  const int32_t* scores = b.scores + q * kKeyBlock;
  const float query_scale = b.query_scale[q];
  float u[kKeyBlock];
  Parts most = spread(-__builtin_inff());
  for (int j = 0; j < b.keys; j += kChunk) {
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i) {
      const int k = j + 4 * i;
      const float32x4_t t = vmulq_n_f32(vcvtq_f32_s32(vld1q_s32(scores + k)), query_scale);
      const float32x4_t scaled =
          vfmaq_f32(vld1q_f32(b.value_log2 + k), t, vld1q_f32(b.key_scale + k));
      const float32x4_t x = mask<masked>(scaled, bias, limit, k);
      most.at[i] = vmaxnmq_f32(most.at[i], x);
      vst1q_f32(u + k, x);
    }
  }
  const float largest = largest_of(most);
  const float32x4_t reference = vdupq_n_f32(zero_for_nothing(largest));

  const float32x4_t steps = vdupq_n_f32(255.0f), shift = vdupq_n_f32(0x1p23f);
  uint8_t* weights = b.weights + q * kKeyBlock;
  Parts part = spread(0.0f);
  for (int j = 0; j < b.keys; j += kChunk) {
    uint16x8_t code[kParts];
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i) {
      const int k = j + 4 * i;
      const float32x4_t y = weight_exp2(vsubq_f32(vld1q_f32(u + k), reference));
      part.at[i] = vfmaq_f32(part.at[i], y, vld1q_f32(b.value_inverse + k));
      code[i] = vreinterpretq_u16_f32(vfmaq_f32(shift, y, steps));
    }
    // The code is the low byte of each lane.
    const uint16x8_t low = vuzp1q_u16(code[0], code[1]), high = vuzp1q_u16(code[2], code[3]);
    vst1q_u8(weights + j, vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high)));
  }
  for (int j = b.keys; j < kKeyBlock; j += kChunk) vst1q_u8(weights + j, vdupq_n_u8(0));

  const float before = b.running_max[q], joined = larger(before, largest);
  const float base = zero_for_nothing(joined);
  const float both[4] = {before - base, largest - base, 0.0f, 0.0f};
  const float32x4_t factors = exp2_of_nonpositive(vld1q_f32(both));
  b.keep[q] = vgetq_lane_f32(factors, 0);
  b.gain[q] = vgetq_lane_f32(factors, 1);
  b.running_max[q] = joined;
  b.running_sum[q] = __builtin_fmaf(b.running_sum[q], b.keep[q], b.gain[q] * block_sum(part));
}

template <bool masked>
void float_softmax_row(const FewFloatBlock& b, int q) {
  const float* bias = b.bias == nullptr ? nullptr : b.bias + q * kKeyBlock;
  const int32_t limit = b.limits == nullptr ? kKeyBlock : b.limits[q];
  float* scores = b.scores + q * kKeyBlock;
  const float query_scale = b.query_scale[q];
  const int keys = b.keys;
  const float* spoil = b.spoil;
  Parts most = spread(-__builtin_inff());
  for (int j = 0; j < keys; j += kChunk) {
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i) {
      const int k = j + 4 * i;
      const float32x4_t scaled = vmulq_n_f32(vld1q_f32(scores + k), query_scale);
      const float32x4_t x = mask<masked>(vaddq_f32(scaled, vld1q_f32(spoil + k)), bias, limit, k);
      most.at[i] = vmaxnmq_f32(most.at[i], x);
      vst1q_f32(scores + k, x);
    }
  }
  const float before = b.running_max[q], joined = larger(before, largest_of(most));
  const float base = zero_for_nothing(joined);
  const float32x4_t reference = vdupq_n_f32(base);
  Parts part = spread(0.0f);
  for (int j = 0; j < keys; j += kChunk) {
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i) {
      float* score = scores + j + 4 * i;
      const float32x4_t weight = exp2_of_nonpositive(vsubq_f32(vld1q_f32(score), reference));
      part.at[i] = vaddq_f32(part.at[i], weight);
      vst1q_f32(score, weight);
    }
  }
  b.keep[q] = vgetq_lane_f32(exp2_of_nonpositive(vdupq_n_f32(before - base)), 0);
  b.running_max[q] = joined;
  b.running_sum[q] = __builtin_fmaf(b.running_sum[q], b.keep[q], block_sum(part));
}

// As log2_of_scale of one number.
QFA_INLINE float32x4_t log2_of_scale(float32x4_t x) {
  const int32x4_t bits = vreinterpretq_s32_f32(x);
  const int32x4_t root = vdupq_n_s32(static_cast<int32_t>(kRootOfHalfBits));
  const int32x4_t exponent = vshrq_n_s32(vsubq_s32(bits, root), 23);
  const int32x4_t reduced = vsubq_s32(bits, vshlq_n_s32(exponent, 23));
  const float32x4_t z = vsubq_f32(vreinterpretq_f32_s32(reduced), vdupq_n_f32(1.0f));
  float32x4_t p = vdupq_n_f32(kLog2C9);
  constexpr float kRest[] = {kLog2C8, kLog2C7, kLog2C6, kLog2C5,
                             kLog2C4, kLog2C3, kLog2C2, kLog2C1};
  for (const float c : kRest) p = vaddq_f32(vmulq_f32(p, z), vdupq_n_f32(c));
  return vaddq_f32(vcvtq_f32_s32(exponent), vmulq_f32(p, z));
}

}  // namespace

void few_softmax_neondot(const FewBlock& block) {
  const bool masked = block.bias != nullptr || block.limits != nullptr;
  for (int q = 0; q < block.queries; ++q) {
    masked ? softmax_row<true>(block, q) : softmax_row<false>(block, q);
  }
}

void few_float_softmax_neondot(const FewFloatBlock& block) {
  const bool masked = block.bias != nullptr || block.limits != nullptr;
  for (int q = 0; q < block.queries; ++q) {
    masked ? float_softmax_row<true>(block, q) : float_softmax_row<false>(block, q);
  }
}

void value_scales_neondot(const void* scale, int count, float* log2, float* inverse) {
  const float32x4_t one = vdupq_n_f32(1.0f), nan = vdupq_n_f32(__builtin_nanf(""));
  const float32x4_t infinity = vdupq_n_f32(__builtin_inff());
  const auto* from = static_cast<const uint8_t*>(scale);
  for (int j = 0; j < count; j += 4) {
    const float32x4_t s = vreinterpretq_f32_u8(vld1q_u8(from + 4 * j));
    const uint32x4_t is_scale = vandq_u32(vcgezq_f32(s), vcltq_f32(s, infinity));
    const float32x4_t held = vmaxq_f32(s, vdupq_n_f32(kSmallestScale));
    const float32x4_t used = vbslq_f32(vceqzq_f32(s), vdupq_n_f32(kScaleOfZeroValue), held);
    vst1q_f32(log2 + j, vbslq_f32(is_scale, log2_of_scale(used), nan));
    vst1q_f32(inverse + j, vbslq_f32(is_scale, vdivq_f32(one, used), one));
  }
}

}  // namespace qfa
