// Integer products with a few queries and FEAT_I8MM: signed times unsigned, and matrices of two
// queries times two keys, eight channels at a time.
#include "kernels/arm/few_products.h"

namespace qfa {
namespace {

struct MixedDot {
  static QFA_INLINE int32x4_t start(const uint8_t*) { return vdupq_n_s32(0); }
  static QFA_INLINE int8x16_t values(int8x16_t codes) { return codes; }
  template <int group>
  static QFA_INLINE int32x4_t dot(int32x4_t sum, int8x16_t codes, uint8x16_t weights) {
    return vsudotq_laneq_s32(sum, codes, weights, group);
  }
};

constexpr int kKeys = 8;
constexpr int kMostWidth = 1024;

// Eight channels of one row, then of the other.
struct Pair {
  int8x16_t low, high;
};

QFA_INLINE Pair pair(const int8_t* even, const int8_t* odd) {
  const int64x2_t a = vreinterpretq_s64_s8(vld1q_s8(even));
  const int64x2_t b = vreinterpretq_s64_s8(vld1q_s8(odd));
  return {vreinterpretq_s8_s64(vtrn1q_s64(a, b)), vreinterpretq_s8_s64(vtrn2q_s64(a, b))};
}

// Products of up to 2 * pairs queries, given as pairs: for 16 channels those of each pair follow.
template <int pairs>
void score_pairs(const int8_t* keys, int64_t key_stride, int64_t width, const int8_t* paired,
                 int query_count, int key_count, int32_t* scores) {
  for (int j = 0; j < key_count; j += kKeys) {
    int32x4_t sum[pairs][kKeys / 2];
    for (int p = 0; p < pairs; ++p) {
      for (int k = 0; k < kKeys / 2; ++k) sum[p][k] = vdupq_n_s32(0);
    }
    const int8_t *key = keys + j * key_stride, *query = paired;
    for (int64_t c = 0; c < width; c += 16, key += 16, query += 32 * pairs) {
#pragma GCC unroll 4
      for (int k = 0; k < kKeys / 2; ++k) {
        const Pair codes = pair(key + 2 * k * key_stride, key + (2 * k + 1) * key_stride);
#pragma GCC unroll 4
        for (int p = 0; p < pairs; ++p) {
          sum[p][k] = vmmlaq_s32(sum[p][k], vld1q_s8(query + 32 * p), codes.low);
          sum[p][k] = vmmlaq_s32(sum[p][k], vld1q_s8(query + 32 * p + 16), codes.high);
        }
      }
    }
    for (int p = 0; p < pairs; ++p) {
      for (int k = 0; k < kKeys / 2; k += 2) {
        const int64x2_t a = vreinterpretq_s64_s32(sum[p][k]);
        const int64x2_t b = vreinterpretq_s64_s32(sum[p][k + 1]);
        int32_t* target = scores + 2 * p * kKeyBlock + j + 2 * k;
        vst1q_s32(target, vreinterpretq_s32_s64(vtrn1q_s64(a, b)));
        if (2 * p + 1 == query_count) continue;
        vst1q_s32(target + kKeyBlock, vreinterpretq_s32_s64(vtrn2q_s64(a, b)));
      }
    }
  }
}

}  // namespace

void few_scores_neoni8mm(const int8_t* keys, int64_t key_stride, int64_t width,
                         const int8_t* queries, int query_count, int key_count, int32_t* scores) {
  if (query_count <= 2) {  // too few to pay for the pairing of keys
    return few_scores_neondot(keys, key_stride, width, queries, query_count, key_count, scores);
  }
  const int pairs = (query_count + 1) / 2;
  alignas(64) int8_t paired[kMostFew * kMostWidth];
  for (int p = 0; p < pairs; ++p) {
    const int8_t* even = queries + 2 * p * width;
    const int8_t* odd = 2 * p + 1 < query_count ? even + width : even;
    for (int64_t c = 0; c < width; c += 16) {
      const Pair codes = pair(even + c, odd + c);
      int8_t* to = paired + 2 * pairs * c + 32 * p;
      vst1q_s8(to, codes.low);
      vst1q_s8(to + 16, codes.high);
    }
  }
  switch (pairs) {
    case 2:
      return score_pairs<2>(keys, key_stride, width, paired, query_count, key_count, scores);
    case 3:
      return score_pairs<3>(keys, key_stride, width, paired, query_count, key_count, scores);
    default:
      return score_pairs<4>(keys, key_stride, width, paired, query_count, key_count, scores);
  }
}

void few_accumulate_neoni8mm(const int8_t* values, int64_t value_stride, int64_t channels,
                             const uint8_t* weights, int query_count, const float* keep,
                             const float* gain, float* output) {
  accumulate_few<MixedDot>(values, value_stride, weights, query_count,
                           {keep, gain, output, channels});
}

}  // namespace qfa
