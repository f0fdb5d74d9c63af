// Scores and accumulation of one block: how the products of integers are driven.
//
// A Product multiplies kRows rows of codes by kSpan registers of lanes, of operands that are packed
// as it likes. Rows are taken first, since a Product may rearrange them. What the products of a row
// with packed weights lack is added to its sums.
#ifndef QFA_KERNELS_ARM_BLOCK_PRODUCTS_H_
#define QFA_KERNELS_ARM_BLOCK_PRODUCTS_H_

#include <arm_neon.h>

#include "kernels/kernels.h"
#include "kernels/score_zero.h"

#define QFA_INLINE inline __attribute__((always_inline))

namespace qfa {
namespace {

constexpr int kRows = 8;
constexpr int kSpan = 2;
constexpr int kWidth = 4;
constexpr int64_t kMostGroups = 256;  // 1024 channels

// Both operands are taken 16 channels (or keys) at a time: rows are zero up to there.
constexpr int64_t kGroupsAtOnce = 4;

// What is summed for kRows rows and kSpan * kWidth lanes.
struct Sums {
  int32x4_t at[kRows][kSpan];
};

template <class Product>
QFA_INLINE void scores_of(const int8_t* keys, int64_t key_stride, int64_t groups,
                          const uint8_t* packed, int key_count, int vectors, int32_t* scores) {
  Product product((groups + kGroupsAtOnce - 1) / kGroupsAtOnce * kGroupsAtOnce);
  for (int j = 0; j < key_count; j += kRows) {
    product.take(keys + j * key_stride, key_stride);
    for (int lane = 0; lane < vectors * kVectorLanes; lane += kSpan * kWidth) {
      const Sums sums = product.multiply(packed, lane, score_zero(groups));
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kSpan; ++v) {
          vst1q_s32(scores + (j + r) * kLanes + lane + v * kWidth, sums.at[r][v]);
        }
      }
    }
  }
}

template <class Product>
QFA_INLINE void accumulate_of(const int8_t* values, int64_t channels, const uint8_t* weights,
                              int key_count, const float* keep, const float* gain, int vectors,
                              float* output) {
  alignas(64) uint8_t packed[kKeyBlock * kLanes];
  Product::pack_weights(weights, key_count / 4, packed);
  Product product(key_count / 4);
  for (int64_t c = 0; c < channels; c += kRows) {
    const int8_t* rows = values + c * kKeyBlock;
    product.take(rows, kKeyBlock);
    int32_t missing[kRows];
    for (int r = 0; r < kRows; ++r) missing[r] = Product::missing(rows + r * kKeyBlock, key_count);
    for (int lane = 0; lane < vectors * kVectorLanes; lane += kSpan * kWidth) {
      const Sums sums = product.multiply(packed, lane, 0);
      for (int v = 0; v < kSpan; ++v) {
        const float32x4_t kept = vld1q_f32(keep + lane + v * kWidth);
        const float32x4_t gained = vld1q_f32(gain + lane + v * kWidth);
        for (int r = 0; r < kRows; ++r) {
          float* target = output + (c + r) * kLanes + lane + v * kWidth;
          const float32x4_t old = vmulq_f32(vld1q_f32(target), kept);
          const int32x4_t sum = vaddq_s32(sums.at[r][v], vdupq_n_s32(missing[r]));
          vst1q_f32(target, vfmaq_f32(old, gained, vcvtq_f32_s32(sum)));
        }
      }
    }
  }
}

}  // namespace
}  // namespace qfa

#endif  // QFA_KERNELS_ARM_BLOCK_PRODUCTS_H_
