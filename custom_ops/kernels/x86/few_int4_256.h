// A few queries against 4-bit codes in registers of 256 bits; see formats.h.
//
// A file per instruction set says what a Dot is: Dot::add(sum, a, x, b, y) adds to each 32-bit lane
// the products of four bytes of a and x, and of b and y; a and b are unsigned, x and y signed, and
// the sum of four products fits into 15 bits twice.
// As in kernels/lanes/lanes.h, nothing here can be linked into the code of another set.
#ifndef QFA_KERNELS_X86_FEW_INT4_256_H_
#define QFA_KERNELS_X86_FEW_INT4_256_H_

#include <immintrin.h>
#include <stdint.h>

#include "kernels/kernels.h"

namespace qfa {
namespace {

template <class Dot>
struct FewInt4 {
  static constexpr int64_t kMostChannels = 1024;
  static constexpr int64_t kPiece = 64;  // channels whose codes fill a register
  static constexpr int64_t kPieceBytes = kPiece / 2;
  static constexpr int kBatch = 4;  // queries whose sums stay in registers
  static constexpr int kQuads = kKeyBlock / 4;

  static __m256i load(const void* from) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
  }
  static void store(void* to, __m256i x) { _mm256_store_si256(static_cast<__m256i*>(to), x); }
  static __m256i low_halves(__m256i x) { return _mm256_and_si256(x, _mm256_set1_epi8(0x0f)); }
  static __m256i high_halves(__m256i x) { return low_halves(_mm256_srli_epi16(x, 4)); }
  static __m256i four_bytes(const void* from) {
    int32_t x;
    __builtin_memcpy(&x, from, 4);
    return _mm256_set1_epi32(x);
  }
  static int32_t sum_of(__m256i x) {
    __m128i y = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    y = _mm_add_epi32(y, _mm_shuffle_epi32(y, 0x4e));
    y = _mm_add_epi32(y, _mm_shuffle_epi32(y, 0xb1));
    return _mm_cvtsi128_si32(y);
  }
  // Rows of one piece; where they are shorter than a register, a copy with zeros behind.
  struct Piece {
    const uint8_t* rows;
    int64_t stride;
  };
  template <int count>
  static Piece piece_of(const uint8_t* rows, int64_t stride, int64_t bytes, int there,
                        uint8_t (&copy)[count * kPieceBytes]) {
    if (bytes >= kPieceBytes && there == count) return {rows, stride};
    const auto live = static_cast<size_t>(bytes < kPieceBytes ? bytes : kPieceBytes);
    __builtin_memset(copy, 0, sizeof(copy));
    for (int64_t j = 0; j < there; ++j) {
      __builtin_memcpy(copy + j * kPieceBytes, rows + j * stride, live);
    }
    return {copy, kPieceBytes};
  }

  // Scores.

  // A query that holds the scales of the keys: of each 16 channels the even ones first.
  struct FoldedQuery {
    alignas(32) int8_t codes[kMostChannels];
    float scale;
    int32_t zero;  // sum of code * zero point
  };

