// The three steps on a block of keys, in plain C++: scores, softmax, accumulation.
#include <math.h>
#include <string.h>

#include <bit>

#include "kernels/exp2.h"
#include "kernels/kernels.h"
#include "kernels/reference/block_sum.h"
#include "kernels/reference/exp2.h"
#include "kernels/score_zero.h"

namespace qfa {
namespace {

float exponent_of(const SoftmaxBlock& b, int key, int lane) {
  const float t =
      static_cast<float>(b.scores[key * kLanes + lane] - b.score_zero) * b.query_scale[lane];
  float u = fmaf(t, b.key_scale[key], b.value_log2[key]);
  if (b.bias != nullptr) {
    const float bias = b.bias[key * kLanes + lane];
    u = bias == -INFINITY ? -INFINITY : fmaf(bias, kLog2E, u);
  }
  const bool beyond = b.limits != nullptr && key >= b.limits[lane];
  return beyond ? -INFINITY : u;
}

}  // namespace

void pack_queries_scalar(const int8_t* rows, int64_t width, uint8_t* packed) {
  for (int64_t g = 0; g < width / 4; ++g) {
    for (int lane = 0; lane < kLanes; ++lane, packed += 4) {
      memcpy(packed, rows + lane * width + 4 * g, 4);
    }
  }
}

void scores_scalar(const int8_t* keys, int64_t key_stride, int64_t groups, const uint8_t* packed,
                   const int32_t*, int key_count, int vectors, int32_t* scores) {
  for (int j = 0; j < key_count; ++j) {
    const int8_t* key = keys + j * key_stride;
    for (int lane = 0; lane < vectors * kVectorLanes; ++lane) {
      int32_t sum = score_zero(groups);
      for (int64_t g = 0; g < groups; ++g) {
        int8_t query[4];
        memcpy(query, packed + g * kGroupBytes + lane * 4, 4);
        for (int i = 0; i < 4; ++i) sum += key[4 * g + i] * query[i];
      }
      scores[j * kLanes + lane] = sum;
    }
  }
}

BiasSummary read_bias_scalar(const void* const* rows, int vectors, int count, float* tile) {
  BiasSummary summary = {false, false, false};
  memset(tile, 0, sizeof(float) * kKeyBlock * kLanes);
  for (int lane = 0; lane < vectors * kVectorLanes; ++lane) {
    for (int j = 0; j < count; ++j) {
      float bias;
      memcpy(&bias, static_cast<const char*>(rows[lane]) + 4 * j, 4);
      const bool masked = bias <= kLowestBias;
      summary.any_masked |= masked;
      summary.any_seen |= !masked;
      summary.any_bias |= !masked && bias != 0.0f;
      if (masked) bias = -INFINITY;
      if (bias > kGreatestBias && isfinite(bias)) bias = kGreatestBias;
      tile[j * kLanes + lane] = bias;
    }
  }
  return summary;
}

void softmax_scalar(const SoftmaxBlock& b) {
  memset(b.weights, 0, kKeyBlock * kLanes);
  for (int lane = 0; lane < b.vectors * kVectorLanes; ++lane) {
    float largest = -INFINITY;
    for (int j = 0; j < b.keys; ++j) {
      const float u = exponent_of(b, j, lane);
      if (u > largest) largest = u;
    }
    // A lane that sees nothing here has every u = -inf; measured against 0 its weights are zero.
    const float reference = largest == -INFINITY ? 0.0f : largest;
    float part[16] = {};
    for (int j = 0; j < b.keys; ++j) {
      const float y = weight_exp2(exponent_of(b, j, lane) - reference);
      part[j % 16] = fmaf(y, b.value_inverse[j], part[j % 16]);
      b.weights[(j / 4) * kGroupBytes + lane * 4 + j % 4] = weight_code(y);
    }
    const float sum = block_sum(part);
    const float before = b.running_max[lane];
    const float joined = largest > before ? largest : before;
    const float base = joined == -INFINITY ? 0.0f : joined;
    b.keep[lane] = exp2_of_nonpositive(before - base);
    b.gain[lane] = exp2_of_nonpositive(largest - base);
    b.running_max[lane] = joined;
    b.running_sum[lane] = fmaf(b.running_sum[lane], b.keep[lane], b.gain[lane] * sum);
  }
}

void accumulate_scalar(const int8_t* values, int64_t channels, const uint8_t* weights,
                       int key_count, const float* keep, const float* gain, int vectors,
                       float* output) {
  for (int64_t c = 0; c < channels; ++c) {
    for (int lane = 0; lane < vectors * kVectorLanes; ++lane) {
      int32_t product = 0;
      for (int j = 0; j < key_count; ++j) {
        product += values[c * kKeyBlock + j] * weights[(j / 4) * kGroupBytes + lane * 4 + j % 4];
      }
      float& target = output[c * kLanes + lane];
      target = fmaf(gain[lane], static_cast<float>(product), target * keep[lane]);
    }
  }
}

}  // namespace qfa
