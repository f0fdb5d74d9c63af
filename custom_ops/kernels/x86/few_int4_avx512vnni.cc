// A few queries against 4-bit codes with AVX-512 VNNI; see formats.h.
//
// The product instruction adds four bytes of a lane. For scores the four are bytes of one key, so
// rows of keys are transposed in units of four bytes and lanes are keys; for values they are four
// keys, so four rows are interleaved byte by byte and lanes are channels. Halves of a byte are
// split after that: the low ones by a mask, the high ones in place, as multiples of 16.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace qfa {
namespace {

#define QFA_INLINE inline __attribute__((always_inline))

constexpr int64_t kMostChannels = 1024;
constexpr int64_t kChunk = 128;  // channels whose codes fill a register
constexpr int64_t kChunkBytes = kChunk / 2;
constexpr int kBatch = 4;  // queries whose sums stay in registers

__m512i load_bytes(const void* from) { return _mm512_loadu_si512(from); }

// Asks for what lies `bytes` behind `base`, which may be beyond its array. As in few_ahead.h, a
// steady trickle of requests for the block after this one is what hides memory.
QFA_INLINE void ask_for(const void* base, int64_t bytes) {
  const uintptr_t place = reinterpret_cast<uintptr_t>(base) + static_cast<uintptr_t>(bytes);
  _mm_prefetch(reinterpret_cast<const char*>(place), _MM_HINT_T0);
}

const char* at(const void* base, int64_t bytes) { return static_cast<const char*>(base) + bytes; }

__mmask16 first_lanes(int64_t count) {
  return count >= 16 ? static_cast<__mmask16>(0xffff)
                     : (count <= 0 ? __mmask16{0} : static_cast<__mmask16>((1u << count) - 1u));
}

__mmask64 first_bytes(int64_t count) {
  return count >= 64 ? ~__mmask64{0} : (count <= 0 ? 0 : (__mmask64{1} << count) - 1);
}

// Scores.

// The bytes of 16 channels, the even ones first.
__m512i even_first(__m512i bytes) {
  const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
  return _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(order));
}

// Queries that hold the scales of the keys.
template <int count>
struct Folded {
  alignas(64) int8_t codes[count][kMostChannels];  // of each 16 channels the even ones first
  __m512 scale;                                    // [query] in each 128 bits, as is the next
  __m512i zero;                                    // sum of code * zero point
};

// What scores are made from, rows padded with zeros to a multiple of 64 channels.
struct ScoreInput {
  const float* queries;
  int64_t query_stride;
  const char* scale;  // halfs
  const int8_t* zero_point;
  int64_t padded;
};

// Four vectors in; out, in each 128 bits, what `join` makes of the 16 lanes of each.
template <typename Join>
QFA_INLINE __m512i join_lanes_of_four(const __m512i (&x)[4], const Join& join) {
  const __m512i pair = join(_mm512_unpacklo_epi32(x[0], x[1]), _mm512_unpackhi_epi32(x[0], x[1]));
  const __m512i other = join(_mm512_unpacklo_epi32(x[2], x[3]), _mm512_unpackhi_epi32(x[2], x[3]));
  const __m512i four = join(_mm512_unpacklo_epi64(pair, other), _mm512_unpackhi_epi64(pair, other));
  const __m512i half = join(four, _mm512_shuffle_i32x4(four, four, 0x4e));
  return join(half, _mm512_shuffle_i32x4(half, half, 0xb1));
}

// The greatest magnitude of each folded query, as an integer in each 128 bits. Leaves the scales of
// the keys as floats.
template <int count>
QFA_INLINE __m512i fold_magnitudes(const ScoreInput& in, float* scales) {
  __m512i greatest[4];
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) greatest[q] = _mm512_setzero_si512();
  for (int64_t c = 0; c < in.padded; c += 16) {
    const auto* halfs = reinterpret_cast<const __m256i*>(in.scale + 2 * c);
    const __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256(halfs));
    _mm512_store_ps(scales + c, scale);
    ask_for(halfs, kKeyBlock / kInt4KeyGroup * 2 * in.padded);
    ask_for(in.zero_point + c, kKeyBlock / kInt4KeyGroup * in.padded);
#pragma GCC unroll 4
    for (int q = 0; q < count; ++q) {
      const __m512 x = _mm512_loadu_ps(in.queries + q * in.query_stride + c);
      const __m512i magnitude = _mm512_and_si512(_mm512_castps_si512(_mm512_mul_ps(x, scale)),
                                                 _mm512_set1_epi32(0x7fffffff));
      greatest[q] = _mm512_max_epi32(greatest[q], magnitude);
    }
  }
  return join_lanes_of_four(greatest, [](__m512i x, __m512i y) { return _mm512_max_epi32(x, y); });
}

