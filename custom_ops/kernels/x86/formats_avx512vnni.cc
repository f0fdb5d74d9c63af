// Kernels of kernels/lanes/formats.h with AVX-512.
#include "kernels/lanes/formats.h"

#include <immintrin.h>

namespace qfa {
namespace {

struct Sixteen {
  static constexpr int kWidth = 16;
  using Floats = Registers<kWidth>::Floats;
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
