// Rows in and out with AVX2. Tails go through masked moves or a small copy: no byte outside a row
// is touched.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace qfa {
namespace {

__m256i first(int64_t count) {
  const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const int32_t live = count >= 8 ? 8 : static_cast<int32_t>(count);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(live), index);
}

const float* at(const void* base, int64_t floats) {
  return reinterpret_cast<const float*>(static_cast<const char*>(base) + 4 * floats);
}

void subtract_mean_and_store(__m256 value, const float* mean, __m256i live, int64_t i, float* row) {
  if (mean != nullptr) value = _mm256_sub_ps(value, _mm256_maskload_ps(at(mean, i), live));
  _mm256_maskstore_ps(row + i, live, value);
}

int32_t greatest_of(__m256i x) {
  __m128i y = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  y = _mm_max_epi32(y, _mm_shuffle_epi32(y, 0x4e));
  y = _mm_max_epi32(y, _mm_shuffle_epi32(y, 0xb1));
  return _mm_cvtsi128_si32(y);
}

// Eight words, or `left` and zeros. A copy of either length would be a call for every eight.
__m128i load_words(const char* from, int64_t left) {
  if (left >= 8) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  __m128i some = _mm_setzero_si128();
  __builtin_memcpy(&some, from, static_cast<size_t>(2 * left));
  return some;
}

void store_words(__m128i x, char* to, int64_t left) {
  if (left >= 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), x);
  } else {
    __builtin_memcpy(to, &x, static_cast<size_t>(2 * left));
  }
}

// Eight int32 codes, each within -127..127, as eight bytes.
__m128i narrow(__m256i code) {
  const __m128i words =
      _mm_packs_epi32(_mm256_castsi256_si128(code), _mm256_extracti128_si256(code, 1));
  return _mm_packs_epi16(words, words);
}

}  // namespace

void load_float_row_avx2(const void* source, const float* mean, int64_t count, float* row) {
  for (int64_t i = 0; i < count; i += 8) {
    const __m256i live = first(count - i);
    subtract_mean_and_store(_mm256_maskload_ps(at(source, i), live), mean, live, i, row);
  }
}

void load_half_row_avx2(const void* source, const float* mean, int64_t count, float* row) {
  const char* bytes = static_cast<const char*>(source);
  for (int64_t i = 0; i < count; i += 8) {
    const int64_t left = count - i;
    const __m128i half = load_words(bytes + 2 * i, left);
    subtract_mean_and_store(_mm256_cvtph_ps(half), mean, first(left), i, row);
  }
}

void load_bfloat_row_avx2(const void* source, const float* mean, int64_t count, float* row) {
  const char* bytes = static_cast<const char*>(source);
  for (int64_t i = 0; i < count; i += 8) {
    const int64_t left = count - i;
    const __m128i bfloat = load_words(bytes + 2 * i, left);
    const __m256i bits = _mm256_slli_epi32(_mm256_cvtepu16_epi32(bfloat), 16);
    subtract_mean_and_store(_mm256_castsi256_ps(bits), mean, first(left), i, row);
  }
}

void rotate_row_avx2(float* row, int64_t count, int64_t block) {
  // The block is a multiple of 8, so there is no tail.
  for (int64_t i = 0; i < count; i += 8) {
    __m256 x = _mm256_loadu_ps(row + i);
    __m256 partner = _mm256_permute_ps(x, 0xb1);
    x = _mm256_blend_ps(_mm256_add_ps(x, partner), _mm256_sub_ps(partner, x), 0xaa);
    partner = _mm256_permute_ps(x, 0x4e);
    x = _mm256_blend_ps(_mm256_add_ps(x, partner), _mm256_sub_ps(partner, x), 0xcc);
    partner = _mm256_permute2f128_ps(x, x, 0x01);
    x = _mm256_blend_ps(_mm256_add_ps(x, partner), _mm256_sub_ps(partner, x), 0xf0);
    _mm256_storeu_ps(row + i, x);
  }
  for (int64_t distance = 8; distance < block; distance *= 2) {
    for (int64_t start = 0; start < count; start += 2 * distance) {
      for (int64_t i = start; i < start + distance; i += 8) {
        const __m256 a = _mm256_loadu_ps(row + i), b = _mm256_loadu_ps(row + i + distance);
        _mm256_storeu_ps(row + i, _mm256_add_ps(a, b));
        _mm256_storeu_ps(row + i + distance, _mm256_sub_ps(a, b));
      }
    }
  }
}