// Codes the folded queries. Those of a query that is not finite may be anything: its scale is NaN.
template <int count>
QFA_INLINE void fold_queries(const ScoreInput& in, __m512i absmax_bits, const float* scales,
                             Folded<count>& target) {
  const __m128 absmax = _mm_castsi128_ps(_mm512_castsi512_si128(absmax_bits));
  const __m128 most = _mm_set1_ps(127.0f), smallest = _mm_set1_ps(kSmallestScale);
  const __m128 scale = _mm_div_ps(absmax, most);
  const __mmask8 tiny = _mm_cmp_ps_mask(scale, smallest, _CMP_LT_OQ);
  const __mmask8 none = _mm_cmp_ps_mask(absmax, _mm_setzero_ps(), _CMP_EQ_OQ);
  const __mmask8 lost = _mm_cmpge_epi32_mask(_mm_castps_si128(absmax), _mm_set1_epi32(0x7f800000));
  const __m512 inverse = _mm512_broadcast_f32x4(
      _mm_mask_mov_ps(_mm_div_ps(most, absmax), tiny, _mm_set1_ps(1.0f / kSmallestScale)));
  __m128 step = _mm_mask_mov_ps(scale, tiny, smallest);
  step = _mm_mask_mov_ps(step, none, _mm_setzero_ps());
  step = _mm_mask_mov_ps(step, lost, _mm_set1_ps(__builtin_nanf("")));
  target.scale = _mm512_broadcast_f32x4(step);
  const __m512 by[4] = {_mm512_permute_ps(inverse, 0x00), _mm512_permute_ps(inverse, 0x55),
                        _mm512_permute_ps(inverse, 0xaa), _mm512_permute_ps(inverse, 0xff)};
  // Packing leaves four bytes of each of its sources in each 128 bits.
  const __m512i in_order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i offset = _mm512_set1_epi8(-128);
  __m512i with_zero[4], with_offset[4];
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) with_zero[q] = with_offset[q] = _mm512_setzero_si512();
  for (int64_t c = 0; c < in.padded; c += 64) {
    // Zero points plus 128 are unsigned.
    const __m512i zero = even_first(_mm512_xor_si512(load_bytes(in.zero_point + c), offset));
#pragma GCC unroll 4
    for (int q = 0; q < count; ++q) {
      const float* query = in.queries + q * in.query_stride + c;
      const auto code = [&](int64_t i) {
        const __m512 folded =
            _mm512_mul_ps(_mm512_loadu_ps(query + i), _mm512_load_ps(scales + c + i));
        return _mm512_cvtps_epi32(_mm512_mul_ps(folded, by[q]));
      };
      const __m512i packed = _mm512_packs_epi16(_mm512_packs_epi32(code(0), code(16)),
                                                _mm512_packs_epi32(code(32), code(48)));
      const __m512i codes = even_first(_mm512_permutexvar_epi32(in_order, packed));
      _mm512_store_si512(target.codes[q] + c, codes);
      with_zero[q] = _mm512_dpbusd_epi32(with_zero[q], zero, codes);
      with_offset[q] = _mm512_dpbusd_epi32(with_offset[q], offset, codes);
    }
  }
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) with_zero[q] = _mm512_sub_epi32(with_zero[q], with_offset[q]);
  target.zero =
      join_lanes_of_four(with_zero, [](__m512i x, __m512i y) { return _mm512_add_epi32(x, y); });
}

// columns[4 l + i], l and i in 0..3: bytes 16 l + 4 i .. + 3 of 16 rows.
template <typename Row>
QFA_INLINE void transpose_rows(const Row& row, __m512i* columns) {
  __m512i quad[4][4];  // [four rows][i]: for each l the bytes of the four rows
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    const __m512i a = row(4 * r), b = row(4 * r + 1), c = row(4 * r + 2), d = row(4 * r + 3);
    const __m512i ab = _mm512_unpacklo_epi32(a, b), cd = _mm512_unpacklo_epi32(c, d);
    const __m512i AB = _mm512_unpackhi_epi32(a, b), CD = _mm512_unpackhi_epi32(c, d);
    quad[r][0] = _mm512_unpacklo_epi64(ab, cd);
    quad[r][1] = _mm512_unpackhi_epi64(ab, cd);
    quad[r][2] = _mm512_unpacklo_epi64(AB, CD);
    quad[r][3] = _mm512_unpackhi_epi64(AB, CD);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512i low01 = _mm512_shuffle_i32x4(quad[0][i], quad[1][i], 0x44);
    const __m512i low23 = _mm512_shuffle_i32x4(quad[2][i], quad[3][i], 0x44);
    const __m512i high01 = _mm512_shuffle_i32x4(quad[0][i], quad[1][i], 0xee);
    const __m512i high23 = _mm512_shuffle_i32x4(quad[2][i], quad[3][i], 0xee);
    _mm512_store_si512(columns + i, _mm512_shuffle_i32x4(low01, low23, 0x88));
    _mm512_store_si512(columns + 4 + i, _mm512_shuffle_i32x4(low01, low23, 0xdd));
    _mm512_store_si512(columns + 8 + i, _mm512_shuffle_i32x4(high01, high23, 0x88));
    _mm512_store_si512(columns + 12 + i, _mm512_shuffle_i32x4(high01, high23, 0xdd));
  }
}

