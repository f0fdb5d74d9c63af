// Rows in and out with NEON. Tails go through a small copy: no byte outside a row is touched.
#include <arm_neon.h>

#include "kernels/kernels.h"

namespace qfa {
namespace {

constexpr int kWidth = 4;

// Rows need not be aligned to their elements.
uint8x16_t load_bytes(const void* p) { return vld1q_u8(static_cast<const uint8_t*>(p)); }

float32x4_t load_floats(const void* p) { return vreinterpretq_f32_u8(load_bytes(p)); }

const char* at(const void* base, int64_t bytes) { return static_cast<const char*>(base) + bytes; }

// The first `count` of four elements of `size` bytes, then zeros.
uint8x16_t load_first(const void* p, int64_t count, int64_t size) {
  uint8_t bytes[16] = {};
  __builtin_memcpy(bytes, p, static_cast<size_t>(count * size));
  return vld1q_u8(bytes);
}

float32x4_t floats_of(uint8x16_t bytes) { return vreinterpretq_f32_u8(bytes); }

float32x4_t floats_of_halves(uint8x16_t bytes) {
  return vcvt_f32_f16(vreinterpret_f16_u8(vget_low_u8(bytes)));
}

float32x4_t floats_of_bfloats(uint8x16_t bytes) {
  return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vget_low_u8(bytes)), 16));
}

uint8x16_t load_eight(const char* p) {
  return vcombine_u8(vld1_u8(reinterpret_cast<const uint8_t*>(p)), vdup_n_u8(0));
}

// Four elements of a row at a time.
template <uint8x16_t load(const char*), float32x4_t widen(uint8x16_t), int size>
inline __attribute__((always_inline)) void load_row(const void* source, const float* mean,
                                                    int64_t count, float* row) {
  int64_t i = 0;
  if (mean == nullptr) {
#pragma GCC unroll 4
    for (; i + kWidth <= count; i += kWidth) vst1q_f32(row + i, widen(load(at(source, i * size))));
  } else {
#pragma GCC unroll 4
    for (; i + kWidth <= count; i += kWidth) {
      const float32x4_t value = widen(load(at(source, i * size)));
      vst1q_f32(row + i, vsubq_f32(value, load_floats(at(mean, 4 * i))));
    }
  }
  if (i == count) return;
  float32x4_t value = widen(load_first(at(source, i * size), count - i, size));
  if (mean != nullptr)
    value = vsubq_f32(value, floats_of(load_first(at(mean, 4 * i), count - i, 4)));
  __builtin_memcpy(row + i, &value, static_cast<size_t>(4 * (count - i)));
}

uint8x16_t load_sixteen(const char* p) { return load_bytes(p); }

// The codes of 16 floats; conversion and narrowing saturate, so that only -128 is left to clamp.
template <bool divide>
inline __attribute__((always_inline)) int8x16_t codes_of(const char* row, float32x4_t factor) {
  int32x4_t code[4];
  for (int i = 0; i < 4; ++i) {
    const float32x4_t x = load_floats(row + 16 * i);
    code[i] = vcvtnq_s32_f32(divide ? vdivq_f32(x, factor) : vmulq_f32(x, factor));
  }
  const int16x8_t low = vqmovn_high_s32(vqmovn_s32(code[0]), code[1]);
  const int16x8_t high = vqmovn_high_s32(vqmovn_s32(code[2]), code[3]);
  return vmaxq_s8(vqmovn_high_s16(vqmovn_s16(low), high), vdupq_n_s8(-127));
}

template <bool divide>
void quantize(const char* row, int64_t count, float factor, int8_t* codes) {
  const float32x4_t by = vdupq_n_f32(factor);
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) vst1q_s8(codes + i, codes_of<divide>(row + 4 * i, by));
  if (i < count) {
    char rest[64] = {};  // zeros have the code 0
    __builtin_memcpy(rest, row + 4 * i, static_cast<size_t>(4 * (count - i)));
    const int8x16_t code = codes_of<divide>(rest, by);
    __builtin_memcpy(codes + i, &code, static_cast<size_t>(count - i));
  }
}

// The bits of the greatest magnitude: NaN orders above infinity, infinity above numbers.
uint32_t greatest_of(const char* row, int64_t count) {
  const uint32x4_t magnitude = vdupq_n_u32(0x7fffffffu);
  uint32x4_t greatest[4] = {vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0)};
  const auto take = [&](int which, uint8x16_t bytes) {
    const uint32x4_t bits = vandq_u32(vreinterpretq_u32_u8(bytes), magnitude);
    greatest[which] = vmaxq_u32(greatest[which], bits);
  };
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    for (int k = 0; k < 4; ++k) take(k, load_bytes(row + 4 * i + 16 * k));
  }
  for (; i + kWidth <= count; i += kWidth) take(0, load_bytes(row + 4 * i));
  if (i < count) take(0, load_first(row + 4 * i, count - i, 4));
  return vmaxvq_u32(
      vmaxq_u32(vmaxq_u32(greatest[0], greatest[1]), vmaxq_u32(greatest[2], greatest[3])));
}

uint16x4_t half_bits(float32x4_t x) { return vreinterpret_u16_f16(vcvt_f16_f32(x)); }

uint16x4_t bfloat_bits(float32x4_t x) {
  const uint32x4_t bits = vreinterpretq_u32_f32(x);
  // Half a step less one, and one more if the kept part is odd: to nearest, ties to even.
  const uint32x4_t half = vaddq_u32(bits, vdupq_n_u32(0x7fff));
  const uint32x4_t number = vsraq_n_u32(half, vshlq_n_u32(bits, 15), 31);
  const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
  return vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), number, quiet), 16);
}

