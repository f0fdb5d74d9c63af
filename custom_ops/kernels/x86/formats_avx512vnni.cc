// Kernels of kernels/lanes/formats.h with AVX-512.
#include "kernels/lanes/formats.h"

#include <immintrin.h>

namespace qfa {
namespace {

struct Sixteen {
  static constexpr int kWidth = 16;
  using Floats = Registers<kWidth>::Floats;
  using Ints = Registers<kWidth>::Ints;
  using Shorts = Registers<kWidth>::Shorts;

  static Floats round(Floats x) {
    return reinterpret_cast<Floats>(_mm512_roundscale_ps(
        reinterpret_cast<__m512>(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static Floats from_half(Shorts half) {
    return reinterpret_cast<Floats>(_mm512_cvtph_ps(reinterpret_cast<__m256i>(half)));
  }
  static Shorts to_half(Floats x) {
    return reinterpret_cast<Shorts>(_mm512_cvtps_ph(reinterpret_cast<__m512>(x),
                                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static Shorts to_half_up(Floats x) {
    return reinterpret_cast<Shorts>(
        _mm512_cvtps_ph(reinterpret_cast<__m512>(x), _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC));
  }
  static Ints split(uint64_t bytes) {
    const __m128i low_half = _mm_set1_epi8(0x0f);
    const __m128i x = _mm_cvtsi64_si128(static_cast<int64_t>(bytes));
    const __m128i low = _mm_and_si128(x, low_half);
    const __m128i high = _mm_and_si128(_mm_srli_epi16(x, 4), low_half);
    return reinterpret_cast<Ints>(_mm512_cvtepu8_epi32(_mm_unpacklo_epi8(low, high)));
  }
  static uint64_t join(Ints numbers) {
    const __m128i bytes = _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(numbers));
    const __m128i pairs = _mm_maddubs_epi16(bytes, _mm_set1_epi16(0x1001));
    return static_cast<uint64_t>(_mm_cvtsi128_si64(_mm_packus_epi16(pairs, pairs)));
  }
};

using Rows = Formats<Sixteen>;

}  // namespace

void load_e4m3_row_avx512vnni(const void* codes, float scale, int64_t count, float* row) {
  Rows::load_e4m3(codes, scale, count, row);
}

void load_e5m2_row_avx512vnni(const void* codes, float scale, int64_t count, float* row) {
  Rows::load_e5m2(codes, scale, count, row);
}

float quantize_e4m3_row_avx512vnni(const void* row, int64_t count, uint8_t* codes) {
  return Rows::quantize_float8<3, 7>(row, count, kGreatestE4m3, codes);
}

float quantize_e5m2_row_avx512vnni(const void* row, int64_t count, uint8_t* codes) {
  return Rows::quantize_float8<2, 15>(row, count, kGreatestE5m2, codes);
}

void quantize_int4_row_avx512vnni(const float* row, int64_t count, int64_t group, uint8_t* codes,
                                  void* scale, int8_t* zero_point) {
  Rows::quantize_int4_row(row, count, group, codes, scale, zero_point);
}

void load_int4_row_avx512vnni(const uint8_t* codes, const void* scale, const int8_t* zero_point,
                              int64_t group, int64_t count, float* row) {
  Rows::load_int4_row(codes, scale, zero_point, group, count, row);
}

void quantize_int4_keys_avx512vnni(const float* keys, int64_t key_stride, int64_t channels,
                                   uint8_t* codes, int64_t code_stride, void* scale,
                                   int8_t* zero_point) {
  Rows::quantize_int4_keys(keys, key_stride, channels, codes, code_stride, scale, zero_point);
}

void load_int4_keys_avx512vnni(const uint8_t* codes, int64_t code_stride, const void* scale,
                               const int8_t* zero_point, int64_t channels, int key_count,
                               float* keys, int64_t key_stride) {
  Rows::load_int4_keys(codes, code_stride, scale, zero_point, channels, key_count, keys,
                       key_stride);
}

}  // namespace qfa