// Transposes what a chunk has of 32 keys: columns[half][.], the first 16 keys and the others. Rows
// of half a register at most, `paired`, share one with the row 16 keys later: columns[.][0..7] are
// then the first 16 keys, the other eight the others.
template <bool paired>
QFA_INLINE void transpose_keys(const uint8_t* codes, int64_t code_stride, int64_t bytes,
                               __m512i (&columns)[2][16]) {
  if (paired) {
    const auto live = static_cast<__mmask32>(first_bytes(bytes));
    transpose_rows(
        [&](int64_t j) {
          const uint8_t* row = codes + j * code_stride;
          return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_maskz_loadu_epi8(live, row)),
                                    _mm256_maskz_loadu_epi8(live, row + 16 * code_stride), 1);
        },
        columns[0]);
    return;
  }
  const __mmask64 live = first_bytes(bytes);
  for (int half = 0; half < 2; ++half, codes += 16 * code_stride) {
    transpose_rows(
        [&](int64_t j) { return _mm512_maskz_loadu_epi8(live, codes + j * code_stride); },
        columns[half]);
  }
}

// The sums of 32 keys: [16 keys][query], of even channels and of odd ones times 16.
template <int count>
struct ScoreSums {
  __m512i even[2][count], odd[2][count];
};

// Adds the products of `column_count` columns, eight channels each.
template <int count, int rows_per_column>
QFA_INLINE void add_columns(const __m512i* first, const __m512i* second, int column_count,
                            const Folded<count>& queries, int64_t start, const uint8_t* codes,
                            int64_t code_stride, ScoreSums<count>& sums) {
  const __m512i low_half = _mm512_set1_epi8(0x0f), high_half = _mm512_set1_epi8(-16);
  for (int column = 0; column < column_count; ++column) {
    // All rows of the group, whether columns are few or many.
#pragma GCC unroll 4
    for (int row = 0; row < rows_per_column; ++row) {
      ask_for(codes, (kKeyBlock + rows_per_column * column + row) * code_stride);
    }
    const __m512i x = _mm512_load_si512(first + column), y = _mm512_load_si512(second + column);
    const __m512i x_even = _mm512_and_si512(x, low_half), y_even = _mm512_and_si512(y, low_half);
    const __m512i x_odd = _mm512_and_si512(x, high_half), y_odd = _mm512_and_si512(y, high_half);
    // The eight channels are one half of 16.
    const int64_t place = start + 16 * (column / 2) + 4 * (column % 2);
#pragma GCC unroll 4
    for (int q = 0; q < count; ++q) {
      int32_t even, odd;
      __builtin_memcpy(&even, queries.codes[q] + place, 4);
      __builtin_memcpy(&odd, queries.codes[q] + place + 8, 4);
      const __m512i of_even = _mm512_set1_epi32(even), of_odd = _mm512_set1_epi32(odd);
      sums.even[0][q] = _mm512_dpbusd_epi32(sums.even[0][q], x_even, of_even);
      sums.even[1][q] = _mm512_dpbusd_epi32(sums.even[1][q], y_even, of_even);
      sums.odd[0][q] = _mm512_dpbusd_epi32(sums.odd[0][q], x_odd, of_odd);
      sums.odd[1][q] = _mm512_dpbusd_epi32(sums.odd[1][q], y_odd, of_odd);
    }
  }
}

template <int count, bool paired>
void score_group(const uint8_t* codes, int64_t code_stride, int64_t channels, const ScoreInput& in,
                 float* scores) {
  alignas(64) float scales[kMostChannels];
  alignas(64) __m512i columns[2][16];
  Folded<count> queries;
  // The first keys are transposed while the queries' scales are on their way.
  const __m512i magnitudes = fold_magnitudes<count>(in, scales);
  transpose_keys<paired>(codes, code_stride, (channels + 1) / 2, columns);
  fold_queries<count>(in, magnitudes, scales, queries);
  ScoreSums<count> sums;
#pragma GCC unroll 4
  for (int q = 0; q < count; ++q) {
    sums.even[0][q] = sums.even[1][q] = sums.odd[0][q] = sums.odd[1][q] = _mm512_setzero_si512();
  }
  if (paired) {
    add_columns<count, 4>(columns[0], columns[0] + 8, 8, queries, 0, codes, code_stride, sums);
  } else {
    for (int64_t start = 0;;) {
      const int64_t bytes = (channels - start + 1) / 2;
      const int count_of_columns =
          bytes >= kChunkBytes ? 16 : static_cast<int>((bytes + 15) / 16 * 4);
      add_columns<count, 2>(columns[0], columns[1], count_of_columns, queries, start,
                            codes + start / 2, code_stride, sums);
      start += kChunk;
      if (start >= channels) break;
      transpose_keys<false>(codes + start / 2, code_stride, (channels - start + 1) / 2, columns);
    }
  }
  const __m512 scale[4] = {
      _mm512_permute_ps(queries.scale, 0x00), _mm512_permute_ps(queries.scale, 0x55),
      _mm512_permute_ps(queries.scale, 0xaa), _mm512_permute_ps(queries.scale, 0xff)};
  const __m512i zero[4] = {_mm512_shuffle_epi32(queries.zero, _MM_PERM_AAAA),
                           _mm512_shuffle_epi32(queries.zero, _MM_PERM_BBBB),
                           _mm512_shuffle_epi32(queries.zero, _MM_PERM_CCCC),
                           _mm512_shuffle_epi32(queries.zero, _MM_PERM_DDDD)};
#pragma GCC unroll 4
  for (int q = 0; q < count; ++q) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const __m512i products =
          _mm512_add_epi32(sums.even[half][q], _mm512_srai_epi32(sums.odd[half][q], 4));
      const __m512i sum = _mm512_sub_epi32(products, zero[q]);
      _mm512_storeu_ps(scores + q * kKeyBlock + 16 * half,
                       _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale[q]));
    }
  }
}