template <uint16x4_t narrow(float32x4_t)>
inline __attribute__((always_inline)) void store_row(const float* row, int64_t count,
                                                     void* target) {
  auto* bytes = static_cast<uint8_t*>(target);
  int64_t i = 0;
#pragma GCC unroll 4
  for (; i + kWidth <= count; i += kWidth) {
    vst1_u8(bytes + 2 * i, vreinterpret_u8_u16(narrow(vld1q_f32(row + i))));
  }
  if (i == count) return;
  const uint16x4_t rest = narrow(floats_of(load_first(row + i, count - i, 4)));
  __builtin_memcpy(bytes + 2 * i, &rest, static_cast<size_t>(2 * (count - i)));
}

}  // namespace

void load_float_row_neondot(const void* source, const float* mean, int64_t count, float* row) {
  load_row<load_sixteen, floats_of, 4>(source, mean, count, row);
}

void load_half_row_neondot(const void* source, const float* mean, int64_t count, float* row) {
  load_row<load_eight, floats_of_halves, 2>(source, mean, count, row);
}

void load_bfloat_row_neondot(const void* source, const float* mean, int64_t count, float* row) {
  load_row<load_eight, floats_of_bfloats, 2>(source, mean, count, row);
}

void rotate_row_neondot(float* row, int64_t count, int64_t block) {
  // The block is a multiple of 8, so there is no tail. Each step pairs what lies at even and at odd
  // places; after three of them eight values are back in their order.
  for (int64_t i = 0; i < count; i += 8) {
    float32x4_t x = vld1q_f32(row + i), y = vld1q_f32(row + i + 4);
#pragma GCC unroll 3
    for (int step = 0; step < 3; ++step) {
      const float32x4_t even = vuzp1q_f32(x, y), odd = vuzp2q_f32(x, y);
      x = vaddq_f32(even, odd);
      y = vsubq_f32(even, odd);
    }
    vst1q_f32(row + i, x);
    vst1q_f32(row + i + 4, y);
  }
  for (int64_t distance = 8; distance < block; distance *= 2) {
    for (int64_t start = 0; start < count; start += 2 * distance) {
      for (int64_t i = start; i < start + distance; i += 8) {
        for (int k = 0; k < 8; k += kWidth) {
          float* first = row + i + k;
          const float32x4_t a = vld1q_f32(first), b = vld1q_f32(first + distance);
          vst1q_f32(first, vaddq_f32(a, b));
          vst1q_f32(first + distance, vsubq_f32(a, b));
        }
      }
    }
  }
}

float quantize_row_neondot(const void* row, int64_t count, float static_scale, int8_t* codes) {
  const char* bytes = static_cast<const char*>(row);
  const uint32_t greatest = greatest_of(bytes, count);
  if (greatest >= 0x7f800000u) {
    __builtin_memset(codes, 0, static_cast<size_t>(count));
    return __builtin_nanf("");
  }
  if (static_scale != 0.0f) {
    quantize<true>(bytes, count, static_scale, codes);
    return static_scale;
  }
  const float absmax = __builtin_bit_cast(float, greatest);
  const float scale = absmax / 127.0f;
  const bool tiny = scale < kSmallestScale;
  const float inverse = tiny ? 1.0f / kSmallestScale : 127.0f / absmax;
  quantize<false>(bytes, count, inverse, codes);
  return absmax == 0.0f ? 0.0f : (tiny ? kSmallestScale : scale);
}

void spoil_rows_neondot(float* rows, int64_t channels, int count, float* spoil) {
  for (int j = 0; j < count; ++j, rows += channels) {
    const bool is_spoilt =
        greatest_of(reinterpret_cast<const char*>(rows), channels) >= 0x7f800000u;
    if (is_spoilt) __builtin_memset(rows, 0, static_cast<size_t>(channels) * sizeof(float));
    spoil[j] = is_spoilt ? __builtin_nanf("") : 0.0f;
  }
}

void transpose_codes_neondot(const int8_t* rows, int64_t row_stride, int64_t channels,
                             int8_t* columns) {
  // 16 x 16 bytes at a time: four rounds, each pairs row i with row i + 8 and interleaves them.
  for (int64_t c = 0; c < channels; c += 16) {
    for (int64_t j = 0; j < kKeyBlock; j += 16) {
      int8x16_t x[16], y[16];
      for (int i = 0; i < 16; ++i) x[i] = vld1q_s8(rows + (j + i) * row_stride + c);
      for (int round = 0; round < 2; ++round) {
        for (int i = 0; i < 8; ++i) {
          y[2 * i] = vzip1q_s8(x[i], x[i + 8]);
          y[2 * i + 1] = vzip2q_s8(x[i], x[i + 8]);
        }
        for (int i = 0; i < 8; ++i) {
          x[2 * i] = vzip1q_s8(y[i], y[i + 8]);
          x[2 * i + 1] = vzip2q_s8(y[i], y[i + 8]);
        }
      }
      for (int i = 0; i < 16; ++i) vst1q_s8(columns + (c + i) * kKeyBlock + j, x[i]);
    }
  }
}

void store_half_row_neondot(const float* row, int64_t count, void* target) {
  store_row<half_bits>(row, count, target);
}

void store_bfloat_row_neondot(const float* row, int64_t count, void* target) {
  store_row<bfloat_bits>(row, count, target);
}

}  // namespace qfa
