// Attention in bfloat16 with NEON, widened to float32; see kernels/bfloats.h.
#include "kernels/lanes/bfloats.h"

#include <arm_neon.h>

#define QFA_INLINE inline __attribute__((always_inline))

namespace qfa {
namespace {

constexpr int kRows = 8;
constexpr int kSpan = 2;
constexpr int kWidth = 4;
constexpr int64_t kMostWidth = 1024;

struct Four {
  static constexpr int kWidth = 4, kRows = 8;
  static void softmax(const FloatBlock& block) { float_softmax_neondot(block); }
};

struct Sums {
  float32x4_t at[kRows][kSpan];
};

void widen(const uint16_t* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; i += 8) {
    const uint16x8_t x = vld1q_u16(from + i);
    vst1q_f32(to + i, vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(x), 16)));
    vst1q_f32(to + i + 4, vreinterpretq_f32_u32(vshll_high_n_u16(x, 16)));
  }
}

// Two channels of each lane: those with number 2 * half and the next of the four in `row`.
template <int half>
QFA_INLINE void add_pair(const float32x4_t (&row)[kRows], const uint16_t* pair, Sums& sums) {
#pragma GCC unroll 2
  for (int v = 0; v < kSpan; ++v) {
    const uint32x4_t both = vreinterpretq_u32_u16(vld1q_u16(pair + 2 * v * kWidth));
    const float32x4_t first = vreinterpretq_f32_u32(vshlq_n_u32(both, 16));
    const float32x4_t second = vreinterpretq_f32_u32(vandq_u32(both, vdupq_n_u32(0xffff0000u)));
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      sums.at[r][v] = vfmaq_laneq_f32(sums.at[r][v], first, row[r], 2 * half);
      sums.at[r][v] = vfmaq_laneq_f32(sums.at[r][v], second, row[r], 2 * half + 1);
    }
  }
}

// Sums over `count` channels (or keys) of kRows rows and kSpan registers of lanes.
QFA_INLINE Sums multiply(const float* rows, int64_t stride, int64_t count, const uint16_t* lanes) {
  Sums sums;
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kSpan; ++v) sums.at[r][v] = vdupq_n_f32(0.0f);
  }
  for (int64_t c = 0; c < count; c += 4, lanes += 4 * kLanes) {
    float32x4_t row[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) row[r] = vld1q_f32(rows + r * stride + c);
    add_pair<0>(row, lanes, sums);
    add_pair<1>(row, lanes + 2 * kLanes, sums);
  }
  return sums;
}

}  // namespace

void pack_bfloats_neondot(const uint16_t* rows, int64_t width, uint16_t* packed) {
  // As codes are packed: two bfloats move as four codes do.
  pack_queries_neondot(reinterpret_cast<const int8_t*>(rows), 2 * width,
                       reinterpret_cast<uint8_t*>(packed));
}

void transpose_bfloats_neondot(const uint16_t* rows, int64_t row_stride, int64_t channels,
                               uint16_t* columns) {
  // 8 x 8 at a time: three rounds, each pairs row i with row i + 4 and interleaves them.
  for (int64_t c = 0; c < channels; c += 8) {
    for (int64_t j = 0; j < kKeyBlock; j += 8) {
      uint16x8_t x[8], y[8];
      const auto interleave = [](const uint16x8_t(&from)[8], uint16x8_t(&to)[8]) {
        for (int i = 0; i < 4; ++i) {
          to[2 * i] = vzip1q_u16(from[i], from[i + 4]);
          to[2 * i + 1] = vzip2q_u16(from[i], from[i + 4]);
        }
      };
      for (int i = 0; i < 8; ++i) x[i] = vld1q_u16(rows + (j + i) * row_stride + c);
      interleave(x, y);
      interleave(y, x);
      interleave(x, y);
      for (int i = 0; i < 8; ++i) vst1q_u16(columns + (c + i) * kKeyBlock + j, y[i]);
    }
  }
}

void bfloat_scores_neondot(const uint16_t* keys, int64_t width, const uint16_t* packed,
                           int key_count, int vectors, float* scores) {
  alignas(64) float rows[kRows * kMostWidth];
  for (int64_t j = 0; j < key_count; j += kRows) {
    widen(keys + j * width, kRows * width, rows);
    for (int lane = 0; lane < vectors * kVectorLanes; lane += kSpan * kWidth) {
      const Sums sums = multiply(rows, width, width, packed + 2 * lane);
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kSpan; ++v) {
          vst1q_f32(scores + (j + r) * kLanes + lane + v * kWidth, sums.at[r][v]);
        }
      }
    }
  }
}

void bfloat_softmax_neondot(const FloatBlock& block, const float* key_scale,
                            const float* value_scale, uint16_t* weights) {
  Bfloats<Four>::softmax(block, key_scale, value_scale, weights);
}

void bfloat_accumulate_neondot(const uint16_t* values, int64_t channels, const uint16_t* weights,
                               const float* keep, int vectors, float* output) {
  alignas(64) float rows[kRows * kKeyBlock];
  for (int64_t c = 0; c < channels; c += kRows) {
    widen(values + c * kKeyBlock, kRows * kKeyBlock, rows);
    for (int lane = 0; lane < vectors * kVectorLanes; lane += kSpan * kWidth) {
      const Sums sums = multiply(rows, kKeyBlock, kKeyBlock, weights + 2 * lane);
      for (int v = 0; v < kSpan; ++v) {
        const float32x4_t kept = vld1q_f32(keep + lane + v * kWidth);
        for (int r = 0; r < kRows; ++r) {
          float* target = output + (c + r) * kLanes + lane + v * kWidth;
          vst1q_f32(target, vfmaq_f32(sums.at[r][v], vld1q_f32(target), kept));
        }
      }
    }
  }
}

}  // namespace qfa