// A copy of what scores are made from, with zeros behind.
struct ScoreCopy {
  alignas(64) float queries[kMostFew][kMostChannels];
  alignas(64) char scale[2 * kMostChannels];
  alignas(64) int8_t zero_point[kMostChannels];
};

void pad_scores(int64_t channels, int query_count, ScoreCopy& copy, ScoreInput& in) {
  for (int64_t c = 0; c < in.padded; c += 16) {
    const __mmask16 live = first_lanes(channels - c);
    for (int q = 0; q < query_count; ++q) {
      _mm512_store_ps(copy.queries[q] + c,
                      _mm512_maskz_loadu_ps(live, in.queries + q * in.query_stride + c));
    }
    _mm256_store_si256(reinterpret_cast<__m256i*>(copy.scale + 2 * c),
                       _mm256_maskz_loadu_epi16(live, in.scale + 2 * c));
    _mm_store_si128(reinterpret_cast<__m128i*>(copy.zero_point + c),
                    _mm_maskz_loadu_epi8(live, in.zero_point + c));
  }
  in = {copy.queries[0], kMostChannels, copy.scale, copy.zero_point, in.padded};
}

// Values.

// How the codes of a chunk lie in its rows.
enum class Layout {
  kFull,   // they fill a register
  kPart,   // and here more than half of one
  kPaired  // half of one at most: a row shares it with the row 32 keys later
};

// Of one chunk of channels: what `queries` queries weigh its keys with. The keys are taken 16 at a
// time in four quads; step s has keys 8 s .. 8 s + 7 and 32 + 8 s .. 32 + 8 s + 7.
template <int queries>
struct Weights {
  alignas(64) uint8_t codes[4][queries][64];  // [step][q]: for each 32 channels 16 keys
  alignas(64) float step[16];                 // [q][32 channels]
  // Where sums of even channels start, and of odd ones, in each 128 bits those of 32 channels: at
  // what zero points take away.
  __m512i even_start[queries], odd_start[queries];
};

// 16 vectors in, the greatest of each, as unsigned integers, out.
QFA_INLINE __m512i greatest_of_each(const __m512i (&x)[16]) {
  __m512i pairs[8], quads[4];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    pairs[i] = _mm512_max_epu32(_mm512_unpacklo_epi32(x[2 * i], x[2 * i + 1]),
                                _mm512_unpackhi_epi32(x[2 * i], x[2 * i + 1]));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    quads[i] = _mm512_max_epu32(_mm512_unpacklo_epi64(pairs[2 * i], pairs[2 * i + 1]),
                                _mm512_unpackhi_epi64(pairs[2 * i], pairs[2 * i + 1]));
  }
  const __m512i a = _mm512_max_epu32(_mm512_shuffle_i32x4(quads[0], quads[1], 0x88),
                                     _mm512_shuffle_i32x4(quads[0], quads[1], 0xdd));
  const __m512i b = _mm512_max_epu32(_mm512_shuffle_i32x4(quads[2], quads[3], 0x88),
                                     _mm512_shuffle_i32x4(quads[2], quads[3], 0xdd));
  return _mm512_max_epu32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
}

// scales[key][4] and zero points[key][4], of four times 32 channels, as floats and in the order of
// Weights.
QFA_INLINE void arrange_scales(const void* scales, const int8_t* zero_points,
                               float (&ordered)[4][kKeyBlock], int8_t (&zero)[4][64]) {
  alignas(64) static constexpr uint16_t kByGroup[32] = {0,  4,  8,  12, 16, 20, 24, 28, 32, 36, 40,
                                                        44, 48, 52, 56, 60, 1,  5,  9,  13, 17, 21,
                                                        25, 29, 33, 37, 41, 45, 49, 53, 57, 61};
  const __m512i first_two = _mm512_load_si512(kByGroup);
  const __m512i last_two = _mm512_add_epi16(first_two, _mm512_set1_epi16(2));
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512i a = load_bytes(at(scales, 128 * i)), b = load_bytes(at(scales, 128 * i + 64));
    ask_for(scales, kKeyBlock * 8 + 128 * i);
    ask_for(scales, kKeyBlock * 8 + 128 * i + 64);
    ask_for(zero_points, kKeyBlock * 4 + 64 * i);
    const __m512i low = _mm512_permutex2var_epi16(a, first_two, b);
    const __m512i high = _mm512_permutex2var_epi16(a, last_two, b);
    _mm512_store_ps(ordered[0] + 16 * i, _mm512_cvtph_ps(_mm512_castsi512_si256(low)));
    _mm512_store_ps(ordered[1] + 16 * i, _mm512_cvtph_ps(_mm512_extracti64x4_epi64(low, 1)));
    _mm512_store_ps(ordered[2] + 16 * i, _mm512_cvtph_ps(_mm512_castsi512_si256(high)));
    _mm512_store_ps(ordered[3] + 16 * i, _mm512_cvtph_ps(_mm512_extracti64x4_epi64(high, 1)));
  }
  const __m512i transpose_bytes =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  const __m512i transpose_quads =
      _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
