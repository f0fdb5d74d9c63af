// The formats of a quantized cache, a register of numbers at a time; see kernels/formats.h.
//
// Registers are vectors of the compiler's own, so that their arithmetic is plain C++. A file per
// instruction set says what a Set is:
//   kWidth                    numbers in a register, 8 or 16
//   round(x)                  to the nearest whole number, half to even
//   from_half(halfs)          floats
//   to_half(x), to_half_up(x) halfs, rounded to nearest even and upwards
//   split(bytes)              numbers below 16 as integers, two from each byte, the low half first
//   join(numbers)             the bytes of such numbers
// As in kernels/lanes/lanes.h, nothing here can be linked into the code of another set.
#ifndef QFA_KERNELS_LANES_FORMATS_H_
#define QFA_KERNELS_LANES_FORMATS_H_

#include <stdint.h>

#include <type_traits>

#include "kernels/kernels.h"

namespace qfa {
namespace {

template <int width>
struct Registers {
  typedef float Floats __attribute__((vector_size(4 * width)));
  typedef int32_t Ints __attribute__((vector_size(4 * width)));
  typedef int16_t Shorts __attribute__((vector_size(2 * width)));
  typedef uint8_t Bytes __attribute__((vector_size(width)));
  typedef int8_t SignedBytes __attribute__((vector_size(width)));
};

template <class Set>
struct Formats {
  static constexpr int kWidth = Set::kWidth;
  using R = Registers<kWidth>;
  using Floats = typename R::Floats;
  using Ints = typename R::Ints;
  using Shorts = typename R::Shorts;
  using Bytes = typename R::Bytes;

  // `count` numbers, the others 0; nothing else is read. The two cases are kept apart, or the
  // compiler would move every register through memory.
  template <typename Register>
  static inline __attribute__((always_inline)) Register load(const void* from, int64_t count) {
    Register x;
    if (__builtin_expect(count < kWidth, 0)) {
      char some[sizeof(Register)] = {};
      __builtin_memcpy(some, from, sizeof(Register) / kWidth * static_cast<size_t>(count));
      __builtin_memcpy(&x, some, sizeof(x));
      return x;
    }
    __builtin_memcpy(&x, from, sizeof(x));
    return x;
  }
  template <typename Register>
  static inline __attribute__((always_inline)) void store(Register x, void* to, int64_t count) {
    if (__builtin_expect(count < kWidth, 0)) {
      char some[sizeof(Register)];
      __builtin_memcpy(some, &x, sizeof(x));
      __builtin_memcpy(to, some, sizeof(Register) / kWidth * static_cast<size_t>(count));
      return;
    }
    __builtin_memcpy(to, &x, sizeof(x));
  }
  static Floats as_floats(Ints x) { return reinterpret_cast<Floats>(x); }
  static Ints as_ints(Floats x) { return reinterpret_cast<Ints>(x); }
  static Floats spread(float x) { return Floats{} + x; }

  // Lane i has what lane i + by had.
  template <int by, typename Register>
  static inline __attribute__((always_inline)) Register turned(Register x) {
    if constexpr (kWidth == 16) {
      return __builtin_shufflevector(
          x, x, (by + 0) % 16, (by + 1) % 16, (by + 2) % 16, (by + 3) % 16, (by + 4) % 16,
          (by + 5) % 16, (by + 6) % 16, (by + 7) % 16, (by + 8) % 16, (by + 9) % 16, (by + 10) % 16,
          (by + 11) % 16, (by + 12) % 16, (by + 13) % 16, (by + 14) % 16, (by + 15) % 16);
    } else {
      return __builtin_shufflevector(x, x, (by + 0) % 8, (by + 1) % 8, (by + 2) % 8, (by + 3) % 8,
                                     (by + 4) % 8, (by + 5) % 8, (by + 6) % 8, (by + 7) % 8);
    }
  }
  // What `join` makes of all lanes. In memory they would wait for each other.
  template <typename Register, typename Join>
  static inline __attribute__((always_inline)) auto join_lanes(Register x, const Join& join) {
    if constexpr (kWidth == 16) x = join(x, turned<8>(x));
    x = join(x, turned<4>(x));
    x = join(x, turned<2>(x));
    return join(x, turned<1>(x))[0];
  }
  static int32_t greatest_of(Ints x) {
    return join_lanes(x, [](Ints a, Ints b) { return greater(a, b); });
  }
  static Ints greater(Ints a, Ints b) { return a > b ? a : b; }

