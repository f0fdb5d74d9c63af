// Integer products with a few queries and the dot product.
#include "kernels/arm/few_products.h"

namespace qfa {
namespace {

// Signed values are made unsigned by adding 128; 128 times the sum of the weights goes off.
struct UnsignedDot {
  static QFA_INLINE int32x4_t start(const uint8_t* weights) {
    uint32x4_t sum = vdupq_n_u32(0);
    for (int j = 0; j < kKeyBlock; j += 16) {
      sum = vdotq_u32(sum, vld1q_u8(weights + j), vdupq_n_u8(128));
    }
    return vdupq_n_s32(-static_cast<int32_t>(vaddvq_u32(sum)));
  }
  static QFA_INLINE int8x16_t values(int8x16_t codes) { return veorq_s8(codes, vdupq_n_s8(-128)); }
  template <int group>
  static QFA_INLINE int32x4_t dot(int32x4_t sum, int8x16_t codes, uint8x16_t weights) {
    return vreinterpretq_s32_u32(
        vdotq_laneq_u32(vreinterpretq_u32_s32(sum), vreinterpretq_u8_s8(codes), weights, group));
  }
};

// Products of `count` queries with `rows` keys at a time.
template <int count, int rows>
void score(const int8_t* keys, int64_t key_stride, int64_t width, const int8_t* queries,
           int key_count, int32_t* scores) {
  for (int j = 0; j < key_count; j += rows) {
    int32x4_t sum[count][rows];
    for (int q = 0; q < count; ++q) {
      for (int r = 0; r < rows; ++r) sum[q][r] = vdupq_n_s32(0);
    }
    const int8_t* key = keys + j * key_stride;
    for (int64_t c = 0; c < width; c += 16) {
      int8x16_t query[count];
#pragma GCC unroll 8
      for (int q = 0; q < count; ++q) query[q] = vld1q_s8(queries + q * width + c);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        const int8x16_t codes = vld1q_s8(key + r * key_stride + c);
#pragma GCC unroll 8
        for (int q = 0; q < count; ++q) sum[q][r] = vdotq_s32(sum[q][r], query[q], codes);
      }
    }
    for (int q = 0; q < count; ++q) {
      for (int r = 0; r < rows; r += 4) {
        const int32x4_t first = vpaddq_s32(sum[q][r], sum[q][r + 1]);
        const int32x4_t second = vpaddq_s32(sum[q][r + 2], sum[q][r + 3]);
        vst1q_s32(scores + q * kKeyBlock + j + r, vpaddq_s32(first, second));
      }
    }
  }
}

}  // namespace

void few_scores_neondot(const int8_t* keys, int64_t key_stride, int64_t width,
                        const int8_t* queries, int query_count, int key_count, int32_t* scores) {
  for (; query_count > 4; query_count -= 4, queries += 4 * width, scores += 4 * kKeyBlock) {
    score<4, 4>(keys, key_stride, width, queries, key_count, scores);
  }
  switch (query_count) {
    case 1:
      return score<1, 8>(keys, key_stride, width, queries, key_count, scores);
    case 2:
      return score<2, 8>(keys, key_stride, width, queries, key_count, scores);
    case 3:
      return score<3, 4>(keys, key_stride, width, queries, key_count, scores);
    default:
      return score<4, 4>(keys, key_stride, width, queries, key_count, scores);
  }
}

void few_accumulate_neondot(const int8_t* values, int64_t value_stride, int64_t channels,
                            const uint8_t* weights, int query_count, const float* keep,
                            const float* gain, float* output) {
  accumulate_few<UnsignedDot>(values, value_stride, weights, query_count,
                              {keep, gain, output, channels});
}

}  // namespace qfa