#pragma GCC unroll 4
  for (int s = 0; s < 4; ++s) {
    const auto* from = reinterpret_cast<const __m256i*>(zero_points + 32 * s);
    const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256(from)),
                                            _mm256_loadu_si256(from + 4), 1);
    const __m512i by_group = _mm512_shuffle_epi8(both, transpose_bytes);
    _mm512_store_si512(zero[s], _mm512_permutexvar_epi32(transpose_quads, by_group));
  }
}

// In all lanes of each 128 bits their sum.
QFA_INLINE __m512i add_within_lanes(__m512i x) {
  const __m512i pairs = _mm512_add_epi32(x, _mm512_shuffle_epi32(x, _MM_PERM_CDAB));
  return _mm512_add_epi32(pairs, _mm512_shuffle_epi32(pairs, _MM_PERM_BADC));
}

template <int queries, Layout layout>
QFA_INLINE void weigh(const float* weights, int key_count, const float (&scales)[4][kKeyBlock],
                      const int8_t (&zero_points)[4][64], Weights<queries>& target) {
  constexpr bool kPaired = layout == Layout::kPaired;
  constexpr int kParts = kPaired ? 2 : 4;  // of 32 channels
  alignas(64) float inverse[16];
  __m512i greatest[16];
  __m512 y[queries][4];
  __mmask16 seen[queries][4];
#pragma GCC unroll 4
  for (int q = 0; q < queries; ++q) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      y[q][i] =
          _mm512_maskz_loadu_ps(first_lanes(key_count - 16 * i), weights + q * kKeyBlock + 16 * i);
      seen[q][i] = _mm512_cmp_ps_mask(y[q][i], _mm512_setzero_ps(), _CMP_NEQ_UQ);
    }
#pragma GCC unroll 4
    for (int g = 0; g < kParts; ++g) {
      __m512i w[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const __m512 scale = _mm512_load_ps(scales[g] + 16 * i);
        const __m512 product = _mm512_maskz_mul_ps(seen[q][i], y[q][i], scale);
        w[i] = _mm512_castps_si512(product);
      }
      greatest[4 * q + g] =
          _mm512_max_epu32(_mm512_max_epu32(w[0], w[1]), _mm512_max_epu32(w[2], w[3]));
    }
    for (int g = kParts; g < 4; ++g) greatest[4 * q + g] = _mm512_setzero_si512();
  }
#pragma GCC unroll 16
  for (int i = 4 * queries; i < 16; ++i) greatest[i] = _mm512_setzero_si512();
  const __m512i most_bits = greatest_of_each(greatest);
  const __m512 most = _mm512_castsi512_ps(most_bits), steps = _mm512_set1_ps(255.0f);
  const __m512 step = _mm512_div_ps(most, steps);
  const __m512 smallest = _mm512_set1_ps(kSmallestScale);
  const __mmask16 tiny = _mm512_cmp_ps_mask(step, smallest, _CMP_LT_OQ);
  const __mmask16 lost = _mm512_cmpge_epu32_mask(most_bits, _mm512_set1_epi32(0x7f800000));
  const __m512 kept_step = _mm512_mask_mov_ps(step, tiny, smallest);
  _mm512_store_ps(target.step,
                  _mm512_mask_mov_ps(kept_step, lost, _mm512_set1_ps(__builtin_nanf(""))));
  _mm512_store_ps(inverse, _mm512_mask_mov_ps(_mm512_div_ps(steps, most), tiny,
                                              _mm512_set1_ps(1.0f / kSmallestScale)));
  // The code is the low byte of each lane, and the byte above it is zero.
  alignas(64) static constexpr uint16_t kLowWords[32] = {0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20,
                                                         22, 24, 26, 28, 30, 32, 34, 36, 38, 40, 42,
                                                         44, 46, 48, 50, 52, 54, 56, 58, 60, 62};
  const __m512i low_words = _mm512_load_si512(kLowWords);
  const __m512 shift = _mm512_set1_ps(0x1p23f);
