// Integer products of one block with a few queries: how values are turned so that four keys of a
// channel lie side by side, and how the products of their weights are driven.
#ifndef QFA_KERNELS_ARM_FEW_PRODUCTS_H_
#define QFA_KERNELS_ARM_FEW_PRODUCTS_H_

#include <arm_neon.h>

#include "kernels/kernels.h"

#define QFA_INLINE inline __attribute__((always_inline))

namespace qfa {
namespace {

// Four keys of four channels in each register of 16 channels.
QFA_INLINE void turn(const int8x16_t (&row)[4], int8x16_t (&columns)[4]) {
  const int16x8_t first = vreinterpretq_s16_s8(vzip1q_s8(row[0], row[1]));
  const int16x8_t second = vreinterpretq_s16_s8(vzip1q_s8(row[2], row[3]));
  const int16x8_t third = vreinterpretq_s16_s8(vzip2q_s8(row[0], row[1]));
  const int16x8_t fourth = vreinterpretq_s16_s8(vzip2q_s8(row[2], row[3]));
  columns[0] = vreinterpretq_s8_s16(vzip1q_s16(first, second));
  columns[1] = vreinterpretq_s8_s16(vzip2q_s16(first, second));
  columns[2] = vreinterpretq_s8_s16(vzip1q_s16(third, fourth));
  columns[3] = vreinterpretq_s8_s16(vzip2q_s16(third, fourth));
}

// The same for rows of 8 channels.
QFA_INLINE void turn(const int8x16_t (&row)[4], int8x16_t (&columns)[2]) {
  const int16x8_t first = vreinterpretq_s16_s8(vzip1q_s8(row[0], row[1]));
  const int16x8_t second = vreinterpretq_s16_s8(vzip1q_s8(row[2], row[3]));
  columns[0] = vreinterpretq_s8_s16(vzip1q_s16(first, second));
  columns[1] = vreinterpretq_s8_s16(vzip2q_s16(first, second));
}

template <int registers>
QFA_INLINE int8x16_t load_channels(const int8_t* from) {
  return registers == 4 ? vld1q_s8(from) : vcombine_s8(vld1_s8(from), vdup_n_s8(0));
}

// What is summed for `count` queries and 4 * registers channels.
template <int count, int registers>
struct FewSums {
  int32x4_t at[count][registers];
};

struct FewOutput {
  const float* keep;
  const float* gain;
  float* rows;
  int64_t channels;
};

// Products of `count` queries with a strip of values: 16 keys, four of them at a time.
//   Product::start(weights)              what the sums of a query start from
//   Product::values(codes)               codes as the product takes them
//   Product::dot<i>(sum, codes, weights) four keys of four channels times weights 4 * i...
template <class Product, int count, int registers>
void accumulate_strips(const int8_t* values, int64_t value_stride, const uint8_t* weights,
                       const FewOutput& output) {
  constexpr int kStrip = 4 * registers;
  int32x4_t start[count];
  for (int q = 0; q < count; ++q) start[q] = Product::start(weights + q * kKeyBlock);
  for (int64_t c = 0; c < output.channels; c += kStrip) {
    FewSums<count, registers> sums;
    for (int q = 0; q < count; ++q) {
      for (int i = 0; i < registers; ++i) sums.at[q][i] = start[q];
    }
    const int8_t* row = values + c;
    for (int j = 0; j < kKeyBlock; j += 16) {
      uint8x16_t weight[count];
#pragma GCC unroll 8
      for (int q = 0; q < count; ++q) weight[q] = vld1q_u8(weights + q * kKeyBlock + j);
      const auto four_keys = [&]<int group>() __attribute__((always_inline)) {
        int8x16_t rows[4], columns[registers];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i, row += value_stride) {
          rows[i] = Product::values(load_channels<registers>(row));
        }
        turn(rows, columns);
#pragma GCC unroll 4
        for (int i = 0; i < registers; ++i) {
#pragma GCC unroll 8
          for (int q = 0; q < count; ++q) {
            sums.at[q][i] = Product::template dot<group>(sums.at[q][i], columns[i], weight[q]);
          }
        }
      };
      four_keys.template operator()<0>();
      four_keys.template operator()<1>();
      four_keys.template operator()<2>();
      four_keys.template operator()<3>();
    }
    for (int q = 0; q < count; ++q) {
      for (int i = 0; i < registers; ++i) {
        float* target = output.rows + q * output.channels + c + 4 * i;
        const float32x4_t old = vmulq_n_f32(vld1q_f32(target), output.keep[q]);
        const float32x4_t sum = vcvtq_f32_s32(sums.at[q][i]);
        vst1q_f32(target, vfmaq_n_f32(old, sum, output.gain[q]));
      }
    }
  }
}

// With more queries fewer channels fit into the registers.
template <class Product>
QFA_INLINE void accumulate_few(const int8_t* values, int64_t value_stride, const uint8_t* weights,
                               int query_count, const FewOutput& output) {
  switch (query_count) {
    case 1:
      return accumulate_strips<Product, 1, 4>(values, value_stride, weights, output);
    case 2:
      return accumulate_strips<Product, 2, 4>(values, value_stride, weights, output);
    case 3:
      return accumulate_strips<Product, 3, 4>(values, value_stride, weights, output);
    case 4:
      return accumulate_strips<Product, 4, 4>(values, value_stride, weights, output);
    case 5:
      return accumulate_strips<Product, 5, 2>(values, value_stride, weights, output);
    case 6:
      return accumulate_strips<Product, 6, 2>(values, value_stride, weights, output);
    case 7:
      return accumulate_strips<Product, 7, 2>(values, value_stride, weights, output);
    default:
      return accumulate_strips<Product, 8, 2>(values, value_stride, weights, output);
  }
}

}  // namespace
}  // namespace qfa

#endif  // QFA_KERNELS_ARM_FEW_PRODUCTS_H_
