// Kernels of kernels/lanes/formats.h with NEON: a register of eight is two of the processor's.
#include "kernels/lanes/formats.h"

#include <arm_neon.h>

namespace qfa {
namespace {

struct Eight {
  static constexpr int kWidth = 8;
  using Floats = Registers<kWidth>::Floats;
  using Ints = Registers<kWidth>::Ints;
  using Shorts = Registers<kWidth>::Shorts;

  // The halves of a register.
  struct Pair {
    float32x4_t low, high;
  };
  static Pair halves(Floats x) { return __builtin_bit_cast(Pair, x); }
  static Floats whole(float32x4_t low, float32x4_t high) {
    return __builtin_bit_cast(Floats, Pair{low, high});
  }

  static Floats round(Floats x) {
    const Pair pair = halves(x);
    return whole(vrndnq_f32(pair.low), vrndnq_f32(pair.high));
  }
  static Floats from_half(Shorts half) {
    const float16x8_t x = __builtin_bit_cast(float16x8_t, half);
    return whole(vcvt_f32_f16(vget_low_f16(x)), vcvt_high_f32_f16(x));
  }
  static Shorts to_half(Floats x) {
    const Pair pair = halves(x);
    return __builtin_bit_cast(Shorts, vcvt_high_f16_f32(vcvt_f16_f32(pair.low), pair.high));
  }
  static Shorts to_half_up(Floats x) {
    // For numbers that are not negative: the next half where the nearest one is below.
    const Shorts half = to_half(x);
    const Ints below = from_half(half) < x;
    return half - __builtin_convertvector(below, Shorts);
  }
  static Ints split(uint64_t bytes) {
    const uint8x8_t x = vcreate_u8(bytes);
    const uint8x8_t low = vand_u8(x, vdup_n_u8(15)), high = vshr_n_u8(x, 4);
    const uint16x8_t numbers = vmovl_u8(vzip1_u8(low, high));
    return __builtin_bit_cast(Ints,
                              Integers{vmovl_u16(vget_low_u16(numbers)), vmovl_high_u16(numbers)});
  }
  static uint64_t join(Ints numbers) {
    const auto all = __builtin_bit_cast(Integers, numbers);
    const uint16x8_t words =
        vuzp1q_u16(vreinterpretq_u16_u32(all.low), vreinterpretq_u16_u32(all.high));
    // The odd number of each pair goes into the high half of the byte of the even one.
    const uint8x8_t both = vmovn_u16(words);
    const uint8x8_t even = vuzp1_u8(both, both), odd = vuzp2_u8(both, both);
    return vget_lane_u64(vreinterpret_u64_u8(vsli_n_u8(even, odd, 4)), 0);
  }

 private:
  struct Integers {
    uint32x4_t low, high;
  };
};

using Rows = Formats<Eight>;

}  // namespace

void load_e4m3_row_neondot(const void* codes, float scale, int64_t count, float* row) {
  Rows::load_e4m3(codes, scale, count, row);
}

void load_e5m2_row_neondot(const void* codes, float scale, int64_t count, float* row) {
  Rows::load_e5m2(codes, scale, count, row);
}

float quantize_e4m3_row_neondot(const void* row, int64_t count, uint8_t* codes) {
  return Rows::quantize_float8<3, 7>(row, count, kGreatestE4m3, codes);
}

float quantize_e5m2_row_neondot(const void* row, int64_t count, uint8_t* codes) {
  return Rows::quantize_float8<2, 15>(row, count, kGreatestE5m2, codes);
}

void quantize_int4_row_neondot(const float* row, int64_t count, int64_t group, uint8_t* codes,
                               void* scale, int8_t* zero_point) {
  Rows::quantize_int4_row(row, count, group, codes, scale, zero_point);
}

void load_int4_row_neondot(const uint8_t* codes, const void* scale, const int8_t* zero_point,
                           int64_t group, int64_t count, float* row) {
  Rows::load_int4_row(codes, scale, zero_point, group, count, row);
}

void quantize_int4_keys_neondot(const float* keys, int64_t key_stride, int64_t channels,
                                uint8_t* codes, int64_t code_stride, void* scale,
                                int8_t* zero_point) {
  Rows::quantize_int4_keys(keys, key_stride, channels, codes, code_stride, scale, zero_point);
}

void load_int4_keys_neondot(const uint8_t* codes, int64_t code_stride, const void* scale,
                            const int8_t* zero_point, int64_t channels, int key_count, float* keys,
                            int64_t key_stride) {
  Rows::load_int4_keys(codes, code_stride, scale, zero_point, channels, key_count, keys,
                       key_stride);
}

}  // namespace qfa