float quantize_row_avx2(const void* row, int64_t count, float static_scale, int8_t* codes) {
  const __m256i magnitude_bits = _mm256_set1_epi32(0x7fffffff);
  __m256i greatest = _mm256_setzero_si256();
  for (int64_t i = 0; i < count; i += 8) {
    const __m256i bits = _mm256_castps_si256(_mm256_maskload_ps(at(row, i), first(count - i)));
    greatest = _mm256_max_epi32(greatest, _mm256_and_si256(bits, magnitude_bits));
  }
  const int32_t absmax_bits = greatest_of(greatest);
  if (absmax_bits >= 0x7f800000) {
    for (int64_t i = 0; i < count; ++i) codes[i] = 0;
    return __builtin_nanf("");
  }
  float result = static_scale;
  float factor = static_scale;
  if (static_scale == 0.0f) {
    const float absmax = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(absmax_bits)));
    const float scale = absmax / 127.0f;
    const bool tiny = scale < kSmallestScale;
    result = absmax == 0.0f ? 0.0f : (tiny ? kSmallestScale : scale);
    factor = tiny ? 1.0f / kSmallestScale : 127.0f / absmax;
  }
  const __m256 by = _mm256_set1_ps(factor);
  const __m256 low = _mm256_set1_ps(-127.0f), high = _mm256_set1_ps(127.0f);
  for (int64_t i = 0; i < count; i += 8) {
    const int64_t left = count - i;
    const __m256 x = _mm256_maskload_ps(at(row, i), first(left));
    const __m256 scaled = static_scale == 0.0f ? _mm256_mul_ps(x, by) : _mm256_div_ps(x, by);
    const __m256 clamped = _mm256_min_ps(_mm256_max_ps(scaled, low), high);
    const __m256i code = _mm256_cvtps_epi32(clamped);
    const __m128i bytes = narrow(code);
    if (left >= 8) {
      _mm_storel_epi64(reinterpret_cast<__m128i*>(codes + i), bytes);
    } else {
      __builtin_memcpy(codes + i, &bytes, static_cast<size_t>(left));
    }
  }
  return result;
}

void transpose_codes_avx2(const int8_t* rows, int64_t row_stride, int64_t channels,
                          int8_t* columns) {
  // 16 x 16 bytes at a time: four rounds, each pairs row i with row i + 8 and interleaves them.
  for (int64_t c = 0; c < channels; c += 16) {
    for (int64_t j = 0; j < kKeyBlock; j += 16) {
      __m128i x[16], y[16];
      for (int i = 0; i < 16; ++i) {
        x[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows + (j + i) * row_stride + c));
      }
      for (int round = 0; round < 2; ++round) {
        for (int i = 0; i < 8; ++i) {
          y[2 * i] = _mm_unpacklo_epi8(x[i], x[i + 8]);
          y[2 * i + 1] = _mm_unpackhi_epi8(x[i], x[i + 8]);
        }
        for (int i = 0; i < 8; ++i) {
          x[2 * i] = _mm_unpacklo_epi8(y[i], y[i + 8]);
          x[2 * i + 1] = _mm_unpackhi_epi8(y[i], y[i + 8]);
        }
      }
      for (int i = 0; i < 16; ++i) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(columns + (c + i) * kKeyBlock + j), x[i]);
      }
    }
  }
}

void spoil_rows_avx2(float* rows, int64_t channels, int count, float* spoil) {
  const __m256i magnitude_bits = _mm256_set1_epi32(0x7fffffff);
  for (int j = 0; j < count; ++j, rows += channels) {
    __m256i greatest = _mm256_setzero_si256();
    for (int64_t c = 0; c < channels; c += 8) {
      const __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(rows + c));
      greatest = _mm256_max_epi32(greatest, _mm256_and_si256(bits, magnitude_bits));
    }
    const __m256i spoilt = _mm256_cmpgt_epi32(greatest, _mm256_set1_epi32(0x7f7fffff));
    spoil[j] = 0.0f;
    if (_mm256_movemask_epi8(spoilt) == 0) continue;
    for (int64_t c = 0; c < channels; ++c) rows[c] = 0.0f;
    spoil[j] = __builtin_nanf("");
  }
}

void store_bfloat_row_avx2(const float* row, int64_t count, void* target) {
  char* bytes = static_cast<char*>(target);
  for (int64_t i = 0; i < count; i += 8) {
    const int64_t left = count - i;
    const __m256 x = _mm256_maskload_ps(row + i, first(left));
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i half = _mm256_add_epi32(_mm256_set1_epi32(0x7fff), odd);
    const __m256i number = _mm256_add_epi32(bits, half);
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i upper = _mm256_srli_epi32(_mm256_blendv_epi8(number, quiet, is_nan), 16);
    const __m128i bfloat =
        _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1));
    store_words(bfloat, bytes + 2 * i, left);
  }
}

void store_half_row_avx2(const float* row, int64_t count, void* target) {
  char* bytes = static_cast<char*>(target);
  for (int64_t i = 0; i < count; i += 8) {
    const int64_t left = count - i;
    const __m128i half = _mm256_cvtps_ph(_mm256_maskload_ps(row + i, first(left)),
                                         _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    store_words(half, bytes + 2 * i, left);
  }
}

}  // namespace qfa
