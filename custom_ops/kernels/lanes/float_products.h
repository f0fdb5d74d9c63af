// The two products of attention in float32: see float_scores_fn and float_accumulate_fn.
//
// `rows` rows times `span` registers of sums stay in registers.
#ifndef QFA_KERNELS_LANES_FLOAT_PRODUCTS_H_
#define QFA_KERNELS_LANES_FLOAT_PRODUCTS_H_

#include <stdint.h>

#include "kernels/kernels.h"
#include "kernels/lanes/lanes.h"

namespace qfa {
namespace {

// Factors of the rows: row r, step k at base[r * row + k * step].
struct Rows {
  const float* base;
  int64_t row, step;
};

// sum[r][v] = sum over steps of rows[r][step] * lanes[step][v], in this order.
template <class Vector, int rows, int span>
QFA_INLINE void multiply(const Rows& factors, const float* lanes, int64_t steps,
                         Vector (&sum)[rows][span]) {
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < span; ++v) sum[r][v] = Vector::spread(0.0f);
  }
  const float* base = factors.base;
  const int64_t row = factors.row;
  for (int64_t k = 0; k < steps; ++k, base += factors.step, lanes += kLanes) {
    Vector x[span];
#pragma GCC unroll 16
    for (int v = 0; v < span; ++v) x[v] = Vector::load(lanes + v * Vector::kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      const Vector factor = Vector::spread(base[r * row]);
#pragma GCC unroll 16
      for (int v = 0; v < span; ++v) sum[r][v] = Vector::fma(factor, x[v], sum[r][v]);
    }
  }
}

// `span` registers of lanes from `lane` on, of `count` rows, a multiple of `rows`.
template <class Vector, int rows, int span>
void score_lanes(const float* keys, int64_t channels, const float* queries, int count, int lane,
                 float* scores) {
  for (int j = 0; j < count; j += rows) {
    Vector sum[rows][span];
    multiply(Rows{keys + j * channels, channels, 1}, queries + lane, channels, sum);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
      for (int v = 0; v < span; ++v) {
        sum[r][v].store(scores + (j + r) * kLanes + lane + v * Vector::kWidth);
      }
    }
  }
}

template <class Vector, int rows, int span>
void accumulate_lanes(const float* values, int64_t channels, const float* weights, int count,
                      const float* keep, int lane, float* output) {
  Vector kept[span];
#pragma GCC unroll 16
  for (int v = 0; v < span; ++v) kept[v] = Vector::load(keep + lane + v * Vector::kWidth);
  for (int64_t c = 0; c < channels; c += rows) {
    Vector sum[rows][span];
    multiply(Rows{values + c, 1, channels}, weights + lane, count, sum);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
      for (int v = 0; v < span; ++v) {
        float* target = output + (c + r) * kLanes + lane + v * Vector::kWidth;
        Vector::fma(Vector::load(target), kept[v], sum[r][v]).store(target);
      }
    }
  }
}

}  // namespace
}  // namespace qfa

#endif  // QFA_KERNELS_LANES_FLOAT_PRODUCTS_H_
