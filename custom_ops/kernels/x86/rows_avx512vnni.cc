// Rows in and out with AVX-512: masked loads and stores touch no byte outside a row.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace qfa {
namespace {

__mmask16 first(int64_t count) {
  return count >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << count) - 1u);
}

const char* at(const void* base, int64_t bytes) { return static_cast<const char*>(base) + bytes; }

void subtract_mean_and_store(__m512 value, const float* mean, __mmask16 live, int64_t i,
                             float* row) {
  if (mean != nullptr) value = _mm512_sub_ps(value, _mm512_maskz_loadu_ps(live, at(mean, 4 * i)));
  _mm512_mask_storeu_ps(row + i, live, value);
}

// Partners of a butterfly within one vector are exchanged, then the upper one of each pair takes
// the difference.
__m512 butterfly(__m512 x, __m512 partner, __mmask16 upper) {
  return _mm512_mask_sub_ps(_mm512_add_ps(x, partner), upper, partner, x);
}

// Codes of `whole` floats, a multiple of 16, and of those of `tail` behind them.
template <typename CodeOf>
inline __attribute__((always_inline)) void write_codes(const void* row, int64_t whole,
                                                       __mmask16 tail, const CodeOf& code_of,
                                                       int8_t* codes) {
  // Packing works in quarters of a register: these are the 32-bit groups in their order.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  int64_t i = 0;
  for (; i + 64 <= whole; i += 64) {
    __m512i code[4];
    for (int k = 0; k < 4; ++k) code[k] = code_of(_mm512_loadu_ps(at(row, 4 * i + 64 * k)));
    const __m512i bytes = _mm512_packs_epi16(_mm512_packs_epi32(code[0], code[1]),
                                             _mm512_packs_epi32(code[2], code[3]));
    _mm512_storeu_si512(codes + i, _mm512_permutexvar_epi32(order, bytes));
  }
  for (; i < whole; i += 16) {
    const __m512i code = code_of(_mm512_loadu_ps(at(row, 4 * i)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i), _mm512_cvtepi32_epi8(code));
  }
  if (tail != 0) {
    const __m512i code = code_of(_mm512_maskz_loadu_ps(tail, at(row, 4 * whole)));
    _mm_mask_storeu_epi8(codes + whole, tail, _mm512_cvtepi32_epi8(code));
  }
}

}  // namespace

void load_float_row_avx512vnni(const void* source, const float* mean, int64_t count, float* row) {
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 live = first(count - i);
    const __m512 value = _mm512_maskz_loadu_ps(live, at(source, 4 * i));
    subtract_mean_and_store(value, mean, live, i, row);
  }
}

void load_half_row_avx512vnni(const void* source, const float* mean, int64_t count, float* row) {
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 live = first(count - i);
    const __m512 value = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(live, at(source, 2 * i)));
    subtract_mean_and_store(value, mean, live, i, row);
  }
}

void load_bfloat_row_avx512vnni(const void* source, const float* mean, int64_t count, float* row) {
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 live = first(count - i);
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(live, at(source, 2 * i)));
    subtract_mean_and_store(_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16)), mean, live, i, row);
  }
}

void rotate_row_avx512vnni(float* row, int64_t count, int64_t block) {
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 live = first(count - i);
    __m512 x = _mm512_maskz_loadu_ps(live, row + i);
    x = butterfly(x, _mm512_permute_ps(x, 0xb1), 0xaaaa);
    x = butterfly(x, _mm512_permute_ps(x, 0x4e), 0xcccc);
    x = butterfly(x, _mm512_shuffle_f32x4(x, x, 0xb1), 0xf0f0);
    if (block >= 16) x = butterfly(x, _mm512_shuffle_f32x4(x, x, 0x4e), 0xff00);
    _mm512_mask_storeu_ps(row + i, live, x);
  }
  for (int64_t distance = 16; distance < block; distance *= 2) {
    for (int64_t start = 0; start < count; start += 2 * distance) {
      for (int64_t i = start; i < start + distance; i += 16) {
        const __m512 a = _mm512_loadu_ps(row + i), b = _mm512_loadu_ps(row + i + distance);
        _mm512_storeu_ps(row + i, _mm512_add_ps(a, b));
        _mm512_storeu_ps(row + i + distance, _mm512_sub_ps(a, b));
      }
    }
  }
}