#pragma GCC unroll 4
  for (int q = 0; q < queries; ++q) {
    __m512i codes[4];  // [g]: keys in the order of the steps
#pragma GCC unroll 4
    for (int g = 0; g < kParts; ++g) {
      const __m512 by = _mm512_set1_ps(inverse[4 * q + g]);
      __m512i code[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const __m512 w =
            _mm512_maskz_mul_ps(seen[q][i], y[q][i], _mm512_load_ps(scales[g] + 16 * i));
        code[i] = _mm512_castps_si512(_mm512_fmadd_ps(w, by, shift));
      }
      codes[g] = _mm512_packus_epi16(_mm512_permutex2var_epi16(code[0], low_words, code[1]),
                                     _mm512_permutex2var_epi16(code[2], low_words, code[3]));
    }
    if (kPaired) codes[2] = codes[0], codes[3] = codes[1];
    const __m512i low01 = _mm512_shuffle_i32x4(codes[0], codes[1], 0x44);
    const __m512i low23 = _mm512_shuffle_i32x4(codes[2], codes[3], 0x44);
    const __m512i high01 = _mm512_shuffle_i32x4(codes[0], codes[1], 0xee);
    const __m512i high23 = _mm512_shuffle_i32x4(codes[2], codes[3], 0xee);
    const __m512i step_codes[4] = {
        _mm512_shuffle_i32x4(low01, low23, 0x88), _mm512_shuffle_i32x4(low01, low23, 0xdd),
        _mm512_shuffle_i32x4(high01, high23, 0x88), _mm512_shuffle_i32x4(high01, high23, 0xdd)};
    __m512i with_zero = _mm512_setzero_si512(), with_eight = with_zero;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      _mm512_store_si512(target.codes[i][q], step_codes[i]);
      with_zero = _mm512_dpbusd_epi32(with_zero, step_codes[i], _mm512_load_si512(zero_points[i]));
      with_eight = _mm512_dpbusd_epi32(with_eight, step_codes[i], _mm512_set1_epi8(8));
    }
    // Odd channels are multiplied as 16 * (code - 8). Paired sums are added to each other: one of
    // the two halves has it all.
    const __mmask16 where = kPaired ? 0x00ff : 0xffff;
    const __m512i even = add_within_lanes(with_zero);
    const __m512i odd = _mm512_sub_epi32(even, add_within_lanes(with_eight));
    target.even_start[q] = _mm512_maskz_sub_epi32(where, _mm512_setzero_si512(), even);
    target.odd_start[q] =
        _mm512_maskz_sub_epi32(where, _mm512_setzero_si512(), _mm512_slli_epi32(odd, 4));
  }
}

// Four of the 16 keys of a step in all lanes of each 128 bits. Paired, the upper half of the
// register has those of 32 keys later.
template <Layout layout, int quad>
QFA_INLINE __m512i keys_of_quad(__m512i step) {
  if (layout != Layout::kPaired)
    return _mm512_shuffle_epi32(step, static_cast<_MM_PERM_ENUM>(0x55 * quad));
  const __m512i four = _mm512_set1_epi32(0x03020100 + 0x04040404 * quad);
  const __m512i later = _mm512_maskz_set1_epi32(0xff00, 0x08080808);
  return _mm512_shuffle_epi8(step, _mm512_add_epi8(four, later));
}

// The sums of one half of the bytes of each 32 channels: [q][two dwords of bytes].
template <int queries>
struct Sums {
  __m512i even[queries][2], odd[queries][2];
};

template <int queries, Layout layout, int half, int quad>
QFA_INLINE void add_quad(const uint8_t* rows, int64_t stride, __mmask64 live,
                         const Weights<queries>& weights, int s, Sums<queries>& sums) {
  constexpr bool kPaired = layout == Layout::kPaired;
  const int64_t first_row = 8 * s + 32 * (quad / 2) + 4 * (quad % 2);
#pragma GCC unroll 2
  for (int64_t j = 2 * half; j < 2 * half + 2; ++j) {
    ask_for(rows, (kKeyBlock + first_row + j) * stride);
    if (kPaired) ask_for(rows, (kKeyBlock + 32 + first_row + j) * stride);
  }
  const uint8_t* first = rows + first_row * stride;
  const auto row = [&](int64_t j) {
    const uint8_t* from = first + j * stride;
    if (layout == Layout::kFull) return load_bytes(from);
    if (!kPaired) return _mm512_maskz_loadu_epi8(live, from);
    const auto some = static_cast<__mmask32>(live);
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_maskz_loadu_epi8(some, from)),
                              _mm256_maskz_loadu_epi8(some, from + 32 * stride), 1);
  };
  const __m512i a = row(0), b = row(1), c = row(2), d = row(3);
  const __m512i ab = half == 0 ? _mm512_unpacklo_epi8(a, b) : _mm512_unpackhi_epi8(a, b);
  const __m512i cd = half == 0 ? _mm512_unpacklo_epi8(c, d) : _mm512_unpackhi_epi8(c, d);
  const __m512i bytes[2] = {_mm512_unpacklo_epi16(ab, cd), _mm512_unpackhi_epi16(ab, cd)};
  constexpr int kAndXor = 0x6a;
  __m512i even[2], odd[2];
#pragma GCC unroll 2
  for (int t = 0; t < 2; ++t) {
    even[t] = _mm512_and_si512(bytes[t], _mm512_set1_epi8(0x0f));
    // (x & 0xf0) ^ 0x80 as a signed byte: 16 * (code - 8).
    odd[t] =
        _mm512_ternarylogic_epi32(bytes[t], _mm512_set1_epi8(-16), _mm512_set1_epi8(-128), kAndXor);
  }
