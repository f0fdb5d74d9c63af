// Softmax of one block in float32: see float_softmax_fn.
#ifndef QFA_KERNELS_LANES_FLOAT_SOFTMAX_H_
#define QFA_KERNELS_LANES_FLOAT_SOFTMAX_H_

#include "kernels/kernels.h"
#include "kernels/lanes/lanes.h"

namespace qfa {
namespace {

// Registers side by side, so that the steps of one hide the latency of the others.
template <class Vector, int span>
struct Registers {
  Vector at[span];
};

// Turns the scores of `span` registers of lanes into exponents in place; returns the largest of
// each lane.
template <class Vector, int span, bool masked, bool capped>
QFA_INLINE Registers<Vector, span> float_exponents(const FloatBlock& b, int first_lane) {
  const Vector lowest = Vector::spread(-__builtin_inff()), log2_e = Vector::spread(kLog2E);
  const Vector cap = Vector::spread(b.cap), inverse = Vector::spread(b.inverse);
  Registers<Vector, span> largest;
  Vector query_scale[span];
  for (int v = 0; v < span; ++v) {
    query_scale[v] = Vector::load(b.query_scale + first_lane + v * Vector::kWidth);
    largest.at[v] = lowest;
  }
  // Stores might change the block itself, as far as the compiler knows.
  const int32_t keys = b.keys;
  const float *spoils = b.spoil, *biases = b.bias;
  const int32_t* limits = b.limits;
  float* scores = b.scores + first_lane;
#pragma GCC unroll 4
  for (int32_t j = 0; j < keys; ++j) {
    const Vector spoil = Vector::spread(spoils[j]);
    for (int v = 0; v < span; ++v) {
      const int lane = first_lane + v * Vector::kWidth;
      float* score = scores + j * kLanes + v * Vector::kWidth;
      Vector u = Vector::load(score) * query_scale[v];
      if (capped) u = cap * tanh_lanes(u * inverse);
      u = u + spoil;
      if (masked && biases != nullptr) {
        const Vector bias = Vector::load(biases + j * kLanes + lane);
        u = Vector::select(Vector::equal(bias, lowest), lowest, Vector::fma(bias, log2_e, u));
      }
      if (masked && limits != nullptr) {
        u = Vector::select(Vector::above(limits + lane, j), u, lowest);
      }
      largest.at[v] = Vector::select(Vector::less(largest.at[v], u), u, largest.at[v]);
      u.store(score);
    }
  }
  return largest;
}

// Turns exponents into weights in place and joins the block with what came before.
template <class Vector, int span>
QFA_INLINE void float_weights(const FloatBlock& b, int first_lane,
                              const Registers<Vector, span>& largest) {
  const Vector lowest = Vector::spread(-__builtin_inff()), zero = Vector::spread(0.0f);
  Vector base[span], keep[span], column[4][span];
  for (int v = 0; v < span; ++v) {
    const int lane = first_lane + v * Vector::kWidth;
    const Vector before = Vector::load(b.running_max + lane);
    const Vector joined =
        Vector::select(Vector::less(before, largest.at[v]), largest.at[v], before);
    // A lane that has seen nothing has every exponent at -inf; against 0 its weights are zero.
    base[v] = Vector::select(Vector::equal(joined, lowest), zero, joined);
    keep[v] = exp2_lanes(before - base[v]);
    joined.store(b.running_max + lane);
    keep[v].store(b.keep + lane);
  }
  const int keys = b.keys;
  float* scores = b.scores + first_lane;
  for (int q = 0; q < 4; ++q) {
    Vector part[4][span];
    for (int i = 0; i < 4; ++i) {
      for (int v = 0; v < span; ++v) part[i][v] = zero;
    }
    for (int j = 4 * q; j < keys; j += 16) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        for (int v = 0; v < span; ++v) {
          float* score = scores + (j + i) * kLanes + v * Vector::kWidth;
          const Vector weight = exp2_lanes(Vector::load(score) - base[v]);
          part[i][v] = part[i][v] + weight;
          weight.store(score);
        }
      }
    }
    for (int v = 0; v < span; ++v) {
      column[q][v] = (part[0][v] + part[1][v]) + (part[2][v] + part[3][v]);
    }
  }
  for (int v = 0; v < span; ++v) {
    float* total = b.running_sum + first_lane + v * Vector::kWidth;
    const Vector sum = (column[0][v] + column[1][v]) + (column[2][v] + column[3][v]);
    Vector::fma(Vector::load(total), keep[v], sum).store(total);
  }
}

template <class Vector, int span, bool masked, bool capped>
void float_lanes(const FloatBlock& b) {
  for (int lane = 0; lane < b.vectors * kVectorLanes; lane += span * Vector::kWidth) {
    float_weights<Vector, span>(b, lane, float_exponents<Vector, span, masked, capped>(b, lane));
  }
}

template <class Vector, int span>
void float_block(const FloatBlock& b) {
  const bool masked = b.bias != nullptr || b.limits != nullptr;
  if (b.cap > 0.0f) {
    float_lanes<Vector, span, true, true>(b);
  } else if (masked) {
    float_lanes<Vector, span, true, false>(b);
  } else {
    float_lanes<Vector, span, false, false>(b);
  }
}

}  // namespace
}  // namespace qfa

#endif  // QFA_KERNELS_LANES_FLOAT_SOFTMAX_H_
