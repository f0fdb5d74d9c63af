// Blocks of keys against a few queries, in plain C++; see kernels.h.
#include <math.h>
#include <string.h>

#include "kernels/exp2.h"
#include "kernels/kernels.h"
#include "kernels/log2.h"
#include "kernels/reference/block_sum.h"
#include "kernels/reference/exp2.h"

namespace qfa {
namespace {

// The exponent after masks and biases: `bias` and `limit` as in FewBlock.
float masked(float u, const float* bias, const int32_t* limits, int query, int key) {
  if (bias != nullptr) {
    const float added = bias[query * kKeyBlock + key];
    u = added == -INFINITY ? -INFINITY : fmaf(added, kLog2E, u);
  }
  return limits != nullptr && key >= limits[query] ? -INFINITY : u;
}

}  // namespace

void few_scores_scalar(const int8_t* keys, int64_t key_stride, int64_t width, const int8_t* queries,
                       int query_count, int key_count, int32_t* scores) {
  for (int q = 0; q < query_count; ++q) {
    for (int j = 0; j < key_count; ++j) {
      int32_t sum = 0;
      for (int64_t c = 0; c < width; ++c) sum += keys[j * key_stride + c] * queries[q * width + c];
      scores[q * kKeyBlock + j] = sum;
    }
  }
}

void few_softmax_scalar(const FewBlock& b) {
  memset(b.weights, 0, static_cast<size_t>(b.queries * kKeyBlock));
  for (int q = 0; q < b.queries; ++q) {
    float u[kKeyBlock];
    float largest = -INFINITY;
    for (int j = 0; j < b.keys; ++j) {
      const float t = static_cast<float>(b.scores[q * kKeyBlock + j]) * b.query_scale[q];
      u[j] = masked(fmaf(t, b.key_scale[j], b.value_log2[j]), b.bias, b.limits, q, j);
      if (u[j] > largest) largest = u[j];
    }
    const float reference = largest == -INFINITY ? 0.0f : largest;
    float part[16] = {};
    for (int j = 0; j < b.keys; ++j) {
      const float y = weight_exp2(u[j] - reference);
      part[j % 16] = fmaf(y, b.value_inverse[j], part[j % 16]);
      b.weights[q * kKeyBlock + j] = weight_code(y);
    }
    const float before = b.running_max[q];
    const float joined = largest > before ? largest : before;
    const float base = joined == -INFINITY ? 0.0f : joined;
    b.keep[q] = exp2_of_nonpositive(before - base);
    b.gain[q] = exp2_of_nonpositive(largest - base);
    b.running_max[q] = joined;
    b.running_sum[q] = fmaf(b.running_sum[q], b.keep[q], b.gain[q] * block_sum(part));
  }
}

void few_accumulate_scalar(const int8_t* values, int64_t value_stride, int64_t channels,
                           const uint8_t* weights, int query_count, const float* keep,
                           const float* gain, float* output) {
  for (int q = 0; q < query_count; ++q) {
    for (int64_t c = 0; c < channels; ++c) {
      int32_t product = 0;
      for (int64_t j = 0; j < kKeyBlock; ++j) {
        product += values[j * value_stride + c] * weights[q * kKeyBlock + j];
      }
      float& target = output[q * channels + c];
      target = fmaf(gain[q], static_cast<float>(product), target * keep[q]);
    }
  }
}

void few_float_scores_scalar(const float* keys, int64_t channels, const float* queries,
                             int query_count, int key_count, float* scores) {
  for (int q = 0; q < query_count; ++q) {
    for (int j = 0; j < key_count; ++j) {
      float sum = 0.0f;
      for (int64_t c = 0; c < channels; ++c) {
        sum = fmaf(keys[j * channels + c], queries[q * channels + c], sum);
      }
      scores[q * kKeyBlock + j] = sum;
    }
  }
}

void few_float_softmax_scalar(const FewFloatBlock& b) {
  for (int q = 0; q < b.queries; ++q) {
    float* scores = b.scores + q * kKeyBlock;
    float largest = -INFINITY;
    for (int j = 0; j < b.keys; ++j) {
      const float u = masked(scores[j] * b.query_scale[q] + b.spoil[j], b.bias, b.limits, q, j);
      if (u > largest) largest = u;
      scores[j] = u;
    }
    const float before = b.running_max[q];
    const float joined = largest > before ? largest : before;
    const float base = joined == -INFINITY ? 0.0f : joined;
    float part[16] = {};
    for (int j = 0; j < b.keys; ++j) {
      scores[j] = exp2_of_nonpositive(scores[j] - base);
      part[j % 16] += scores[j];
    }
    b.keep[q] = exp2_of_nonpositive(before - base);
    b.running_max[q] = joined;
    b.running_sum[q] = fmaf(b.running_sum[q], b.keep[q], block_sum(part));
  }
}

void few_float_accumulate_scalar(const float* values, int64_t channels, const float* weights,
                                 int query_count, int key_count, const float* keep, float* output) {
  for (int q = 0; q < query_count; ++q) {
    for (int64_t c = 0; c < channels; ++c) {
      float sum = 0.0f;
      for (int64_t j = 0; j < key_count; ++j) {
        sum = fmaf(values[j * channels + c], weights[q * kKeyBlock + j], sum);
      }
      float& target = output[q * channels + c];
      target = fmaf(target, keep[q], sum);
    }
  }
}

void value_scales_scalar(const void* scale, int count, float* log2, float* inverse) {
  for (int j = 0; j < count; ++j) {
    float s;
    memcpy(&s, static_cast<const char*>(scale) + 4 * j, 4);
    const bool is_scale = s >= 0.0f && s < INFINITY;
    if (s < kSmallestScale) s = s == 0.0f ? kScaleOfZeroValue : kSmallestScale;
    log2[j] = is_scale ? log2_of_scale(s) : NAN;
    // Finite even where the scale is no number: those who see this key are NaN by its logarithm,
    // and those who do not multiply this by a weight of zero.
    inverse[j] = is_scale ? 1.0f / s : 1.0f;
  }
}

}  // namespace qfa
