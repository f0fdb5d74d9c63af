// The formats of a quantized cache in plain C++; see formats.h.
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

void store_half(void* base, int64_t index, uint16_t half) {
  memcpy(static_cast<char*>(base) + 2 * index, &half, 2);
}

// A float of 8 bits: a sign, kExponent bits with bias kBias, kMantissa bits.
template <int mantissa_bits, int exponent_bias>
struct Float8 {
  static constexpr int kMantissa = mantissa_bits;
  static constexpr int kBias = exponent_bias;
  static constexpr int kDropped = 23 - mantissa_bits;  // bits of a float's mantissa
  static constexpr uint32_t kRebias = static_cast<uint32_t>(127 - exponent_bias) << mantissa_bits;

  // The magnitude of a code that is a number.
  static float widen(uint32_t magnitude) {
    if (magnitude < 1u << kMantissa) {
      return ldexpf(static_cast<float>(magnitude), 1 - kBias - kMantissa);
    }
    return std::bit_cast<float>((magnitude + kRebias) << kDropped);
  }

  // The code of |x| where it is at most the greatest number.
  static uint32_t narrow(float magnitude) {
    const float unit = ldexpf(1.0f, 1 - kBias);  // the least normal number
    if (magnitude < unit) {
      // The last bit of `base` weighs as much as the last bit of the code.
      const float base = ldexpf(1.0f, 1 - kBias - kMantissa + 23);
      return std::bit_cast<uint32_t>(magnitude + base) - std::bit_cast<uint32_t>(base);
    }
    const uint32_t bits = std::bit_cast<uint32_t>(magnitude);
    const uint32_t odd = (bits >> kDropped) & 1u;
    return ((bits + (1u << (kDropped - 1)) - 1u + odd) >> kDropped) - kRebias;
  }
};

using E4m3 = Float8<3, 7>;
using E5m2 = Float8<2, 15>;

template <typename Format>
float quantize_row_as(const void* row, int64_t count, float greatest_number, uint8_t* codes) {
  uint32_t greatest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t magnitude = load<uint32_t>(row, i) & 0x7fffffffu;
    if (magnitude > greatest) greatest = magnitude;
  }
  if (greatest >= 0x7f800000u) {
    memset(codes, 0, static_cast<size_t>(count));
    return nanf("");
  }
  const float absmax = std::bit_cast<float>(greatest);
  const float scale = absmax / greatest_number;
  const bool tiny = scale < kSmallestScale;
  const float inverse = tiny ? 1.0f / kSmallestScale : greatest_number / absmax;
  for (int64_t i = 0; i < count; ++i) {
    const float x = load<float>(row, i);
    const float scaled = fabsf(x * inverse);
    const uint32_t code = Format::narrow(scaled > greatest_number ? greatest_number : scaled);
    codes[i] = static_cast<uint8_t>(code | (std::bit_cast<uint32_t>(x) >> 31 << 7));
  }
  return absmax == 0.0f ? 0.0f : (tiny ? kSmallestScale : scale);
}

// What a group of 4-bit codes shares.
struct Int4Group {
  uint16_t scale;
  int8_t zero_point;
};

constexpr uint16_t kHalfNan = 0x7e00, kHalfInfinity = 0x7c00;

uint16_t half_rounded_up(float x) {
  const uint16_t half = half_from_float(x);
  return float_from_half(half) < x ? static_cast<uint16_t>(half + 1) : half;
}

Int4Group group_between(float low, float high, bool finite) {
  const auto at_least_smallest = [](uint16_t half) { return half == 0 ? uint16_t{1} : half; };
  const float range = high - low;
  uint16_t half = at_least_smallest(half_rounded_up(range / 15.0f));
  float zero = nearbyintf(-low / float_from_half(half));
  if (zero < -128.0f || zero > 127.0f) {
    const float middle = low + range * 0.5f;
    const float distance = fabsf(middle);
    const bool is_one_code = distance < 1.0f && range * 135.0f <= distance;
    const bool below = middle < 0.0f;
    const float steps = is_one_code ? 1.0f : (below ? 119.0f : 135.0f);
    half = at_least_smallest(half_from_float(distance / steps));
    zero = is_one_code ? (below ? 1.0f : 0.0f) : (below ? 127.0f : -128.0f);
  }
  if (!finite || half >= kHalfInfinity) return {kHalfNan, 0};
  return {half, static_cast<int8_t>(zero)};
}

