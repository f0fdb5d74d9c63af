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

// row[i] = codes[i] * first * second, where second is 1 or first a power of two. half_of makes
// halfs of codes that are sign-extended to 16 bits.
template <typename HalfOf>
inline __attribute__((always_inline)) void load_float8(const void* codes, float first, float second,
                                                       int64_t count, float* row,
                                                       const HalfOf& half_of) {
  const __m512 by = _mm512_set1_ps(first), then = _mm512_set1_ps(second);
  const auto* from = static_cast<const char*>(codes);
  const auto number = [&](__m256i half) {
    return _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtph_ps(half), by), then);
  };
  int64_t i = 0;
  for (; i + 32 <= count; i += 32) {
    const __m256i code = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
    const __m512i half = half_of(_mm512_cvtepi8_epi16(code));
    _mm512_storeu_ps(row + i, number(_mm512_castsi512_si256(half)));
    _mm512_storeu_ps(row + i + 16, number(_mm512_extracti64x4_epi64(half, 1)));
  }
  if (i == count) return;
  const auto left = static_cast<uint32_t>((uint64_t{1} << (count - i)) - 1);
  const __m512i half = half_of(_mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(left, from + i)));
  _mm512_mask_storeu_ps(row + i, static_cast<__mmask16>(left),
                        number(_mm512_castsi512_si256(half)));
  if (count - i > 16) {
    _mm512_mask_storeu_ps(row + i + 16, static_cast<__mmask16>(left >> 16),
                          number(_mm512_extracti64x4_epi64(half, 1)));
  }
}

}  // namespace

void load_e4m3_row_avx512vnni(const void* codes, float scale, int64_t count, float* row) {
  // With the bits where a half has its own, numbers are 2^8 times too small.
  const auto half_of = [](__m512i wide) {
    const __m512i half = _mm512_and_si512(_mm512_slli_epi16(wide, 7),
                                          _mm512_set1_epi16(static_cast<int16_t>(0xbf80)));
    const __m512i bits = _mm512_set1_epi16(0x7f);
    const __mmask32 is_nan = _mm512_cmpeq_epi16_mask(_mm512_and_si512(wide, bits), bits);
    return _mm512_mask_mov_epi16(half, is_nan, _mm512_set1_epi16(0x7e00));
  };
  if (scale < 0x1p100f && scale > -0x1p100f) {
    load_float8(codes, scale * 256.0f, 1.0f, count, row, half_of);
  } else {
    load_float8(codes, 256.0f, scale, count, row, half_of);
  }
}

void load_e5m2_row_avx512vnni(const void* codes, float scale, int64_t count, float* row) {
  load_float8(codes, scale, 1.0f, count, row,
              [](__m512i wide) { return _mm512_slli_epi16(wide, 8); });
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
