// Softmax of one block in float32: see float_softmax_fn.
#ifndef QFA_KERNELS_LANES_FLOAT_SOFTMAX_H_
#define QFA_KERNELS_LANES_FLOAT_SOFTMAX_H_

#include "kernels/kernels.h"
#include "kernels/lanes/lanes.h"

namespace qfa {
namespace {

// For a block that has limits or biases, but not both.
alignas(64) const float kNoBias[kKeyBlock * kLanes] = {};

// Turns scores into exponents in place and finds the largest of each lane.
template <int lanes, bool masked, bool capped>
void float_exponents(const FloatBlock& b, float* largest) {
  constexpr float kLowest = -__builtin_inff();
  const float cap = b.cap, inverse = b.inverse;
  const float* bias_rows = masked && b.bias != nullptr ? b.bias : kNoBias;
  float query_scale[lanes];
  int32_t limits[lanes];
  for (int lane = 0; lane < lanes; ++lane) {
    query_scale[lane] = b.query_scale[lane];
    limits[lane] = masked && b.limits != nullptr ? b.limits[lane] : kKeyBlock;
    largest[lane] = kLowest;
  }
  for (int32_t j = 0; j < b.keys; ++j) {
    float* scores = b.scores + j * kLanes;
    const float* bias = bias_rows + j * kLanes;
    const float spoil = b.spoil[j];
    for (int lane = 0; lane < lanes; ++lane) {
      float u = scores[lane] * query_scale[lane];
      if (capped) u = cap * tanh_lane(u * inverse);
      u += spoil;
      if (masked) {
        u = __builtin_fmaf(bias[lane], kLog2E, u);
        u = bias[lane] == kLowest ? kLowest : u;
        u = j < limits[lane] ? u : kLowest;
      }
      scores[lane] = u;
      largest[lane] = u > largest[lane] ? u : largest[lane];
    }
  }
}

// Turns exponents into weights in place and joins the block with what came before.
template <int lanes>
void float_weights(const FloatBlock& b, const float* largest) {
  constexpr float kLowest = -__builtin_inff();
  float base[lanes], sum[lanes];
  for (int lane = 0; lane < lanes; ++lane) {
    const float before = b.running_max[lane];
    const float joined = largest[lane] > before ? largest[lane] : before;
    // A lane that has seen nothing has every exponent at -inf; against 0 its weights are zero.
    base[lane] = joined == kLowest ? 0.0f : joined;
    b.keep[lane] = exp2_lane(before - base[lane]);
    b.running_max[lane] = joined;
    sum[lane] = 0.0f;
  }
  for (int j = 0; j < b.keys; ++j) {
    float* scores = b.scores + j * kLanes;
    for (int lane = 0; lane < lanes; ++lane) {
      const float weight = exp2_lane(scores[lane] - base[lane]);
      scores[lane] = weight;
      sum[lane] += weight;
    }
  }
  for (int lane = 0; lane < lanes; ++lane) {
    b.running_sum[lane] = __builtin_fmaf(b.running_sum[lane], b.keep[lane], sum[lane]);
  }
}

template <int lanes, bool capped>
void float_lanes(const FloatBlock& b) {
  float largest[lanes];
  if (b.bias != nullptr || b.limits != nullptr) {
    float_exponents<lanes, true, capped>(b, largest);
  } else {
    float_exponents<lanes, false, capped>(b, largest);
  }
  float_weights<lanes>(b, largest);
}

inline void float_block(const FloatBlock& b) {
  if (b.vectors == 1) {
    b.cap > 0.0f ? float_lanes<kVectorLanes, true>(b) : float_lanes<kVectorLanes, false>(b);
  } else {
    b.cap > 0.0f ? float_lanes<kLanes, true>(b) : float_lanes<kLanes, false>(b);
  }
}

}  // namespace
}  // namespace qfa

#endif  // QFA_KERNELS_LANES_FLOAT_SOFTMAX_H_