float quantize_row_avx512vnni(const void* row, int64_t count, float static_scale, int8_t* codes) {
  const __m512i magnitude_bits = _mm512_set1_epi32(0x7fffffff);
  const int64_t whole = count & ~int64_t{15};
  const __mmask16 tail = first(count - whole);
  __m512i greatest = _mm512_setzero_si512();
  for (int64_t i = 0; i < whole; i += 16) {
    const __m512i bits = _mm512_loadu_si512(at(row, 4 * i));
    greatest = _mm512_max_epi32(greatest, _mm512_and_si512(bits, magnitude_bits));
  }
  const __m512i tail_bits = _mm512_maskz_loadu_epi32(tail, at(row, 4 * whole));
  greatest = _mm512_max_epi32(greatest, _mm512_and_si512(tail_bits, magnitude_bits));
  const int32_t absmax_bits = _mm512_reduce_max_epi32(greatest);
  if (absmax_bits >= 0x7f800000) {
    for (int64_t i = 0; i < count; ++i) codes[i] = 0;
    return __builtin_nanf("");
  }
  if (static_scale != 0.0f) {
    const __m512 by = _mm512_set1_ps(static_scale);
    const auto code_of = [by](__m512 x) {
      const __m512 scaled = _mm512_max_ps(_mm512_div_ps(x, by), _mm512_set1_ps(-127.0f));
      return _mm512_cvtps_epi32(_mm512_min_ps(scaled, _mm512_set1_ps(127.0f)));
    };
    write_codes(row, whole, tail, code_of, codes);
    return static_scale;
  }
  const float absmax = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(absmax_bits)));
  const float scale = absmax / 127.0f;
  const bool tiny = scale < kSmallestScale;
  const __m512 by = _mm512_set1_ps(tiny ? 1.0f / kSmallestScale : 127.0f / absmax);
  // Rounding cannot carry a product past 127.5: nothing to clamp.
  const auto code_of = [by](__m512 x) { return _mm512_cvtps_epi32(_mm512_mul_ps(x, by)); };
  write_codes(row, whole, tail, code_of, codes);
  return absmax == 0.0f ? 0.0f : (tiny ? kSmallestScale : scale);
}

void spoil_rows_avx512vnni(float* rows, int64_t channels, int count, float* spoil) {
  const __m512i magnitude_bits = _mm512_set1_epi32(0x7fffffff);
  for (int j = 0; j < count; ++j, rows += channels) {
    __m512i greatest = _mm512_setzero_si512();
    for (int64_t c = 0; c < channels; c += 16) {
      const __m512i bits = _mm512_and_si512(_mm512_loadu_si512(rows + c), magnitude_bits);
      greatest = _mm512_max_epi32(greatest, bits);
    }
    spoil[j] = 0.0f;
    if (_mm512_cmpge_epi32_mask(greatest, _mm512_set1_epi32(0x7f800000)) == 0) continue;
    for (int64_t c = 0; c < channels; ++c) rows[c] = 0.0f;
    spoil[j] = __builtin_nanf("");
  }
}

void store_bfloat_row_avx512vnni(const float* row, int64_t count, void* target) {
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 live = first(count - i);
    const __m512 x = _mm512_maskz_loadu_ps(live, row + i);
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i number = _mm512_add_epi32(bits, _mm512_add_epi32(_mm512_set1_epi32(0x7fff), odd));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    const __m512i rounded = _mm512_mask_or_epi32(number, is_nan, bits, _mm512_set1_epi32(0x400000));
    const __m256i bfloat = _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
    _mm256_mask_storeu_epi16(static_cast<char*>(target) + 2 * i, live, bfloat);
  }
}

void store_half_row_avx512vnni(const float* row, int64_t count, void* target) {
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 live = first(count - i);
    const __m256i half = _mm512_cvtps_ph(_mm512_maskz_loadu_ps(live, row + i),
                                         _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_mask_storeu_epi16(static_cast<char*>(target) + 2 * i, live, half);
  }
}

}  // namespace qfa
