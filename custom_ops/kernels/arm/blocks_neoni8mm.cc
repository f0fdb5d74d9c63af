// Integer products with the matrix product of FEAT_I8MM: two lanes times two rows, eight channels
// at a time, signed times signed for scores and unsigned times signed for weights.
#include "kernels/arm/block_products.h"

namespace qfa {
namespace {

// Packed operands and strips of rows hold eight channels of one lane or row, then of the next.
constexpr int kChannels = 8;
constexpr int kPackedBytes = kLanes * kChannels;
constexpr int kStripBytes = kRows * kChannels;

// Two rows of 16 channels, as two registers `apart` bytes from each other.
QFA_INLINE void put_pair(const int8_t* even, const int8_t* odd, int8_t* to, int apart) {
  const int64x2_t a = vreinterpretq_s64_s8(vld1q_s8(even));
  const int64x2_t b = vreinterpretq_s64_s8(vld1q_s8(odd));
  vst1q_s8(to, vreinterpretq_s8_s64(vtrn1q_s64(a, b)));
  vst1q_s8(to + apart, vreinterpretq_s8_s64(vtrn2q_s64(a, b)));
}

QFA_INLINE int32x4_t product_of(int32x4_t sum, int8x16_t lanes, int8x16_t rows) {
  return vmmlaq_s32(sum, lanes, rows);
}

QFA_INLINE int32x4_t product_of(int32x4_t sum, uint8x16_t lanes, int8x16_t rows) {
  return vusmmlaq_s32(sum, lanes, rows);
}

// Packed is the type of 16 bytes of the packed operand.
template <class Packed>
class Matrices {
 public:
  explicit Matrices(int64_t groups) : groups_(groups) {}

  void take(const int8_t* rows, int64_t stride) {
    int8_t* to = strip_;
    for (int64_t g = 0; g < groups_; g += kGroupsAtOnce, rows += 16, to += 2 * kStripBytes) {
      for (int r = 0; r < kRows; r += 2) {
        put_pair(rows + r * stride, rows + (r + 1) * stride, to + r * kChannels, kStripBytes);
      }
    }
  }

  QFA_INLINE Sums multiply(const uint8_t* packed, int lane, int32_t start) const {
    constexpr int kPairs = kSpan * kWidth / 2;
    int32x4_t product[kRows / 2][kPairs];
    for (int r = 0; r < kRows / 2; ++r) {
      for (int p = 0; p < kPairs; ++p) product[r][p] = vdupq_n_s32(start);
    }
    packed += lane * kChannels;
    const int8_t* strip = strip_;
#pragma GCC unroll 2
    for (int64_t g = 0; g < groups_; g += 2, packed += kPackedBytes, strip += kStripBytes) {
      int8x16_t row[kRows / 2];
#pragma GCC unroll 4
      for (int r = 0; r < kRows / 2; ++r) row[r] = vld1q_s8(strip + 16 * r);
#pragma GCC unroll 4
      for (int p = 0; p < kPairs; ++p) {
        const Packed x = (Packed)vld1q_u8(packed + 16 * p);
#pragma GCC unroll 4
        for (int r = 0; r < kRows / 2; ++r) product[r][p] = product_of(product[r][p], x, row[r]);
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

  static void pack_weights(const uint8_t* weights, int groups, uint8_t* packed) {
    for (int g = 0; g < groups; g += 2, weights += 2 * kGroupBytes, packed += kPackedBytes) {
      for (int lane = 0; lane < kLanes; lane += kWidth) {
        const uint32x4_t even = vreinterpretq_u32_u8(vld1q_u8(weights + 4 * lane));
        const uint32x4_t odd = vreinterpretq_u32_u8(vld1q_u8(weights + kGroupBytes + 4 * lane));
        uint8_t* to = packed + lane * kChannels;
        vst1q_u8(to, vreinterpretq_u8_u32(vzip1q_u32(even, odd)));
        vst1q_u8(to + 16, vreinterpretq_u8_u32(vzip2q_u32(even, odd)));
      }
    }
  }

  static int32_t missing(const int8_t*, int) { return 0; }

 private:
  const int64_t groups_;
  alignas(64) int8_t strip_[kMostGroups * 4 * kRows];
};

}  // namespace

void pack_queries_neoni8mm(const int8_t* rows, int64_t width, uint8_t* packed) {
  auto* to = reinterpret_cast<int8_t*>(packed);
  for (int64_t c = 0; c < width; c += 2 * kChannels, to += 2 * kPackedBytes) {
    for (int lane = 0; lane < kLanes; lane += 2) {
      const int8_t* row = rows + lane * width + c;
      put_pair(row, row + width, to + lane * kChannels, kPackedBytes);
    }
  }
}

void scores_neoni8mm(const int8_t* keys, int64_t key_stride, int64_t groups, const uint8_t* packed,
                     const int32_t*, int key_count, int vectors, int32_t* scores) {
  scores_of<Matrices<int8x16_t>>(keys, key_stride, groups, packed, key_count, vectors, scores);
}

void accumulate_neoni8mm(const int8_t* values, int64_t channels, const uint8_t* weights,
                         int key_count, const float* keep, const float* gain, int vectors,
                         float* output) {
  accumulate_of<Matrices<uint8x16_t>>(values, channels, weights, key_count, keep, gain, vectors,
                                      output);
}

}  // namespace qfa
