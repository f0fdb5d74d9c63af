// Integer products with the dot product of two signed operands. Queries are packed as they are.
// Weights are unsigned: their codes less 128 are multiplied, and 128 times the sum of each row of
// values is added.
#include "kernels/arm/block_products.h"

namespace qfa {
namespace {

class Dots {
 public:
  explicit Dots(int64_t groups) : groups_(groups) {}

  void take(const int8_t* rows, int64_t stride) {
    rows_ = rows;
    stride_ = stride;
  }

  // Inlined into longer functions, or with a stride that is known, GCC 12 finds too few registers.
  __attribute__((noinline)) Sums multiply(const uint8_t* packed, int lane, int32_t start) const {
    Sums sums;
    int64_t stride = stride_;
    __asm__("" : "+r"(stride));
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kSpan; ++v) sums.at[r][v] = vdupq_n_s32(start);
    }
    const auto* lanes = reinterpret_cast<const int8_t*>(packed) + 4 * lane;
    const int8_t* rows = rows_;
    for (int64_t g = 0; g < groups_; g += kGroupsAtOnce, rows += 16) {
      int8x16_t row[kRows];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) row[r] = vld1q_s8(rows + r * stride);
      // The index of a lane must be a constant.
      dot<0>(row, lanes, sums);
      dot<1>(row, lanes, sums);
      dot<2>(row, lanes, sums);
      dot<3>(row, lanes, sums);
      lanes += kGroupsAtOnce * kGroupBytes;
    }
    return sums;
  }

  static void pack_weights(const uint8_t* weights, int groups, uint8_t* packed) {
    for (int i = 0; i < groups * kGroupBytes; i += 16) {
      vst1q_u8(packed + i, veorq_u8(vld1q_u8(weights + i), vdupq_n_u8(0x80)));
    }
  }

  static QFA_INLINE int32_t missing(const int8_t* values, int key_count) {
    int32x4_t sum = vdupq_n_s32(0);
    for (int j = 0; j < key_count; j += 16) {
      sum = vdotq_s32(sum, vld1q_s8(values + j), vdupq_n_s8(64));
    }
    return 2 * vaddvq_s32(sum);
  }

 private:
  template <int group>
  static QFA_INLINE void dot(const int8x16_t (&row)[kRows], const int8_t* lanes, Sums& sums) {
#pragma GCC unroll 2
    for (int v = 0; v < kSpan; ++v) {
      const int8x16_t x = vld1q_s8(lanes + group * kGroupBytes + 16 * v);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        sums.at[r][v] = vdotq_laneq_s32(sums.at[r][v], x, row[r], group);
      }
    }
  }

  const int64_t groups_;
  const int8_t* rows_ = nullptr;
  int64_t stride_ = 0;
};

}  // namespace

void scores_neondot(const int8_t* keys, int64_t key_stride, int64_t groups, const uint8_t* packed,
                    const int32_t*, int key_count, int vectors, int32_t* scores) {
  scores_of<Dots>(keys, key_stride, groups, packed, key_count, vectors, scores);
}

void accumulate_neondot(const int8_t* values, int64_t channels, const uint8_t* weights,
                        int key_count, const float* keep, const float* gain, int vectors,
                        float* output) {
  accumulate_of<Dots>(values, channels, weights, key_count, keep, gain, vectors, output);
}

}  // namespace qfa
