// Integer products with AMX tiles: 32 rows by 32 lanes in four accumulators.
#include <immintrin.h>

#include "kernels/kernels.h"
#include "kernels/score_zero.h"
#include "kernels/x86/tile_instructions.h"

namespace qfa {
namespace {

constexpr int kTileRows = 16;
constexpr int kTileBytes = 64;  // of a tile's row

// Adds the products of signed codes and packed codes, which are signed or unsigned.
#define QFA_TILE_MULTIPLY(sum, codes, packed)                                      \
  do {                                                                             \
    if (is_signed) {                                                               \
      __asm__ volatile("tdpbssd %%tmm" #packed ", %%tmm" #codes ", %%tmm" #sum::); \
    } else {                                                                       \
      __asm__ volatile("tdpbsud %%tmm" #packed ", %%tmm" #codes ", %%tmm" #sum::); \
    }                                                                              \
  } while (false)

struct alignas(64) TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

constexpr int64_t kScratchStride = kLanes * 4;

// What sums of scores start from, as rows of a tile that follow each other at once.
alignas(64) constexpr int32_t kStart[kVectorLanes] = {
    kScoreZero, kScoreZero, kScoreZero, kScoreZero, kScoreZero, kScoreZero, kScoreZero, kScoreZero,
    kScoreZero, kScoreZero, kScoreZero, kScoreZero, kScoreZero, kScoreZero, kScoreZero, kScoreZero};

// sums[32][kLanes] = start + rows (32, or 16 when `tall` is false) times packed, `steps` tiles of
// 64 codes deep. start: null for 0, or one row of a tile.
template <bool is_signed, bool tall, bool wide>
inline __attribute__((always_inline)) void multiply(const int8_t* rows, int64_t row_stride,
                                                    const uint8_t* packed, int64_t steps,
                                                    const int32_t* start, int32_t* sums) {
  if (start != nullptr) {
    QFA_TILE_LOAD(0, start, 0);
    if (wide) QFA_TILE_LOAD(1, start, 0);
    if (tall) QFA_TILE_LOAD(2, start, 0);
    if (tall && wide) QFA_TILE_LOAD(3, start, 0);
  } else {
    QFA_TILE_ZERO(0);
    if (wide) QFA_TILE_ZERO(1);
    if (tall) QFA_TILE_ZERO(2);
    if (tall && wide) QFA_TILE_ZERO(3);
  }
  for (int64_t step = 0; step < steps; ++step) {
    const int8_t* codes = rows + step * kTileBytes;
    const uint8_t* lanes = packed + step * kTileRows * kGroupBytes;
    QFA_TILE_LOAD(4, codes, row_stride);
    QFA_TILE_LOAD(6, lanes, kGroupBytes);
    QFA_TILE_MULTIPLY(0, 4, 6);
    if (wide) {
      QFA_TILE_LOAD(7, lanes + kTileBytes, kGroupBytes);
      QFA_TILE_MULTIPLY(1, 4, 7);
    }
    if (tall) {
      QFA_TILE_LOAD(5, codes + kTileRows * row_stride, row_stride);
      QFA_TILE_MULTIPLY(2, 5, 6);
      if (wide) QFA_TILE_MULTIPLY(3, 5, 7);
    }
  }
  QFA_TILE_STORE(0, sums, kScratchStride);
  if (wide) QFA_TILE_STORE(1, sums + kVectorLanes, kScratchStride);
  if (tall) QFA_TILE_STORE(2, sums + kTileRows * kLanes, kScratchStride);
  if (tall && wide) QFA_TILE_STORE(3, sums + kTileRows * kLanes + kVectorLanes, kScratchStride);
}

template <bool is_signed>
void multiply_rows(const int8_t* rows, int64_t row_stride, const uint8_t* packed, int64_t steps,
                   const int32_t* start, bool tall, bool wide, int32_t* sums) {
  if (tall && wide) {
    multiply<is_signed, true, true>(rows, row_stride, packed, steps, start, sums);
  } else if (tall) {
    multiply<is_signed, true, false>(rows, row_stride, packed, steps, start, sums);
  } else if (wide) {
    multiply<is_signed, false, true>(rows, row_stride, packed, steps, start, sums);
  } else {
    multiply<is_signed, false, false>(rows, row_stride, packed, steps, start, sums);
  }
}

}  // namespace

void begin_work_amxint8() {
  TileConfig config = {};
  config.palette = 1;
  for (int tile = 0; tile < 8; ++tile) {
    config.row_bytes[tile] = kTileBytes;
    config.rows[tile] = kTileRows;
  }
  __asm__ volatile("ldtilecfg %0" : : "m"(config) : "memory");
}

void end_work_amxint8() { __asm__ volatile("tilerelease" ::); }

// The queries' codes themselves: these products may be of two signed numbers.
void pack_queries_amxint8(const int8_t* rows, int64_t width, uint8_t* packed) {
  pack_queries_avx512vnni(rows, width, packed);
  const __m512i offset = _mm512_set1_epi8(-128);
  for (int64_t i = 0; i < width * kLanes; i += 64) {
    const __m512i codes = _mm512_loadu_si512(packed + i);
    _mm512_storeu_si512(packed + i, _mm512_xor_si512(codes, offset));
  }
}

void scores_amxint8(const int8_t* keys, int64_t key_stride, int64_t groups, const uint8_t* packed,
                    const int32_t*, int key_count, int vectors, int32_t* scores) {
  const int64_t steps = (groups + 15) / 16;
  const int32_t* start = score_zero(groups) != 0 ? kStart : nullptr;
  for (int j = 0; j < key_count; j += 2 * kTileRows) {
    multiply_rows<true>(keys + j * key_stride, key_stride, packed, steps, start,
                        key_count - j > kTileRows, vectors > 1, scores + j * kLanes);
  }
}

void accumulate_amxint8(const int8_t* values, int64_t channels, const uint8_t* weights, int,
                        const float* keep, const float* gain, int vectors, float* output) {
  // Weights beyond the last key are zero, so all 64 keys can be multiplied.
  alignas(64) int32_t sums[2 * kTileRows * kLanes];
  for (int64_t c = 0; c < channels; c += 2 * kTileRows) {
    const bool tall = channels - c > kTileRows;
    multiply_rows<false>(values + c * kKeyBlock, kKeyBlock, weights, 1, nullptr, tall, vectors > 1,
                         sums);
    for (int v = 0; v < vectors; ++v) {
      const __m512 kept = _mm512_loadu_ps(keep + v * kVectorLanes);
      const __m512 gained = _mm512_loadu_ps(gain + v * kVectorLanes);
      for (int r = 0; r < (tall ? 2 : 1) * kTileRows; ++r) {
        float* target = output + (c + r) * kLanes + v * kVectorLanes;
        const __m512 old = _mm512_mul_ps(_mm512_loadu_ps(target), kept);
        const __m512i sum = _mm512_loadu_si512(sums + r * kLanes + v * kVectorLanes);
        _mm512_storeu_ps(target, _mm512_fmadd_ps(gained, _mm512_cvtepi32_ps(sum), old));
      }
    }
  }
}

}  // namespace qfa