  static void fold_query(const float* query, const float* scales, const int8_t* zero_point,
                         int64_t channels, FoldedQuery& target) {
    alignas(32) float folded[kMostChannels];
    const int64_t padded = (channels + kPiece - 1) / kPiece * kPiece;
    __m256i greatest = _mm256_setzero_si256();
    const auto fold = [&](int64_t c, __m256 x) {
      const __m256 product = _mm256_mul_ps(x, _mm256_load_ps(scales + c));
      const __m256i magnitude =
          _mm256_and_si256(_mm256_castps_si256(product), _mm256_set1_epi32(0x7fffffff));
      greatest = _mm256_max_epi32(greatest, magnitude);
      _mm256_store_ps(folded + c, product);
    };
    int64_t c = 0;
    for (; c + 8 <= channels; c += 8) fold(c, _mm256_loadu_ps(query + c));
    for (; c < padded; c += 8) {
      const __m256i some = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int32_t>(channels - c)),
                                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
      fold(c, _mm256_maskload_ps(query + c, some));
    }
    __m128i most =
        _mm_max_epi32(_mm256_castsi256_si128(greatest), _mm256_extracti128_si256(greatest, 1));
    most = _mm_max_epi32(most, _mm_shuffle_epi32(most, 0x4e));
    most = _mm_max_epi32(most, _mm_shuffle_epi32(most, 0xb1));
    if (_mm_cvtsi128_si32(most) >= 0x7f800000) {
      __builtin_memset(target.codes, 0, static_cast<size_t>(padded));
      target.scale = __builtin_nanf("");
      target.zero = 0;
      return;
    }
    const float absmax = _mm_cvtss_f32(_mm_castsi128_ps(most)), scale = absmax / 127.0f;
    const bool tiny = scale < kSmallestScale;
    const __m256 by = _mm256_set1_ps(tiny ? 1.0f / kSmallestScale : 127.0f / absmax);
    target.scale = absmax == 0.0f ? 0.0f : (tiny ? kSmallestScale : scale);
    const auto code = [&](int64_t i) {
      return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_load_ps(folded + i), by));
    };
    const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i even_first = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
    __m256i zero = _mm256_setzero_si256();
    for (c = 0; c < padded; c += 32) {
      const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(code(c), code(c + 8)),
                                                _mm256_packs_epi32(code(c + 16), code(c + 24)));
      const __m256i codes = _mm256_permutevar8x32_epi32(packed, in_order);
      store(target.codes + c, _mm256_shuffle_epi8(codes, even_first));
      const __m256i points = load(zero_point + c);
      zero = _mm256_add_epi32(
          zero, _mm256_madd_epi16(_mm256_cvtepi8_epi16(_mm256_castsi256_si128(codes)),
                                  _mm256_cvtepi8_epi16(_mm256_castsi256_si128(points))));
      zero = _mm256_add_epi32(
          zero, _mm256_madd_epi16(_mm256_cvtepi8_epi16(_mm256_extracti128_si256(codes, 1)),
                                  _mm256_cvtepi8_epi16(_mm256_extracti128_si256(points, 1))));
    }
    target.zero = sum_of(zero);
  }

  // columns[i]: bytes 4 i .. 4 i + 3 of eight rows.
  static inline __attribute__((always_inline)) void transpose(Piece piece, __m256i (&columns)[8]) {
    __m256i half[8];  // [four rows][i]: bytes of columns i and 4 + i
    for (int r = 0; r < 2; ++r) {
      const uint8_t* rows = piece.rows + 4 * r * piece.stride;
      const __m256i a = load(rows), b = load(rows + piece.stride);
      const __m256i c = load(rows + 2 * piece.stride), d = load(rows + 3 * piece.stride);
      const __m256i ab = _mm256_unpacklo_epi32(a, b), cd = _mm256_unpacklo_epi32(c, d);
      const __m256i AB = _mm256_unpackhi_epi32(a, b), CD = _mm256_unpackhi_epi32(c, d);
      half[4 * r] = _mm256_unpacklo_epi64(ab, cd);
      half[4 * r + 1] = _mm256_unpackhi_epi64(ab, cd);
      half[4 * r + 2] = _mm256_unpacklo_epi64(AB, CD);
      half[4 * r + 3] = _mm256_unpackhi_epi64(AB, CD);
    }
    for (int i = 0; i < 4; ++i) {
      columns[i] = _mm256_permute2x128_si256(half[i], half[4 + i], 0x20);
      columns[4 + i] = _mm256_permute2x128_si256(half[i], half[4 + i], 0x31);
    }
  }

  template <int count>
  static void score_keys(const uint8_t* codes, int64_t code_stride, int64_t channels,
                         const FoldedQuery* queries, float* scores) {
    __m256i sum[count];
    for (int q = 0; q < count; ++q) sum[q] = _mm256_setzero_si256();
    for (int64_t start = 0; start < channels; start += kPiece) {
      alignas(32) uint8_t copy[8 * kPieceBytes];
      __m256i columns[8];
      transpose(piece_of<8>(codes + start / 2, code_stride, (channels - start + 1) / 2, 8, copy),
                columns);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        const __m256i even = low_halves(columns[i]), odd = high_halves(columns[i]);
        const int64_t place = start + 16 * (i / 2) + 4 * (i % 2);
#pragma GCC unroll 4
        for (int q = 0; q < count; ++q) {
          sum[q] = Dot::add(sum[q], even, four_bytes(queries[q].codes + place), odd,
                            four_bytes(queries[q].codes + place + 8));
        }
      }
    }
    for (int q = 0; q < count; ++q) {
      const __m256i whole = _mm256_sub_epi32(sum[q], _mm256_set1_epi32(queries[q].zero));
      _mm256_storeu_ps(scores + q * kKeyBlock,
                       _mm256_mul_ps(_mm256_cvtepi32_ps(whole), _mm256_set1_ps(queries[q].scale)));
    }
  }

  static void scores(const uint8_t* codes, int64_t code_stride, const void* scale,
                     const int8_t* zero_point, int64_t channels, const float* queries,
                     int query_count, float* scores) {
    alignas(32) float scales[kMostChannels];
    alignas(32) int8_t zero[kMostChannels];
    const auto* halfs = static_cast<const char*>(scale);
    const int64_t padded = (channels + kPiece - 1) / kPiece * kPiece;
    int64_t c = 0;
    for (; c + 8 <= channels; c += 8) {
      const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(halfs + 2 * c));
      _mm256_store_ps(scales + c, _mm256_cvtph_ps(half));
    }
    for (; c < padded; c += 8) {
      alignas(16) uint16_t half[8] = {};
      for (int64_t i = c; i < channels && i < c + 8; ++i) {
        __builtin_memcpy(half + i - c, halfs + 2 * i, 2);
      }
      _mm256_store_ps(scales + c,
                      _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(half))));
    }
    __builtin_memcpy(zero, zero_point, static_cast<size_t>(channels));
    __builtin_memset(zero + channels, 0, static_cast<size_t>(padded - channels));
    for (int first = 0; first < query_count; first += kBatch) {
      FoldedQuery folded[kBatch];
      const int count = query_count - first < kBatch ? query_count - first : kBatch;
      for (int q = 0; q < count; ++q) {
        fold_query(queries + (first + q) * channels, scales, zero, channels, folded[q]);
      }
      for (int64_t j = 0; j < kInt4KeyGroup; j += 8) {
        const uint8_t* keys = codes + j * code_stride;
        float* target = scores + first * kKeyBlock + j;
        switch (count) {
          case 1:
            score_keys<1>(keys, code_stride, channels, folded, target);
            break;
          case 2:
            score_keys<2>(keys, code_stride, channels, folded, target);
            break;
          case 3:
            score_keys<3>(keys, code_stride, channels, folded, target);
            break;
          default:
            score_keys<4>(keys, code_stride, channels, folded, target);
            break;
        }
      }
    }
  }

  // Values.

  // What one query weighs the keys with in one group of channels.
  struct Weights {
    alignas(32) uint8_t codes[kKeyBlock];
    float step;
    int32_t zero;  // sum of code * zero point
  };

  static void weigh(const float* weights, int key_count, const float* scales, const int8_t* zero,
                    Weights& target) {
    alignas(32) float scaled[kKeyBlock];
    __m256i greatest = _mm256_setzero_si256();
    for (int j = 0; j < kKeyBlock; j += 8) {
      const __m256i there = _mm256_cmpgt_epi32(_mm256_set1_epi32(key_count - j),
                                               _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
      const __m256 y = _mm256_maskload_ps(weights + j, there);
      const __m256 seen = _mm256_cmp_ps(y, _mm256_setzero_ps(), _CMP_NEQ_UQ);
      const __m256 w = _mm256_and_ps(_mm256_mul_ps(y, _mm256_load_ps(scales + j)), seen);
      _mm256_store_ps(scaled + j, w);
      greatest = _mm256_max_epu32(greatest, _mm256_castps_si256(w));
    }
    __m128i most =
        _mm_max_epu32(_mm256_castsi256_si128(greatest), _mm256_extracti128_si256(greatest, 1));
    most = _mm_max_epu32(most, _mm_shuffle_epi32(most, 0x4e));
    most = _mm_max_epu32(most, _mm_shuffle_epi32(most, 0xb1));
    const auto bits = static_cast<uint32_t>(_mm_cvtsi128_si32(most));
    const float m = _mm_cvtss_f32(_mm_castsi128_ps(most));
    const float step = m / 255.0f;
    const bool tiny = step < kSmallestScale;
    target.step = bits >= 0x7f800000u ? __builtin_nanf("") : (tiny ? kSmallestScale : step);
    const __m256 by = _mm256_set1_ps(tiny ? 1.0f / kSmallestScale : 255.0f / m);
    // The code is the low byte of each lane.
    const auto code = [&](int j) {
      const __m256 x = _mm256_fmadd_ps(_mm256_load_ps(scaled + j), by, _mm256_set1_ps(0x1p23f));
      return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0xff));
    };
    const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int j = 0; j < kKeyBlock; j += 32) {
      const __m256i words = _mm256_packus_epi32(code(j), code(j + 8));
      const __m256i more = _mm256_packus_epi32(code(j + 16), code(j + 24));
      store(target.codes + j,
            _mm256_permutevar8x32_epi32(_mm256_packus_epi16(words, more), in_order));
    }
    __m256i points = _mm256_setzero_si256();
    for (int j = 0; j < kKeyBlock; j += 16) {
      const auto sixteen = [j](const void* bytes) {
        return _mm_load_si128(
            reinterpret_cast<const __m128i*>(static_cast<const char*>(bytes) + j));
      };
      points =
          _mm256_add_epi32(points, _mm256_madd_epi16(_mm256_cvtepu8_epi16(sixteen(target.codes)),
                                                     _mm256_cvtepi8_epi16(sixteen(zero))));
    }
    target.zero = sum_of(points);
  }

  // Four rows interleaved byte by byte: [four bytes of each 16][four keys].
  static void interleave(Piece piece, __m256i (&bytes)[4][kQuads]) {
    for (int quad = 0; quad < kQuads; ++quad) {
      const uint8_t* rows = piece.rows + 4 * quad * piece.stride;
      const __m256i a = load(rows), b = load(rows + piece.stride);
      const __m256i c = load(rows + 2 * piece.stride), d = load(rows + 3 * piece.stride);
      const __m256i ab = _mm256_unpacklo_epi8(a, b), cd = _mm256_unpacklo_epi8(c, d);
      const __m256i AB = _mm256_unpackhi_epi8(a, b), CD = _mm256_unpackhi_epi8(c, d);
      bytes[0][quad] = _mm256_unpacklo_epi16(ab, cd);
      bytes[1][quad] = _mm256_unpackhi_epi16(ab, cd);
      bytes[2][quad] = _mm256_unpacklo_epi16(AB, CD);
      bytes[3][quad] = _mm256_unpackhi_epi16(AB, CD);
    }
  }

  // Codes of the weights of a piece: in each half of a register those of its 32 channels.
  using Spread = __m256i[kQuads];

  static void spread(const Weights& low, const Weights& high, Spread& target) {
    for (int quad = 0; quad < kQuads; ++quad) {
      target[quad] = _mm256_blend_epi32(four_bytes(low.codes + 4 * quad),
                                        four_bytes(high.codes + 4 * quad), 0xf0);
    }
  }

  template <int count>
  static void accumulate_piece(const __m256i (&bytes)[4][kQuads], const Spread* weights,
                               const Weights* const* low, const Weights* const* high,
                               int64_t channels, const float* keep, float* output,
                               int64_t output_stride) {
    for (int t = 0; t < 4; ++t) {
      __m256i even[count], odd[count];
      for (int q = 0; q < count; ++q) even[q] = odd[q] = _mm256_setzero_si256();
      for (int quad = 0; quad < kQuads; quad += 2) {
        const __m256i a = bytes[t][quad], b = bytes[t][quad + 1];
        const __m256i a_even = low_halves(a), b_even = low_halves(b);
        const __m256i a_odd = high_halves(a), b_odd = high_halves(b);
#pragma GCC unroll 4
        for (int q = 0; q < count; ++q) {
          const __m256i w = weights[q][quad], x = weights[q][quad + 1];
          even[q] = Dot::add(even[q], w, a_even, x, b_even);
          odd[q] = Dot::add(odd[q], w, a_odd, x, b_odd);
        }
      }
      // Eight channels of each 32, four from each interleaving.
      for (int q = 0; q < count; ++q) {
        const __m256i first = _mm256_unpacklo_epi32(even[q], odd[q]);
        const __m256i last = _mm256_unpackhi_epi32(even[q], odd[q]);
        add_channels(_mm256_permute2x128_si256(first, last, 0x20), *low[q], channels - 8 * t,
                     keep[q], output + q * output_stride + 8 * t);
        add_channels(_mm256_permute2x128_si256(first, last, 0x31), *high[q], channels - 32 - 8 * t,
                     keep[q], output + q * output_stride + 32 + 8 * t);
      }
    }
  }

  static inline __attribute__((always_inline)) void add_channels(__m256i sum,
                                                                 const Weights& weights,
                                                                 int64_t count, float keep,
                                                                 float* target) {
    if (count <= 0) return;
    const __m256 product =
        _mm256_cvtepi32_ps(_mm256_sub_epi32(sum, _mm256_set1_epi32(weights.zero)));
    const __m256 step = _mm256_set1_ps(weights.step), kept = _mm256_set1_ps(keep);
    if (count >= 8) {
      const __m256 old = _mm256_mul_ps(_mm256_loadu_ps(target), kept);
      _mm256_storeu_ps(target, _mm256_fmadd_ps(step, product, old));
      return;
    }
    const __m256i some = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int32_t>(count)),
                                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    const __m256 old = _mm256_mul_ps(_mm256_maskload_ps(target, some), kept);
    _mm256_maskstore_ps(target, some, _mm256_fmadd_ps(step, product, old));
  }

  // Scales and zero points of one group, a key after the other; 0 where there is none.
  struct Column {
    alignas(32) float scales[kKeyBlock];
    alignas(32) int8_t zero[kKeyBlock];
  };

  static void column_of(const Int4Values& values, int64_t group, int key_count, Column& column) {
    alignas(16) uint16_t halfs[kKeyBlock] = {};
    const char* scale = static_cast<const char*>(values.scale) + 2 * group;
    __builtin_memset(column.zero, 0, sizeof(column.zero));
    for (int64_t j = 0; j < key_count; ++j) {
      __builtin_memcpy(halfs + j, scale + 2 * j * values.scale_stride, 2);
      column.zero[j] = values.zero_point[j * values.scale_stride + group];
    }
    for (int j = 0; j < kKeyBlock; j += 8) {
      const __m128i some = _mm_load_si128(reinterpret_cast<const __m128i*>(halfs + j));
      _mm256_store_ps(column.scales + j, _mm256_cvtph_ps(some));
    }
  }

  static void accumulate(const Int4Values& values, const float* weights, int query_count,
                         int key_count, const float* keep, float* output, int64_t output_stride) {
    Weights weighed[2][kMostFew];  // of the two halves of a piece
    int64_t group_of[2] = {-1, -1};
    for (int64_t start = 0; start < values.channels; start += kPiece) {
      const Weights* of_half[2][kMostFew];
      for (int half = 0; half < 2; ++half) {
        const int64_t c = start + 32 * half;
        // A half without channels takes the weights of the other; nothing comes of them.
        const int64_t group = (c < values.channels ? c : start) / values.group;
        const int slot = half == 1 && group == group_of[0] ? 0 : half;
        if (group_of[slot] != group) {
          group_of[slot] = group;
          Column column;
          column_of(values, group, key_count, column);
          for (int q = 0; q < query_count; ++q) {
            weigh(weights + q * kKeyBlock, key_count, column.scales, column.zero, weighed[slot][q]);
          }
        }
        for (int q = 0; q < query_count; ++q) of_half[half][q] = &weighed[slot][q];
      }
      alignas(32) uint8_t copy[kKeyBlock * kPieceBytes];
      __m256i bytes[4][kQuads];
      interleave(piece_of<kKeyBlock>(values.codes + start / 2, values.code_stride,
                                     (values.channels - start + 1) / 2, key_count, copy),
                 bytes);
      for (int first = 0; first < query_count; first += kBatch) {
        const int count = query_count - first < kBatch ? query_count - first : kBatch;
        Spread spreads[kBatch];
        for (int q = 0; q < count; ++q) {
          spread(*of_half[0][first + q], *of_half[1][first + q], spreads[q]);
        }
        const auto run = [&](auto* kernel) {
          kernel(bytes, spreads, of_half[0] + first, of_half[1] + first, values.channels - start,
                 keep + first, output + first * output_stride + start, output_stride);
        };
        switch (count) {
          case 1:
            run(accumulate_piece<1>);
            break;
          case 2:
            run(accumulate_piece<2>);
            break;
          case 3:
            run(accumulate_piece<3>);
            break;
          default:
            run(accumulate_piece<4>);
            break;
        }
      }
    }
  }
};

}  // namespace
}  // namespace qfa

#endif  // QFA_KERNELS_X86_FEW_INT4_256_H_