// `value_of(i)` for i < count are the numbers of a group, whose range starts at low and high.
template <typename ValueOf>
Int4Group group_of(int64_t count, float low, float high, const ValueOf& value_of) {
  bool finite = true;
  for (int64_t i = 0; i < count; ++i) {
    const float x = value_of(i);
    finite &= isfinite(x) != 0;
    if (x < low) low = x;
    if (x > high) high = x;
  }
  return group_between(low, high, finite);
}

uint8_t int4_code(float x, Int4Group group) {
  if (group.scale == kHalfNan) return 0;
  const float steps = nearbyintf(x / float_from_half(group.scale)) + group.zero_point;
  return static_cast<uint8_t>(steps < 0.0f ? 0.0f : (steps > 15.0f ? 15.0f : steps));
}

// Writes the code of channel c; even channels come first.
void put_int4(uint8_t* codes, int64_t c, uint8_t code) {
  codes[c / 2] = static_cast<uint8_t>(c % 2 == 0 ? code : codes[c / 2] | code << 4);
}

int get_int4(const uint8_t* codes, int64_t c) {
  return c % 2 == 0 ? codes[c / 2] & 15 : codes[c / 2] >> 4;
}

float scale_at(const void* scale, int64_t index) {
  return float_from_half(load<uint16_t>(scale, index));
}

}  // namespace

void load_e4m3_row_scalar(const void* codes, float scale, int64_t count, float* row) {
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t code = load<uint8_t>(codes, i), magnitude = code & 0x7fu;
    const float number = magnitude == 0x7fu ? nanf("") : E4m3::widen(magnitude);
    row[i] = ((code & 0x80u) != 0 ? -number : number) * scale;
  }
}

void load_e5m2_row_scalar(const void* codes, float scale, int64_t count, float* row) {
  // e5m2 is the upper half of a half.
  for (int64_t i = 0; i < count; ++i) {
    row[i] = float_from_half(static_cast<uint16_t>(load<uint8_t>(codes, i) << 8)) * scale;
  }
}

float quantize_e4m3_row_scalar(const void* row, int64_t count, uint8_t* codes) {
  return quantize_row_as<E4m3>(row, count, kGreatestE4m3, codes);
}

float quantize_e5m2_row_scalar(const void* row, int64_t count, uint8_t* codes) {
  return quantize_row_as<E5m2>(row, count, kGreatestE5m2, codes);
}

void quantize_int4_row_scalar(const float* row, int64_t count, int64_t group, uint8_t* codes,
                              void* scale, int8_t* zero_point) {
  for (int64_t start = 0; start < count; start += group) {
    const int64_t length = count - start < group ? count - start : group;
    const Int4Group shared =
        group_of(length, 0.0f, 0.0f, [&](int64_t i) { return row[start + i]; });
    store_half(scale, start / group, shared.scale);
    zero_point[start / group] = shared.zero_point;
    for (int64_t i = start; i < start + length; ++i) put_int4(codes, i, int4_code(row[i], shared));
  }
}

void load_int4_row_scalar(const uint8_t* codes, const void* scale, const int8_t* zero_point,
                          int64_t group, int64_t count, float* row) {
  for (int64_t c = 0; c < count; ++c) {
    const int steps = get_int4(codes, c) - zero_point[c / group];
    row[c] = scale_at(scale, c / group) * static_cast<float>(steps);
  }
}

void quantize_int4_keys_scalar(const float* keys, int64_t key_stride, int64_t channels,
                               uint8_t* codes, int64_t code_stride, void* scale,
                               int8_t* zero_point) {
  for (int64_t c = 0; c < channels; ++c) {
    const Int4Group shared = group_of(kInt4KeyGroup, INFINITY, -INFINITY,
                                      [&](int64_t j) { return keys[j * key_stride + c]; });
    store_half(scale, c, shared.scale);
    zero_point[c] = shared.zero_point;
    for (int64_t j = 0; j < kInt4KeyGroup; ++j) {
      put_int4(codes + j * code_stride, c, int4_code(keys[j * key_stride + c], shared));
    }
  }
}

void load_int4_keys_scalar(const uint8_t* codes, int64_t code_stride, const void* scale,
                           const int8_t* zero_point, int64_t channels, int key_count, float* keys,
                           int64_t key_stride) {
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t j = 0; j < key_count; ++j) {
      const int steps = get_int4(codes + j * code_stride, c) - zero_point[c];
      keys[j * key_stride + c] = scale_at(scale, c) * static_cast<float>(steps);
    }
  }
}

}  // namespace qfa