  // Floats of 8 bits.

  static void load_e4m3(const void* source, float scale, int64_t count, float* row) {
    const auto* codes = static_cast<const uint8_t*>(source);
    uint8_t any_nan = 0;
    for (int64_t i = 0; i < count; ++i) any_nan |= static_cast<uint8_t>((codes[i] & 0x7f) == 0x7f);
    for (int64_t i = 0; i < count; i += kWidth) {
      const auto code = load<typename R::SignedBytes>(codes + i, count - i);
      // With the bits where a half has its own, the number is 2^8 times too small.
      const Shorts wide = __builtin_convertvector(code, Shorts);
      Shorts half = (wide << 7) & static_cast<int16_t>(0xbf80);
      if (any_nan != 0) half = (wide & 0x7f) == 0x7f ? Shorts{} + int16_t{0x7e00} : half;
      store(Set::from_half(half) * 256.0f * scale, row + i, count - i);
    }
  }

  static void load_e5m2(const void* source, float scale, int64_t count, float* row) {
    const auto* codes = static_cast<const uint8_t*>(source);
    for (int64_t i = 0; i < count; i += kWidth) {
      const auto code = load<typename R::SignedBytes>(codes + i, count - i);
      store(Set::from_half(__builtin_convertvector(code, Shorts) << 8) * scale, row + i, count - i);
    }
  }

  template <int mantissa_bits, int bias>
  static float quantize_float8(const void* source, int64_t count, float greatest_number,
                               uint8_t* codes) {
    const auto* row = static_cast<const char*>(source);
    Ints magnitudes = {};
    for (int64_t i = 0; i < count; i += kWidth) {
      magnitudes = greater(magnitudes, load<Ints>(row + 4 * i, count - i) & 0x7fffffff);
    }
    const int32_t greatest = greatest_of(magnitudes);
    if (greatest >= 0x7f800000) {
      for (int64_t i = 0; i < count; ++i) codes[i] = 0;
      return __builtin_nanf("");
    }
    const float absmax = __builtin_bit_cast(float, greatest);
    const float scale = absmax / greatest_number;
    const bool tiny = scale < kSmallestScale;
    const float inverse = tiny ? 1.0f / kSmallestScale : greatest_number / absmax;
    constexpr int kDropped = 23 - mantissa_bits;
    // The least normal number, and one whose last bit weighs as much as that of its code.
    const Floats least = as_floats(Ints{} + ((128 - bias) << 23));
    const Ints base = Ints{} + ((128 - bias - mantissa_bits + 23) << 23);
    const Floats most = spread(greatest_number);
    for (int64_t i = 0; i < count; i += kWidth) {
      const Floats x = load<Floats>(row + 4 * i, count - i);
      Floats magnitude = as_floats(as_ints(x * inverse) & 0x7fffffff);
      magnitude = magnitude > most ? most : magnitude;
      const Ints bits = as_ints(magnitude);
      const Ints odd = (bits >> kDropped) & 1;
      const Ints normal = ((bits + ((1 << (kDropped - 1)) - 1) + odd) >> kDropped) -
                          ((127 - bias) << mantissa_bits);
      const Ints subnormal = as_ints(magnitude + as_floats(base)) - base;
      const Ints code = (magnitude < least ? subnormal : normal) | ((as_ints(x) >> 24) & 0x80);
      store(__builtin_convertvector(code, Bytes), codes + i, count - i);
    }
    return absmax == 0.0f ? 0.0f : (tiny ? kSmallestScale : scale);
  }

  // Codes of 4 bits.

  struct Groups {
    Shorts half;
    Floats scale, zero;
    Ints lost;  // set where the scale is NaN
  };

