// Rows in and out, in plain C++: the readable definition and the fallback of every processor.
#include <math.h>
#include <string.h>

#include <bit>

#include "kernels/kernels.h"
#include "kernels/reference/half.h"

namespace qfa {
namespace {

template <typename T>
T load(const void* base, int64_t index) {
  T value;
  memcpy(&value, static_cast<const char*>(base) + index * static_cast<int64_t>(sizeof(T)),
         sizeof(T));
  return value;
}

float subtract_mean(float value, const float* mean, int64_t index) {
  return mean == nullptr ? value : value - load<float>(mean, index);
}

int8_t to_code(float scaled) {
  const float clamped = scaled < -127.0f ? -127.0f : (scaled > 127.0f ? 127.0f : scaled);
  return static_cast<int8_t>(nearbyintf(clamped));
}

}  // namespace

void load_float_row_scalar(const void* source, const float* mean, int64_t count, float* row) {
  for (int64_t i = 0; i < count; ++i) row[i] = subtract_mean(load<float>(source, i), mean, i);
}

void load_half_row_scalar(const void* source, const float* mean, int64_t count, float* row) {
  for (int64_t i = 0; i < count; ++i) {
    row[i] = subtract_mean(float_from_half(load<uint16_t>(source, i)), mean, i);
  }
}

void load_bfloat_row_scalar(const void* source, const float* mean, int64_t count, float* row) {
  for (int64_t i = 0; i < count; ++i) {
    row[i] = subtract_mean(float_from_bfloat(load<uint16_t>(source, i)), mean, i);
  }
}

void rotate_row_scalar(float* row, int64_t count, int64_t block) {
  for (int64_t distance = 1; distance < block; distance *= 2) {
    for (int64_t start = 0; start < count; start += 2 * distance) {
      for (int64_t i = start; i < start + distance; ++i) {
        const float a = row[i], b = row[i + distance];
        row[i] = a + b;
        row[i + distance] = a - b;
      }
    }
  }
}

float quantize_row_scalar(const void* row, int64_t count, float static_scale, int8_t* codes) {
  // The greatest magnitude as an integer: NaN orders above infinity, infinity above numbers.
  uint32_t greatest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t magnitude = load<uint32_t>(row, i) & 0x7fffffffu;
    if (magnitude > greatest) greatest = magnitude;
  }
  if (greatest >= 0x7f800000u) {
    memset(codes, 0, static_cast<size_t>(count));
    return nanf("");
  }
  float result = static_scale;
  float inverse = 0.0f;
  if (static_scale == 0.0f) {
    const float absmax = std::bit_cast<float>(greatest);
    const float scale = absmax / 127.0f;
    const bool tiny = scale < kSmallestScale;
    result = absmax == 0.0f ? 0.0f : (tiny ? kSmallestScale : scale);
    inverse = tiny ? 1.0f / kSmallestScale : 127.0f / absmax;
  }
  for (int64_t i = 0; i < count; ++i) {
    const float x = load<float>(row, i);
    codes[i] = to_code(static_scale == 0.0f ? x * inverse : x / static_scale);
  }
  return result;
}

void transpose_codes_scalar(const int8_t* rows, int64_t row_stride, int64_t channels,
                            int8_t* columns) {
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t j = 0; j < kKeyBlock; ++j) columns[c * kKeyBlock + j] = rows[j * row_stride + c];
  }
}

void finish_rows_scalar(const float* output, int64_t channels, const float* factor, int vectors,
                        float* rows) {
  for (int lane = 0; lane < vectors * kVectorLanes; ++lane) {
    for (int64_t c = 0; c < channels; ++c) {
      rows[lane * channels + c] = output[c * kLanes + lane] * factor[lane] + 0.0f;
    }
  }
}

void spoil_rows_scalar(float* rows, int64_t channels, int count, float* spoil) {
  for (int j = 0; j < count; ++j, rows += channels) {
    uint32_t greatest = 0;
    for (int64_t c = 0; c < channels; ++c) {
      const uint32_t magnitude = std::bit_cast<uint32_t>(rows[c]) & 0x7fffffffu;
      greatest = magnitude > greatest ? magnitude : greatest;
    }
    const bool is_spoilt = greatest >= 0x7f800000u;
    if (is_spoilt) memset(rows, 0, static_cast<size_t>(channels) * sizeof(float));
    spoil[j] = is_spoilt ? nanf("") : 0.0f;
  }
}

void store_half_row_scalar(const float* row, int64_t count, void* target) {
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t half = half_from_float(row[i]);
    memcpy(static_cast<char*>(target) + 2 * i, &half, 2);
  }
}

void store_bfloat_row_scalar(const float* row, int64_t count, void* target) {
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t bfloat = bfloat_from_float(row[i]);
    memcpy(static_cast<char*>(target) + 2 * i, &bfloat, 2);
  }
}

void begin_work_scalar() {}
void end_work_scalar() {}

}  // namespace qfa