#pragma GCC unroll 4
  for (int q = 0; q < queries; ++q) {
    const __m512i w = keys_of_quad<layout, quad>(_mm512_load_si512(weights.codes[s][q]));
#pragma GCC unroll 2
    for (int t = 0; t < 2; ++t) {
      sums.even[q][t] = _mm512_dpbusd_epi32(sums.even[q][t], w, even[t]);
      sums.odd[q][t] = _mm512_dpbusd_epi32(sums.odd[q][t], w, odd[t]);
    }
  }
}

template <int queries, Layout layout, int half>
QFA_INLINE void accumulate_half(const uint8_t* rows, int64_t stride, __mmask64 live,
                                const Weights<queries>& weights, int64_t channels,
                                const float* keep, float* output, int64_t output_stride) {
  constexpr bool kPaired = layout == Layout::kPaired;
  Sums<queries> sums;
#pragma GCC unroll 4
  for (int q = 0; q < queries; ++q) {
#pragma GCC unroll 2
    for (int t = 0; t < 2; ++t) {
      sums.even[q][t] = weights.even_start[q];
      sums.odd[q][t] = weights.odd_start[q];
    }
  }
#pragma GCC unroll 1
  for (int s = 0; s < 4; ++s) {
    add_quad<queries, layout, half, 0>(rows, stride, live, weights, s, sums);
    add_quad<queries, layout, half, 1>(rows, stride, live, weights, s, sums);
    if (kPaired) continue;
    add_quad<queries, layout, half, 2>(rows, stride, live, weights, s, sums);
    add_quad<queries, layout, half, 3>(rows, stride, live, weights, s, sums);
  }
#pragma GCC unroll 4
  for (int q = 0; q < queries; ++q) {
    __m512i x[4];  // for each 32 channels four of 16
#pragma GCC unroll 2
    for (int t = 0; t < 2; ++t) {
      __m512i even = sums.even[q][t], odd = sums.odd[q][t];
      if (kPaired) {
        even = _mm512_add_epi32(even, _mm512_shuffle_i32x4(even, even, 0x4e));
        odd = _mm512_add_epi32(odd, _mm512_shuffle_i32x4(odd, odd, 0x4e));
      }
      odd = _mm512_srai_epi32(odd, 4);
      x[2 * t] = _mm512_unpacklo_epi32(even, odd);
      x[2 * t + 1] = _mm512_unpackhi_epi32(even, odd);
    }
    const __m512i low01 = _mm512_shuffle_i32x4(x[0], x[1], 0x44);
    const __m512i low23 = _mm512_shuffle_i32x4(x[2], x[3], 0x44);
    const __m512i high01 = _mm512_shuffle_i32x4(x[0], x[1], 0xee);
    const __m512i high23 = _mm512_shuffle_i32x4(x[2], x[3], 0xee);
    const __m512i sum[4] = {
        _mm512_shuffle_i32x4(low01, low23, 0x88), _mm512_shuffle_i32x4(low01, low23, 0xdd),
        _mm512_shuffle_i32x4(high01, high23, 0x88), _mm512_shuffle_i32x4(high01, high23, 0xdd)};
    const __m512 kept = _mm512_set1_ps(keep[q]);
#pragma GCC unroll 4
    for (int l = 0; l < (kPaired ? 2 : 4); ++l) {
      const int64_t c = 32 * l + 16 * half;
      const __mmask16 some = first_lanes(channels - c);
      float* target = output + q * output_stride + c;
      const __m512 old = _mm512_mul_ps(_mm512_maskz_loadu_ps(some, target), kept);
      const __m512 step = _mm512_set1_ps(weights.step[4 * q + l]);
      _mm512_mask_storeu_ps(target, some, _mm512_fmadd_ps(step, _mm512_cvtepi32_ps(sum[l]), old));
    }
  }
}

// A chunk as arrange_scales and add_quad take it: 64 rows, scales of four times 32 channels.
struct Chunk {
  const uint8_t* rows;
  int64_t stride;
  __mmask64 live;
  int64_t channels;
  int keys;
  const void* scales;
  const int8_t* zero_points;
};

struct ChunkCopy {
  alignas(64) uint8_t rows[kKeyBlock * kChunkBytes];
  alignas(64) uint16_t scales[kKeyBlock * 4];
  alignas(64) int8_t zero_points[kKeyBlock * 4];
};