  // Groups of numbers from low to high; `magnitude` holds the greatest magnitude as an integer.
  static inline __attribute__((always_inline)) Groups groups_between(Floats low, Floats high,
                                                                     Ints magnitude) {
    const Shorts smallest = Shorts{} + int16_t{1};
    const Floats range = high - low;
    Groups g;
    g.half = Set::to_half_up(range / 15.0f);
    g.half = g.half == 0 ? smallest : g.half;
    g.scale = Set::from_half(g.half);
    g.zero = Set::round(-low / g.scale);
    const Ints narrow = (g.zero < -128.0f) | (g.zero > 127.0f);
    int32_t any_narrow = 0;
    for (int i = 0; i < kWidth; ++i) any_narrow |= narrow[i];
    if (any_narrow != 0) {
      const Floats middle = low + range * 0.5f;
      const Floats distance = as_floats(as_ints(middle) & 0x7fffffff);
      const Ints is_one_code = (distance < 1.0f) & (range * 135.0f <= distance);
      const Ints below = middle < 0.0f;
      const Floats steps = is_one_code ? spread(1.0f) : (below ? spread(119.0f) : spread(135.0f));
      Shorts half = Set::to_half(distance / steps);
      half = half == 0 ? smallest : half;
      const Floats zero = is_one_code ? (below ? spread(1.0f) : spread(0.0f))
                                      : (below ? spread(127.0f) : spread(-128.0f));
      g.half = __builtin_convertvector(narrow, Shorts) != 0 ? half : g.half;
      g.scale = Set::from_half(g.half);
      g.zero = narrow ? zero : g.zero;
    }
    g.lost = (magnitude >= 0x7f800000) | (g.scale > 65504.0f);
    g.half = __builtin_convertvector(g.lost, Shorts) != 0 ? Shorts{} + int16_t{0x7e00} : g.half;
    g.zero = g.lost ? Floats{} : g.zero;
    return g;
  }

  // Codes of numbers x. Where the group is lost, 0.
  static inline __attribute__((always_inline)) Ints codes_of(Floats x, Floats scale, Floats zero,
                                                             Ints lost) {
    Floats steps = Set::round(x / scale) + zero;
    steps = steps < 0.0f ? Floats{} : steps;
    steps = steps > 15.0f ? spread(15.0f) : steps;
    steps = lost ? Floats{} : steps;
    return __builtin_convertvector(steps, Ints);
  }

  // Codes of `count` channels, two in a byte.
  static inline __attribute__((always_inline)) void store_codes(Ints code, uint8_t* to,
                                                                int64_t count) {
    for (int64_t i = count; i < kWidth; ++i) code[i] = 0;
    const uint64_t bytes = Set::join(code);
    if (count >= kWidth) {
      __builtin_memcpy(to, &bytes, kWidth / 2);
    } else {
      __builtin_memcpy(to, &bytes, static_cast<size_t>((count + 1) / 2));
    }
  }

  // Codes of `count` channels as numbers; what lies above the last one is anything.
  static inline __attribute__((always_inline)) Ints load_codes(const uint8_t* from, int64_t count) {
    if (count < kWidth) {
      uint8_t some[8] = {};
      for (int64_t i = 0; i < (count + 1) / 2; ++i) some[i] = from[i];
      uint64_t bytes;
      __builtin_memcpy(&bytes, some, 8);
      return Set::split(bytes);
    }
    std::conditional_t<kWidth == 16, uint64_t, uint32_t> bytes;
    __builtin_memcpy(&bytes, from, sizeof(bytes));
    return Set::split(bytes);
  }

