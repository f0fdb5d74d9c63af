// Scores and accumulation of one block: how the products of integers are driven.
//
// A Product takes the packed operand (32 lanes of unsigned bytes) once, then strips of kRows rows
// of codes, and multiplies a strip by kSpan registers of lanes. It may rearrange both.
#ifndef QFA_KERNELS_ARM_BLOCK_PRODUCTS_H_
#define QFA_KERNELS_ARM_BLOCK_PRODUCTS_H_

#include <arm_neon.h>

#include "kernels/kernels.h"

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
                          const uint8_t* packed, const int32_t* start, int key_count, int vectors,
                          int32_t* scores) {
  const int lanes = vectors * kVectorLanes;
  const int64_t whole = (groups + kGroupsAtOnce - 1) / kGroupsAtOnce * kGroupsAtOnce;
  Product product(packed, whole, lanes);
  for (int j = 0; j < key_count; j += kRows) {
    product.take(keys + j * key_stride, key_stride);
    for (int lane = 0; lane < lanes; lane += kSpan * kWidth) {
      const Sums sums = product.multiply(lane);
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kSpan; ++v) {
          const int32x4_t score = vaddq_s32(sums.at[r][v], vdupq_n_s32(start[j + r]));
          vst1q_s32(scores + (j + r) * kLanes + lane + v * kWidth, score);
        }
      }
    }
  }
}

template <class Product>
QFA_INLINE void accumulate_of(const int8_t* values, int64_t channels, const uint8_t* weights,
                              int key_count, const float* keep, const float* gain, int vectors,
                              float* output) {
  const int lanes = vectors * kVectorLanes;
  Product product(weights, key_count / 4, lanes);
  for (int64_t c = 0; c < channels; c += kRows) {
    product.take(values + c * kKeyBlock, kKeyBlock);
    for (int lane = 0; lane < lanes; lane += kSpan * kWidth) {
      const Sums sums = product.multiply(lane);
      for (int v = 0; v < kSpan; ++v) {
        const float32x4_t kept = vld1q_f32(keep + lane + v * kWidth);
        const float32x4_t gained = vld1q_f32(gain + lane + v * kWidth);
        for (int r = 0; r < kRows; ++r) {
          float* target = output + (c + r) * kLanes + lane + v * kWidth;
          const float32x4_t old = vmulq_f32(vld1q_f32(target), kept);
          vst1q_f32(target, vfmaq_f32(old, gained, vcvtq_f32_s32(sums.at[r][v])));
        }
      }
    }
  }
}

}  // namespace
}  // namespace qfa

#endif  // QFA_KERNELS_ARM_BLOCK_PRODUCTS_H_
