// Integer products with the dot product of two signed operands. The packed one is unsigned: its
// codes less 128 are multiplied, and 128 times the sum of each row is added.
#include "kernels/arm/block_products.h"

namespace qfa {
namespace {

class Dots {
 public:
  Dots(const uint8_t* packed, int64_t groups, int lanes) : groups_(groups) {
    // The registers of one strip of lanes lie side by side, as they are read.
    int8_t* to = packed_;
    for (int lane = 0; lane < lanes; lane += kSpan * kWidth) {
      const uint8_t* from = packed + 4 * lane;
      for (int64_t g = 0; g < groups; ++g, from += kGroupBytes, to += kSpan * 16) {
        for (int v = 0; v < kSpan; ++v) {
          const uint8x16_t x = veorq_u8(vld1q_u8(from + 16 * v), vdupq_n_u8(0x80));
          vst1q_s8(to + 16 * v, vreinterpretq_s8_u8(x));
        }
      }
    }
  }

  void take(const int8_t* rows, int64_t stride) {
    rows_ = rows;
    stride_ = stride;
    const int8x16_t steps = vdupq_n_s8(64);
    for (int r = 0; r < kRows; ++r) {
      int32x4_t sum = vdupq_n_s32(0);
      for (int64_t g = 0; g < groups_; g += kGroupsAtOnce) {
        sum = vdotq_s32(sum, vld1q_s8(rows + r * stride + 4 * g), steps);
      }
      start_[r] = 2 * vaddvq_s32(sum);
    }
  }

  QFA_INLINE Sums multiply(int lane) const {
    Sums sums;
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kSpan; ++v) sums.at[r][v] = vdupq_n_s32(start_[r]);
    }
    const int8_t* packed = packed_ + lane * 4 * groups_;
    const int8_t* rows = rows_;
    for (int64_t g = 0; g < groups_; g += kGroupsAtOnce, rows += 16) {
      int8x16_t row[kRows];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) row[r] = vld1q_s8(rows + r * stride_);
      // The index of a lane must be a constant.
      dot<0>(row, packed, sums);
      dot<1>(row, packed, sums);
      dot<2>(row, packed, sums);
      dot<3>(row, packed, sums);
      packed += kGroupsAtOnce * kSpan * 16;
    }
    return sums;
  }

 private:
  template <int group>
  static QFA_INLINE void dot(const int8x16_t (&row)[kRows], const int8_t* packed, Sums& sums) {
#pragma GCC unroll 2
    for (int v = 0; v < kSpan; ++v) {
      const int8x16_t x = vld1q_s8(packed + (group * kSpan + v) * 16);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        sums.at[r][v] = vdotq_laneq_s32(sums.at[r][v], x, row[r], group);
      }
    }
  }

  const int64_t groups_;
  const int8_t* rows_ = nullptr;
  int64_t stride_ = 0;
  int32_t start_[kRows];
  alignas(64) int8_t packed_[kMostGroups * kGroupBytes];
};

}  // namespace

void scores_neondot(const int8_t* keys, int64_t key_stride, int64_t groups, const uint8_t* packed,
                    const int32_t* start, int key_count, int vectors, int32_t* scores) {
  scores_of<Dots>(keys, key_stride, groups, packed, start, key_count, vectors, scores);
}

void accumulate_neondot(const int8_t* values, int64_t channels, const uint8_t* weights,
                        int key_count, const float* keep, const float* gain, int vectors,
                        float* output) {
  accumulate_of<Dots>(values, channels, weights, key_count, keep, gain, vectors, output);
}

}  // namespace qfa
