// Attention in bfloat16 where it has no products of its own: numbers are widened to float32. See
// kernels/bfloats.h.
//
// Registers are vectors of the compiler's own. A file per instruction set says what a Set is:
//   kWidth               floats in a register
//   kRows                rows whose sums stay in registers, a factor of 16
//   fma(a, b, c)         a * b + c, rounded once
//   softmax(block)       float_softmax of the same set
// As in kernels/lanes/lanes.h, nothing here can be linked into the code of another set.
#ifndef QFA_KERNELS_LANES_BFLOATS_H_
#define QFA_KERNELS_LANES_BFLOATS_H_

#include <stdint.h>

#include "kernels/kernels.h"

namespace qfa {
namespace {

template <int width>
struct Lanes {
  typedef float Floats __attribute__((vector_size(4 * width)));
  typedef int32_t Ints __attribute__((vector_size(4 * width)));
  typedef uint16_t Shorts __attribute__((vector_size(2 * width)));
};

template <class Set>
struct Bfloats {
  static constexpr int kWidth = Set::kWidth, kRows = Set::kRows;
  using Floats = typename Lanes<kWidth>::Floats;
  using Ints = typename Lanes<kWidth>::Ints;
  using Shorts = typename Lanes<kWidth>::Shorts;

  template <typename Register>
  static inline __attribute__((always_inline)) Register load(const void* from) {
    Register x;
    __builtin_memcpy(&x, from, sizeof(x));
    return x;
  }
  template <typename Register>
  static inline __attribute__((always_inline)) void store(void* to, Register x) {
    __builtin_memcpy(to, &x, sizeof(x));
  }

  static void widen(const uint16_t* from, int64_t count, float* to) {
    for (int64_t i = 0; i < count; i += kWidth) {
      store(to + i, __builtin_convertvector(load<Shorts>(from + i), Ints) << 16);
    }
  }

  // sum[r][v] = sum over pairs of rows[r][2 p] * the first and rows[r][2 p + 1] * the second of
  // lanes[p][v].
  template <int span>
  static inline __attribute__((always_inline)) void multiply(const float* rows, int64_t stride,
                                                             const uint16_t* lanes, int64_t pairs,
                                                             Floats (&sum)[kRows][span]) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < span; ++v) sum[r][v] = Floats{};
    }
    for (int64_t p = 0; p < pairs; ++p, lanes += 2 * kLanes) {
      Floats first[span], second[span];
#pragma GCC unroll 2
      for (int v = 0; v < span; ++v) {
        const Ints both = load<Ints>(lanes + 2 * v * kWidth);
        first[v] = reinterpret_cast<Floats>(both << 16);
        second[v] = reinterpret_cast<Floats>(both & static_cast<int32_t>(0xffff0000));
      }
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const Floats a = Floats{} + rows[r * stride + 2 * p];
        const Floats b = Floats{} + rows[r * stride + 2 * p + 1];
#pragma GCC unroll 2
        for (int v = 0; v < span; ++v) {
          sum[r][v] = Set::fma(b, second[v], Set::fma(a, first[v], sum[r][v]));
        }
      }
    }
  }

  template <int span>
  static void scores_of(const uint16_t* keys, int64_t width, const uint16_t* packed, int key_count,
                        int lanes, float* scores) {
    constexpr int64_t kMost = 1024;
    alignas(64) float rows[kRows * kMost];
    for (int64_t j = 0; j < key_count; j += kRows) {
      widen(keys + j * width, kRows * width, rows);
      for (int lane = 0; lane < lanes; lane += span * kWidth) {
        Floats sum[kRows][span];
        multiply<span>(rows, width, packed + 2 * lane, width / 2, sum);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
          for (int v = 0; v < span; ++v) {
            store(scores + (j + r) * kLanes + lane + v * kWidth, sum[r][v]);
          }
        }
      }
    }
  }

  static void scores(const uint16_t* keys, int64_t width, const uint16_t* packed, int key_count,
                     int vectors, float* scores) {
    const int lanes = vectors * kVectorLanes;
    if (lanes % (2 * kWidth) == 0) {
      scores_of<2>(keys, width, packed, key_count, lanes, scores);
    } else {
      scores_of<1>(keys, width, packed, key_count, lanes, scores);
    }
  }

  template <int span>
  static void accumulate_of(const uint16_t* values, int64_t channels, const uint16_t* weights,
                            const float* keep, int lanes, float* output) {
    alignas(64) float rows[kRows * kKeyBlock];
    for (int64_t c = 0; c < channels; c += kRows) {
      widen(values + c * kKeyBlock, kRows * kKeyBlock, rows);
      for (int lane = 0; lane < lanes; lane += span * kWidth) {
        Floats sum[kRows][span];
        multiply<span>(rows, kKeyBlock, weights + 2 * lane, kKeyBlock / 2, sum);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
          for (int v = 0; v < span; ++v) {
            float* target = output + (c + r) * kLanes + lane + v * kWidth;
            const Floats kept = load<Floats>(keep + lane + v * kWidth);
            store(target, Set::fma(load<Floats>(target), kept, sum[r][v]));
          }
        }
      }
    }
  }

  static void accumulate(const uint16_t* values, int64_t channels, const uint16_t* weights,
                         const float* keep, int vectors, float* output) {
    const int lanes = vectors * kVectorLanes;
    if (lanes % (2 * kWidth) == 0) {
      accumulate_of<2>(values, channels, weights, keep, lanes, output);
    } else {
      accumulate_of<1>(values, channels, weights, keep, lanes, output);
    }
  }

  // Bits of bfloat16(x), with anything below them.
  static inline __attribute__((always_inline)) Ints rounded(Floats x) {
    const Ints bits = reinterpret_cast<Ints>(x);
    const Ints number = bits + 0x7fff + ((bits >> 16) & 1);
    return x != x ? bits | 0x400000 : number;
  }

  static void softmax(const FloatBlock& block, const float* key_scale, const float* value_scale,
                      uint16_t* weights) {
    const int keys = block.keys, lanes = block.vectors * kVectorLanes;
    float* scores = block.scores;
    for (int j = 0; j < keys; ++j) {
      const float scale = key_scale[j];
      for (int lane = 0; lane < lanes; lane += kWidth) {
        float* at = scores + j * kLanes + lane;
        store(at, load<Floats>(at) * scale);
      }
    }
    Set::softmax(block);
    for (int j = 0; j < keys; j += 2) {
      const float first_scale = value_scale[j], second_scale = value_scale[j + 1];
      for (int lane = 0; lane < lanes; lane += kWidth) {
        const Floats first = load<Floats>(scores + j * kLanes + lane) * first_scale;
        const Floats second = load<Floats>(scores + (j + 1) * kLanes + lane) * second_scale;
        const Ints low = (rounded(first) >> 16) & 0xffff;
        const Ints high = rounded(second) & static_cast<int32_t>(0xffff0000);
        store(weights + (j / 2 * kLanes + lane) * 2, low | high);
      }
    }
    for (int j = keys; j < kKeyBlock; j += 2) {
      for (int lane = 0; lane < lanes; lane += kWidth) {
        store(weights + (j / 2 * kLanes + lane) * 2, Ints{});
      }
    }
  }
};

}  // namespace
}  // namespace qfa

#endif  // QFA_KERNELS_LANES_BFLOATS_H_
