// Attention in bfloat16 with AMX tiles, as configured by begin_work_amxint8: 32 rows by 32 lanes in
// four accumulators.
#include <immintrin.h>

#include "kernels/kernels.h"
#include "kernels/x86/tile_instructions.h"

namespace qfa {
namespace {

constexpr int kTileRows = 16;
constexpr int kTileChannels = 32;  // of a tile's row

#define QFA_TILE_MULTIPLY(sum, rows, packed) \
  __asm__ volatile("tdpbf16ps %%tmm" #packed ", %%tmm" #rows ", %%tmm" #sum::)

constexpr int64_t kSumStride = kLanes * 4, kPairStride = kLanes * 4;  // bytes

// sums[32][kLanes] = rows (32, or 16 when `tall` is false) times packed, `steps` tiles deep.
template <bool tall, bool wide>
inline __attribute__((always_inline)) void multiply(const uint16_t* rows, int64_t row_stride,
                                                    const uint16_t* packed, int64_t steps,
                                                    float* sums) {
  const int64_t row_bytes = 2 * row_stride;
  QFA_TILE_ZERO(0);
  if (wide) QFA_TILE_ZERO(1);
  if (tall) QFA_TILE_ZERO(2);
  if (tall && wide) QFA_TILE_ZERO(3);
  for (int64_t step = 0; step < steps; ++step) {
    const uint16_t* from = rows + step * kTileChannels;
    const uint16_t* lanes = packed + step * kTileChannels * kLanes;
    QFA_TILE_LOAD(4, from, row_bytes);
    QFA_TILE_LOAD(6, lanes, kPairStride);
    QFA_TILE_MULTIPLY(0, 4, 6);
    if (wide) {
      QFA_TILE_LOAD(7, lanes + 2 * kVectorLanes, kPairStride);
      QFA_TILE_MULTIPLY(1, 4, 7);
    }
    if (tall) {
      QFA_TILE_LOAD(5, from + kTileRows * row_stride, row_bytes);
      QFA_TILE_MULTIPLY(2, 5, 6);
      if (wide) QFA_TILE_MULTIPLY(3, 5, 7);
    }
  }
  QFA_TILE_STORE(0, sums, kSumStride);
  if (wide) QFA_TILE_STORE(1, sums + kVectorLanes, kSumStride);
  if (tall) QFA_TILE_STORE(2, sums + kTileRows * kLanes, kSumStride);
  if (tall && wide) QFA_TILE_STORE(3, sums + kTileRows * kLanes + kVectorLanes, kSumStride);
}

void multiply_rows(const uint16_t* rows, int64_t row_stride, const uint16_t* packed, int64_t steps,
                   bool tall, bool wide, float* sums) {
  if (tall && wide) {
    multiply<true, true>(rows, row_stride, packed, steps, sums);
  } else if (tall) {
    multiply<true, false>(rows, row_stride, packed, steps, sums);
  } else if (wide) {
    multiply<false, true>(rows, row_stride, packed, steps, sums);
  } else {
    multiply<false, false>(rows, row_stride, packed, steps, sums);
  }
}

}  // namespace

void bfloat_scores_amxint8(const uint16_t* keys, int64_t width, const uint16_t* packed,
                           int key_count, int vectors, float* scores) {
  for (int j = 0; j < key_count; j += 2 * kTileRows) {
    multiply_rows(keys + j * width, width, packed, width / kTileChannels, key_count - j > kTileRows,
                  vectors > 1, scores + j * kLanes);
  }
}

void bfloat_accumulate_amxint8(const uint16_t* values, int64_t channels, const uint16_t* weights,
                               const float* keep, int vectors, float* output) {
  alignas(64) float sums[2 * kTileRows * kLanes];
  for (int64_t c = 0; c < channels; c += 2 * kTileRows) {
    const bool tall = channels - c > kTileRows;
    multiply_rows(values + c * kKeyBlock, kKeyBlock, weights, kKeyBlock / kTileChannels, tall,
                  vectors > 1, sums);
    for (int v = 0; v < vectors; ++v) {
      const __m512 kept = _mm512_loadu_ps(keep + v * kVectorLanes);
      for (int r = 0; r < (tall ? 2 : 1) * kTileRows; ++r) {
        float* target = output + (c + r) * kLanes + v * kVectorLanes;
        const __m512 sum = _mm512_load_ps(sums + r * kLanes + v * kVectorLanes);
        _mm512_storeu_ps(target, _mm512_fmadd_ps(_mm512_loadu_ps(target), kept, sum));
      }
    }
  }
}

}  // namespace qfa
