// Integer products with the matrix product of FEAT_I8MM: two lanes times two rows, eight channels
// at a time, unsigned times signed.
#include "kernels/arm/block_products.h"

namespace qfa {
namespace {

class Matrices {
 public:
  Matrices(const uint8_t* packed, int64_t groups, int lanes) : groups_(groups) {
    // Two groups side by side: eight channels of one lane, then eight of the next.
    uint8_t* to = packed_;
    for (int lane = 0; lane < lanes; lane += kSpan * kWidth) {
      const uint8_t* from = packed + 4 * lane;
      for (int64_t g = 0; g < groups; g += 2, from += 2 * kGroupBytes) {
        for (int v = 0; v < kSpan; ++v, to += 32) {
          const uint32x4_t first = vreinterpretq_u32_u8(vld1q_u8(from + 16 * v));
          const uint32x4_t second = vreinterpretq_u32_u8(vld1q_u8(from + kGroupBytes + 16 * v));
          vst1q_u8(to, vreinterpretq_u8_u32(vzip1q_u32(first, second)));
          vst1q_u8(to + 16, vreinterpretq_u8_u32(vzip2q_u32(first, second)));
        }
      }
    }
  }

  void take(const int8_t* rows, int64_t stride) {
    // Eight channels of one row, then of the next.
    int8_t* to = strip_;
    for (int64_t g = 0; g < groups_; g += kGroupsAtOnce, rows += 16, to += kRows * 16) {
      for (int r = 0; r < kRows; r += 2) {
        const int64x2_t even = vreinterpretq_s64_s8(vld1q_s8(rows + r * stride));
        const int64x2_t odd = vreinterpretq_s64_s8(vld1q_s8(rows + (r + 1) * stride));
        vst1q_s8(to + 8 * r, vreinterpretq_s8_s64(vtrn1q_s64(even, odd)));
        vst1q_s8(to + 8 * r + kRows * 8, vreinterpretq_s8_s64(vtrn2q_s64(even, odd)));
      }
    }
  }

  QFA_INLINE Sums multiply(int lane) const {
    constexpr int kPairs = kSpan * kWidth / 2;
    int32x4_t product[kRows / 2][kPairs];
    for (int r = 0; r < kRows / 2; ++r) {
      for (int p = 0; p < kPairs; ++p) product[r][p] = vdupq_n_s32(0);
    }
    const uint8_t* packed = packed_ + lane * 4 * groups_;
    const int8_t* strip = strip_;
#pragma GCC unroll 2
    for (int64_t g = 0; g < groups_; g += 2, packed += kPairs * 16, strip += kRows * 8) {
      int8x16_t row[kRows / 2];
#pragma GCC unroll 4
      for (int r = 0; r < kRows / 2; ++r) row[r] = vld1q_s8(strip + 16 * r);
#pragma GCC unroll 4
      for (int p = 0; p < kPairs; ++p) {
        const uint8x16_t x = vld1q_u8(packed + 16 * p);
#pragma GCC unroll 4
        for (int r = 0; r < kRows / 2; ++r) {
          product[r][p] = vusmmlaq_s32(product[r][p], x, row[r]);
        }
      }
    }
    // Each product holds two lanes, and of each lane two rows.
    Sums sums;
    for (int r = 0; r < kRows / 2; ++r) {
      for (int v = 0; v < kSpan; ++v) {
        sums.at[2 * r][v] = vuzp1q_s32(product[r][2 * v], product[r][2 * v + 1]);
        sums.at[2 * r + 1][v] = vuzp2q_s32(product[r][2 * v], product[r][2 * v + 1]);
      }
    }
    return sums;
  }

 private:
  const int64_t groups_;
  alignas(64) uint8_t packed_[kMostGroups * kGroupBytes];
  alignas(64) int8_t strip_[kMostGroups * 4 * kRows];
};

}  // namespace

void scores_neoni8mm(const int8_t* keys, int64_t key_stride, int64_t groups, const uint8_t* packed,
                     const int32_t* start, int key_count, int vectors, int32_t* scores) {
  scores_of<Matrices>(keys, key_stride, groups, packed, start, key_count, vectors, scores);
}

void accumulate_neoni8mm(const int8_t* values, int64_t channels, const uint8_t* weights,
                         int key_count, const float* keep, const float* gain, int vectors,
                         float* output) {
  accumulate_of<Matrices>(values, channels, weights, key_count, keep, gain, vectors, output);
}

}  // namespace qfa