Chunk chunk_of(const Int4Values& values, int64_t start, int key_count, ChunkCopy& copy) {
  const int64_t channels = values.channels - start < kChunk ? values.channels - start : kChunk;
  const int64_t parts = (channels + 31) / 32, first = start / values.group;
  const __mmask64 live = first_bytes((channels + 1) / 2);
  Chunk chunk = {values.codes + start / 2,    values.code_stride,       live, channels, key_count,
                 at(values.scale, 2 * first), values.zero_point + first};
  if (key_count < kKeyBlock) {
    for (int64_t j = 0; j < kKeyBlock; ++j) {
      const __m512i row = j < key_count
                              ? _mm512_maskz_loadu_epi8(live, chunk.rows + j * values.code_stride)
                              : _mm512_setzero_si512();
      _mm512_store_si512(copy.rows + j * kChunkBytes, row);
    }
    chunk.rows = copy.rows;
    chunk.stride = kChunkBytes;
  }
  const bool as_they_lie =
      key_count == kKeyBlock && values.group == 32 && parts == 4 && values.scale_stride == 4;
  if (as_they_lie) return chunk;
  if (values.group == 32) {
    const auto live_parts = static_cast<__mmask16>(first_lanes(parts));
    for (int64_t j = 0; j < kKeyBlock; ++j) {
      const __mmask16 some = j < key_count ? live_parts : __mmask16{0};
      const int64_t place = j * values.scale_stride;
      if (j % 4 == 0) {
        ask_for(chunk.scales, 2 * (place + kKeyBlock * values.scale_stride));
        ask_for(chunk.zero_points, place + kKeyBlock * values.scale_stride);
      }
      const __m128i halfs =
          _mm_maskz_loadu_epi16(static_cast<__mmask8>(some), at(chunk.scales, 2 * place));
      const __m128i zeros = _mm_maskz_loadu_epi8(some, chunk.zero_points + place);
      _mm_storeu_si64(copy.scales + 4 * j, halfs);
      _mm_storeu_si32(copy.zero_points + 4 * j, zeros);
    }
  } else {
    __builtin_memset(copy.scales, 0, sizeof(copy.scales));
    __builtin_memset(copy.zero_points, 0, sizeof(copy.zero_points));
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t g = (start + 32 * part) / values.group - first;
      for (int64_t j = 0; j < key_count; ++j) {
        const int64_t place = j * values.scale_stride + g;
        __builtin_memcpy(copy.scales + 4 * j + part, at(chunk.scales, 2 * place), 2);
        copy.zero_points[4 * j + part] = chunk.zero_points[place];
      }
    }
  }
  chunk.scales = copy.scales;
  chunk.zero_points = copy.zero_points;
  return chunk;
}

template <int queries, Layout layout>
void accumulate_chunk(const Chunk& chunk, const float (&scales)[4][kKeyBlock],
                      const int8_t (&zero_points)[4][64], const float* weights, const float* keep,
                      float* output, int64_t output_stride) {
  Weights<queries> target;
  weigh<queries, layout>(weights, chunk.keys, scales, zero_points, target);
  accumulate_half<queries, layout, 0>(chunk.rows, chunk.stride, chunk.live, target, chunk.channels,
                                      keep, output, output_stride);
  accumulate_half<queries, layout, 1>(chunk.rows, chunk.stride, chunk.live, target, chunk.channels,
                                      keep, output, output_stride);
}

template <Layout layout, typename Run>
void run_chunk(int queries, const Run& run) {
  switch (queries) {
    case 1:
      run(accumulate_chunk<1, layout>);
      break;
    case 2:
      run(accumulate_chunk<2, layout>);
      break;
    case 3:
      run(accumulate_chunk<3, layout>);
      break;
    default:
      run(accumulate_chunk<4, layout>);
  }
}

}  // namespace

void few_int4_scores_avx512vnni(const uint8_t* codes, int64_t code_stride, const void* scale,
                                const int8_t* zero_point, int64_t channels, const float* queries,
                                int query_count, float* scores) {
  ScoreInput in = {queries, channels, static_cast<const char*>(scale), zero_point,
                   (channels + 63) / 64 * 64};
  ScoreCopy copy;
  if (channels % 64 != 0) pad_scores(channels, query_count, copy, in);
  const bool paired = channels <= kChunk / 2;
  for (int q = 0; q < query_count; q += kBatch) {
    const auto run = [&](auto* kernel) {
      kernel(codes, code_stride, channels, in, scores + q * kKeyBlock);
    };
    switch (query_count - q) {
      case 1:
        paired ? run(score_group<1, true>) : run(score_group<1, false>);
        break;
      case 2:
        paired ? run(score_group<2, true>) : run(score_group<2, false>);
        break;
      case 3:
        paired ? run(score_group<3, true>) : run(score_group<3, false>);
        break;
      default:
        paired ? run(score_group<4, true>) : run(score_group<4, false>);
    }
    in.queries += kBatch * in.query_stride;
  }
}

void few_int4_accumulate_avx512vnni(const Int4Values& values, const float* weights, int query_count,
                                    int key_count, const float* keep, float* output,
                                    int64_t output_stride) {
  ChunkCopy copy;
  alignas(64) float scales[4][kKeyBlock];
  alignas(64) int8_t zero_points[4][64];
  for (int64_t start = 0; start < values.channels; start += kChunk) {
    const Chunk chunk = chunk_of(values, start, key_count, copy);
    arrange_scales(chunk.scales, chunk.zero_points, scales, zero_points);
    for (int q = 0; q < query_count; q += kBatch) {
      const auto run = [&](auto kernel) {
        kernel(chunk, scales, zero_points, weights + q * kKeyBlock, keep + q,
               output + q * output_stride + start, output_stride);
      };
      if (chunk.channels <= kChunk / 2) {
        run_chunk<Layout::kPaired>(query_count - q, run);
      } else if (chunk.channels <= kChunk - 2) {
        run_chunk<Layout::kPart>(query_count - q, run);
      } else {
        run_chunk<Layout::kFull>(query_count - q, run);
      }
    }
  }
}

}  // namespace qfa
