// Between rows and lanes with NEON: 4 x 4 floats are transposed in registers.
#include <arm_neon.h>

#include "kernels/kernels.h"

namespace qfa {
namespace {

constexpr int kWidth = 4;

inline __attribute__((always_inline)) void transpose(float32x4_t (&x)[4]) {
  float32x4_t y[4];
  for (int i = 0; i < 4; i += 2) {
    y[i] = vtrn1q_f32(x[i], x[i + 1]);
    y[i + 1] = vtrn2q_f32(x[i], x[i + 1]);
  }
  const auto doubles = [&](int i) { return vreinterpretq_f64_f32(y[i]); };
  for (int i = 0; i < 2; ++i) {
    x[i] = vreinterpretq_f32_f64(vtrn1q_f64(doubles(i), doubles(i + 2)));
    x[i + 2] = vreinterpretq_f32_f64(vtrn2q_f64(doubles(i), doubles(i + 2)));
  }
}

// Whether any flag of the four lanes is set.
bool any(uint32x4_t flags) { return vmaxvq_u32(flags) != 0; }

}  // namespace

void pack_queries_neondot(const int8_t* rows, int64_t width, uint8_t* packed) {
  for (int64_t c = 0; c < width; c += 16) {
    for (int lane = 0; lane < kLanes; lane += kWidth) {
      float32x4_t x[4];  // groups of four codes that move as one
      for (int i = 0; i < kWidth; ++i) {
        x[i] = vreinterpretq_f32_s8(vld1q_s8(rows + (lane + i) * width + c));
      }
      transpose(x);
      for (int i = 0; i < kWidth; ++i) {
        uint8_t* target = packed + (c / 4 + i) * kGroupBytes + 4 * lane;
        vst1q_u8(target, vreinterpretq_u8_f32(x[i]));
      }
    }
  }
}

BiasSummary read_bias_neondot(const void* const* rows, int vectors, int count, float* tile) {
  const float32x4_t lowest = vdupq_n_f32(kLowestBias), greatest = vdupq_n_f32(kGreatestBias);
  const float32x4_t infinity = vdupq_n_f32(__builtin_inff());
  const float32x4_t hidden = vdupq_n_f32(-__builtin_inff());
  const int32_t indices[kWidth] = {0, 1, 2, 3};
  const int32x4_t index = vld1q_s32(indices);
  uint32x4_t seen = vdupq_n_u32(0), masked = seen, biased = seen;
  for (int lane = 0; lane < vectors * kVectorLanes; lane += kWidth) {
    for (int j = 0; j < kKeyBlock; j += kWidth) {
      const int left = count - j;
      float32x4_t x[4];
      if (left > 0) {
        const uint32x4_t live = vcgtq_s32(vdupq_n_s32(left), index);
        for (int i = 0; i < kWidth; ++i) {
          const char* row = static_cast<const char*>(rows[lane + i]) + 4 * j;
          uint8_t part[16] = {};
          const bool whole = left >= kWidth;
          if (!whole) __builtin_memcpy(part, row, static_cast<size_t>(4 * left));
          const uint8_t* from = whole ? reinterpret_cast<const uint8_t*>(row) : part;
          const float32x4_t bias = vreinterpretq_f32_u8(vld1q_u8(from));
          // What lies beyond the count is 0, which is not low.
          const uint32x4_t low = vcleq_f32(bias, lowest);
          const uint32x4_t shown = vbicq_u32(live, low);
          masked = vorrq_u32(masked, low);
          seen = vorrq_u32(seen, shown);
          biased = vorrq_u32(biased, vbicq_u32(shown, vceqzq_f32(bias)));
          const uint32x4_t large = vbicq_u32(vcgtq_f32(bias, greatest), vceqq_f32(bias, infinity));
          x[i] = vbslq_f32(low, hidden, vbslq_f32(large, greatest, bias));
        }
        transpose(x);
      } else {
        for (float32x4_t& zeros : x) zeros = vdupq_n_f32(0.0f);
      }
      for (int i = 0; i < kWidth; ++i) vst1q_f32(tile + (j + i) * kLanes + lane, x[i]);
    }
  }
  return {any(seen), any(masked), any(biased)};
}

void finish_rows_neondot(const float* output, int64_t channels, const float* factor, int vectors,
                         float* rows) {
  const float32x4_t zero = vdupq_n_f32(0.0f);
  for (int lane = 0; lane < vectors * kVectorLanes; lane += kWidth) {
    const float32x4_t by = vld1q_f32(factor + lane);
    for (int64_t c = 0; c < channels; c += kWidth) {
      float32x4_t x[4];
      for (int i = 0; i < kWidth; ++i) {
        const float32x4_t value = vld1q_f32(output + (c + i) * kLanes + lane);
        x[i] = vaddq_f32(vmulq_f32(value, by), zero);
      }
      transpose(x);
      for (int i = 0; i < kWidth; ++i) vst1q_f32(rows + (lane + i) * channels + c, x[i]);
    }
  }
}

}  // namespace qfa