  static void quantize_int4_row(const float* row, int64_t count, int64_t group, uint8_t* codes,
                                void* scale, int8_t* zero_point) {
    auto* halfs = static_cast<char*>(scale);
    const int64_t groups = (count + group - 1) / group;
    for (int64_t first = 0; first < groups; first += kWidth) {
      const int64_t some = groups - first < kWidth ? groups - first : kWidth;
      Floats low = {}, high = {};
      Ints magnitude = {};
      for (int64_t g = 0; g < some; ++g) {
        const int64_t start = (first + g) * group;
        const int64_t end = start + group < count ? start + group : count;
        // The number 0 is always among them, as beyond their end.
        Floats lows = {}, highs = {};
        Ints magnitudes = {};
        for (int64_t c = start; c < end; c += kWidth) {
          const Floats x = load<Floats>(row + c, end - c);
          lows = x < lows ? x : lows;
          highs = x > highs ? x : highs;
          magnitudes = greater(magnitudes, as_ints(x) & 0x7fffffff);
        }
        low[g] = join_lanes(lows, [](Floats a, Floats b) { return a < b ? a : b; });
        high[g] = join_lanes(highs, [](Floats a, Floats b) { return a > b ? a : b; });
        magnitude[g] = greatest_of(magnitudes);
      }
      const Groups shared = groups_between(low, high, magnitude);
      store(shared.half, halfs + 2 * first, some);
      const Ints zero = __builtin_convertvector(shared.zero, Ints);
      store(__builtin_convertvector(zero, typename R::SignedBytes), zero_point + first, some);
      for (int64_t g = 0; g < some; ++g) {
        const int64_t start = (first + g) * group;
        const int64_t end = start + group < count ? start + group : count;
        const Floats s = spread(shared.scale[g]), z = spread(shared.zero[g]);
        const Ints lost = Ints{} + shared.lost[g];
        for (int64_t c = start; c < end; c += kWidth) {
          store_codes(codes_of(load<Floats>(row + c, end - c), s, z, lost), codes + c / 2, end - c);
        }
      }
    }
  }

  static void load_int4_row(const uint8_t* codes, const void* scale, const int8_t* zero_point,
                            int64_t group, int64_t count, float* row) {
    const auto* halfs = static_cast<const char*>(scale);
    for (int64_t start = 0, g = 0; start < count; start += group, ++g) {
      const int64_t end = start + group < count ? start + group : count;
      int16_t half;
      __builtin_memcpy(&half, halfs + 2 * g, 2);
      const Floats s = Set::from_half(Shorts{} + half);
      for (int64_t c = start; c < end; c += kWidth) {
        const Ints steps = load_codes(codes + c / 2, end - c) - int32_t{zero_point[g]};
        store(__builtin_convertvector(steps, Floats) * s, row + c, end - c);
      }
    }
  }

  static void quantize_int4_keys(const float* keys, int64_t key_stride, int64_t channels,
                                 uint8_t* codes, int64_t code_stride, void* scale,
                                 int8_t* zero_point) {
    for (int64_t c = 0; c < channels; c += kWidth) {
      const int64_t left = channels - c;
      Floats low = load<Floats>(keys + c, left), high = low;
      Ints magnitude = {};
      for (int64_t j = 0; j < kInt4KeyGroup; ++j) {
        const Floats x = load<Floats>(keys + j * key_stride + c, left);
        low = x < low ? x : low;
        high = x > high ? x : high;
        magnitude = greater(magnitude, as_ints(x) & 0x7fffffff);
      }
      const Groups shared = groups_between(low, high, magnitude);
      store(shared.half, static_cast<char*>(scale) + 2 * c, left);
      const Ints zero = __builtin_convertvector(shared.zero, Ints);
      store(__builtin_convertvector(zero, typename R::SignedBytes), zero_point + c, left);
      for (int64_t j = 0; j < kInt4KeyGroup; ++j) {
        const Floats x = load<Floats>(keys + j * key_stride + c, left);
        store_codes(codes_of(x, shared.scale, shared.zero, shared.lost),
                    codes + j * code_stride + c / 2, left);
      }
    }
  }

  static void load_int4_keys(const uint8_t* codes, int64_t code_stride, const void* scale,
                             const int8_t* zero_point, int64_t channels, int key_count, float* keys,
                             int64_t key_stride) {
    for (int64_t c = 0; c < channels; c += kWidth) {
      const int64_t left = channels - c;
      const Floats s = Set::from_half(load<Shorts>(static_cast<const char*>(scale) + 2 * c, left));
      const Ints zero =
          __builtin_convertvector(load<typename R::SignedBytes>(zero_point + c, left), Ints);
      for (int64_t j = 0; j < key_count; ++j) {
        const Ints steps = load_codes(codes + j * code_stride + c / 2, left) - zero;
        store(__builtin_convertvector(steps, Floats) * s, keys + j * key_stride + c, left);
      }
    }
  }
};

}  // namespace
}  // namespace qfa

#endif  // QFA_KERNELS_LANES_FORMATS_H_
