// 2^x against double precision, and every instruction set against the scalar one.
//
// x is split into a whole number n and f = x - n, which is exact, and the result is p(f) * 2^n,
// exact again: errors and steps depend on f alone. f lies in [-1/2, 1/2] (exp2) or (-1, 0]
// (weight_exp2), and for x outside that range it is a multiple of 2^-24: so the floats of [-1, 0]
// have every f there is. Below 2^-26 p(f) is 1. By default every float of [-1, -2^-26] is tried,
// and samples of the rest; QFA_EXHAUSTIVE=1 tries every float, in every instruction set as well.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <bit>

#include "attention/float_mode.h"
#include "check.h"
#include "kernels/kernels.h"
#include "kernels/reference/exp2.h"
#include "problem.h"

namespace qfa::test {
namespace {

constexpr int kBatch = kKeyBlock * kLanes;

#if defined(__x86_64__) && defined(__OPTIMIZE__) && !defined(QFA_SANITIZED)
constexpr uint32_t kSparse = 1;
#else
constexpr uint32_t kSparse = 61;  // emulators and sanitizers would take minutes
#endif

bool is_exhaustive() { return getenv("QFA_EXHAUSTIVE") != nullptr; }

float from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

int64_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}

double power_below(double x) {
  return std::bit_cast<double>(std::bit_cast<uint64_t>(x) & 0x7ff0000000000000u);
}

// Kernels that leave their powers of two where they can be seen; kBatch of them.
struct Path {
  const char* name;
  void (*run)(const Kernels& kernels, const float* x, float* y);
  bool is_slow;         // computes many times as many as it shows
  float factor = 1.0f;  // of what it shows
};

float ones[kBatch], zeros[kBatch];

void by_float_softmax(const Kernels& kernels, const float* x, float* y) {
  float largest[kLanes] = {}, sum[kLanes] = {}, keep[kLanes];
  memcpy(y, x, kBatch * sizeof(float));
  kernels.float_softmax({kKeyBlock, kLanes / kVectorLanes, y, ones, zeros, 0.0f, 0.0f, nullptr,
                         nullptr, largest, sum, keep});
}

void by_few_float_softmax(const Kernels& kernels, const float* x, float* y) {
  memcpy(y, x, kBatch * sizeof(float));
  for (int i = 0; i < kBatch; i += kMostFew * kKeyBlock) {
    float largest[kMostFew] = {}, sum[kMostFew] = {}, keep[kMostFew];
    kernels.few_float_softmax(
        {kKeyBlock, kMostFew, y + i, ones, zeros, nullptr, nullptr, largest, sum, keep});
  }
}

// What came before, with maximum x, meets a chunk whose maximum is 0.
void by_join_states(const Kernels& kernels, const float* x, float* y) {
  static float largest[kBatch], sum[kBatch], gain[kBatch];
  memcpy(largest, x, sizeof(largest));
  memset(sum, 0, sizeof(sum));
  kernels.join_states({kBatch / kVectorLanes, zeros, zeros, largest, sum, y, gain});
}

// One block of 16 keys for softmax, all of score 0 but key 1 of score 1: its exponent is the scale
// of the query.
struct CodeBlock {
  static constexpr int kKeys = 16, kSeen = 1;
  int32_t scores[kKeys * kLanes] = {};
  float value_inverse[kKeys] = {}, gain[kLanes];
  uint8_t weights[kKeyBlock * kLanes];

  // That key's weight is the sum, for it alone counts, and so much that none is too small to see.
  static constexpr float kFactor = 0x1p40f;
  explicit CodeBlock(int pitch) {
    value_inverse[kSeen] = kFactor;
    for (int query = 0; query < kLanes; ++query) {
      if (pitch == kLanes) scores[kSeen * kLanes + query] = 1;
      if (pitch == kKeyBlock && query < kMostFew) scores[query * kKeyBlock + kSeen] = 1;
    }
  }
};

void by_softmax(const Kernels& kernels, const float* x, float* y) {
  for (int i = 0; i < kBatch; i += kLanes) {
    CodeBlock block(kLanes);
    float largest[kLanes], keep[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      largest[lane] = -INFINITY;
      y[i + lane] = 0.0f;
    }
    kernels.softmax({CodeBlock::kKeys, kLanes / kVectorLanes, block.scores, 0, x + i, ones, zeros,
                     block.value_inverse, nullptr, nullptr, block.weights, largest, y + i, keep,
                     block.gain});
  }
}

void by_few_softmax(const Kernels& kernels, const float* x, float* y) {
  for (int i = 0; i < kBatch; i += kMostFew) {
    static_assert(kMostFew * kKeyBlock <= CodeBlock::kKeys * kLanes);
    CodeBlock block(kKeyBlock);
    float largest[kMostFew], keep[kMostFew];
    for (int query = 0; query < kMostFew; ++query) {
      largest[query] = -INFINITY;
      y[i + query] = 0.0f;
    }
    kernels.few_softmax({CodeBlock::kKeys, kMostFew, block.scores, x + i, ones, zeros,
                         block.value_inverse, nullptr, nullptr, block.weights, largest, y + i, keep,
                         block.gain});
  }
}

// What came before, with maximum x, meets a block whose maximum is 0.
void by_keep_of_softmax(const Kernels& kernels, const float* x, float* y) {
  for (int i = 0; i < kBatch; i += kLanes) {
    int32_t scores[CodeBlock::kKeys * kLanes] = {};
    uint8_t weights[kKeyBlock * kLanes];
    float largest[kLanes], sum[kLanes] = {}, gain[kLanes];
    memcpy(largest, x + i, sizeof(largest));
    kernels.softmax({CodeBlock::kKeys, kLanes / kVectorLanes, scores, 0, zeros, zeros, zeros, ones,
                     nullptr, nullptr, weights, largest, sum, y + i, gain});
  }
}

void by_keep_of_few_softmax(const Kernels& kernels, const float* x, float* y) {
  for (int i = 0; i < kBatch; i += kMostFew) {
    int32_t scores[kMostFew * kKeyBlock] = {};
    uint8_t weights[kMostFew * kKeyBlock];
    float largest[kMostFew], sum[kMostFew] = {}, gain[kMostFew];
    memcpy(largest, x + i, sizeof(largest));
    kernels.few_softmax({CodeBlock::kKeys, kMostFew, scores, zeros, zeros, zeros, ones, nullptr,
                         nullptr, weights, largest, sum, y + i, gain});
  }
}

// What exp2.h promises of an approximation.
struct Curve {
  const char* name;
  float (*compute)(float);
  double most_ulps;      // of error, in units of the last place of the result
  double most_relative;  // of error
  int64_t most_fall;     // in such units, of a result below that of the next smaller x
  Path paths[5];
};

const Curve kCurves[] = {
    {"exp2",
     exp2_of_nonpositive,
     1.95,
     1.6e-7,
     1,
     {{"float_softmax", by_float_softmax, false},
      {"few_float_softmax", by_few_float_softmax, false},
      {"join_states", by_join_states, false},
      {"keep of softmax", by_keep_of_softmax, true},
      {"keep of few_softmax", by_keep_of_few_softmax, true}}},
    {"weight_exp2",
     weight_exp2,
     1590.0,
     1.04e-4,
     1,
     {{"softmax", by_softmax, true, CodeBlock::kFactor},
      {"few_softmax", by_few_softmax, true, CodeBlock::kFactor}}},
};

struct Worst {
  double ulps = 0.0, relative = 0.0;
  float at = 0.0f;
  int64_t fall = 0;
  float before = INFINITY;  // the result of the x tried last, which was greater
};

enum class Extent { kScalar, kQuickPaths, kAllPaths };

// Tries kBatch numbers of falling order.
void check_batch(const Curve& curve, const float* x, Extent extent, Worst& worst) {
  float expected[kBatch], scaled[kBatch], got[kBatch];
  for (int i = 0; i < kBatch; ++i) {
    expected[i] = curve.compute(x[i]);
    if (x[i] < kExp2Floor) {
      CHECK(expected[i] == 0.0f);
      continue;
    }
    const double exact = exp2(static_cast<double>(x[i]));
    const double error = fabs(static_cast<double>(expected[i]) - exact);
    const double ulps = error * 0x1p23 / power_below(exact);
    if (ulps > worst.ulps) {
      worst.ulps = ulps;
      worst.at = x[i];
    }
    worst.relative = std::max(worst.relative, error / exact);
    worst.fall = std::max(worst.fall, bits_of(expected[i]) - bits_of(worst.before));
    worst.before = expected[i];
  }
  if (extent == Extent::kScalar) return;
  for (const qfa_isa isa : testable_isas()) {
    const Kernels kernels = kernels_for(isa);
    for (const Path& path : curve.paths) {
      if (path.run == nullptr || (path.is_slow && extent != Extent::kAllPaths)) continue;
      for (int i = 0; i < kBatch; ++i) scaled[i] = expected[i] * path.factor;
      path.run(kernels, x, got);
      CHECK_THAT(memcmp(got, scaled, sizeof(got)) == 0, "%s by %s %s near %a", curve.name,
                 path.name, qfa_isa_name(isa), static_cast<double>(x[0]));
    }
  }
}

// Every step-th float from the magnitude `low` up to `high`, given as bits. Of every so many
// batches one passes through the kernels, too, and of those one through the slow ones.
void check_range(const Curve& curve, uint32_t low, uint32_t high, uint32_t step, Worst& worst) {
  const uint32_t quick = is_exhaustive() ? 1 : 8, slow = is_exhaustive() ? 16 : 256;
  float x[kBatch];
  uint32_t bits = low;
  for (uint32_t batch = 0; bits < high; ++batch) {
    for (float& value : x) {
      value = -from_bits(bits);
      bits = high - bits > step ? bits + step : high;
    }
    const Extent extent = batch % slow == 0    ? Extent::kAllPaths
                          : batch % quick == 0 ? Extent::kQuickPaths
                                               : Extent::kScalar;
    check_batch(curve, x, extent, worst);
  }
}

void report(const Curve& curve, const Worst& worst) {
  CHECK_THAT(worst.ulps <= curve.most_ulps, "%s %.4f units of the last place at %a", curve.name,
             worst.ulps, static_cast<double>(worst.at));
  CHECK_THAT(worst.relative <= curve.most_relative, "%s %g", curve.name, worst.relative);
  CHECK_THAT(worst.fall <= curve.most_fall, "%s falls by %d units of the last place", curve.name,
             static_cast<int>(worst.fall));
}

constexpr uint32_t kTiny = 0x32800000u;   // 2^-26
constexpr uint32_t kOne = 0x3f800000u;    // 1
constexpr uint32_t kFloor = 0x42fc0000u;  // 126

QFA_TEST(every_reduced_argument) {
  const FloatMode mode;
  std::fill(ones, ones + kBatch, 1.0f);
  for (const Curve& curve : kCurves) {
    Worst worst;
    check_range(curve, 0, kTiny, is_exhaustive() ? 1 : 99991 * kSparse, worst);
    CHECK(worst.before == 1.0f);
    check_range(curve, kTiny, kOne, is_exhaustive() ? 1 : kSparse, worst);
    report(curve, worst);
    // The bound is no wish: it is reached, but for a few hundredths.
    if (kSparse == 1) CHECK_THAT(worst.ulps > 0.97 * curve.most_ulps, "%.4f", worst.ulps);
    printf("     %s: %.4f units of the last place at %a, %.3g relatively, falls by %d\n",
           curve.name, worst.ulps, static_cast<double>(worst.at), worst.relative,
           static_cast<int>(worst.fall));
  }
}

QFA_TEST(every_exponent) {
  const FloatMode mode;
  std::fill(ones, ones + kBatch, 1.0f);
  for (const Curve& curve : kCurves) {
    Worst worst;
    check_range(curve, kOne, kFloor, is_exhaustive() ? 1 : 997 * kSparse, worst);
    // Through all kernels, and beyond.
    worst.before = INFINITY;
    check_range(curve, kFloor - kBatch, kFloor + kBatch, 1, worst);
    report(curve, worst);
  }
}

QFA_TEST(ends) {
  const FloatMode mode;
  std::fill(ones, ones + kBatch, 1.0f);
  const float ends[] = {0.0f,    -0.0f,     -1.0f,    -126.0f, -126.00001f,
                        -127.0f, -INFINITY, -3.4e38f, -1e-45f, NAN};
  const float expected[] = {1.0f, 1.0f, 0.5f, 0x1p-126f, 0.0f, 0.0f, 0.0f, 0.0f, 1.0f, NAN};
  for (const Curve& curve : kCurves) {
    for (size_t i = 0; i < std::size(ends); ++i) {
      const float y = curve.compute(ends[i]);
      CHECK_THAT(y == expected[i] || (isnan(y) && isnan(expected[i])), "%s 2^%g is %g", curve.name,
                 static_cast<double>(ends[i]), static_cast<double>(y));
      if (isnan(ends[i])) continue;  // what kernels make of it: contract_test.cc
      float x[kBatch], got[kBatch];
      std::fill(x, x + kBatch, ends[i]);
      for (const qfa_isa isa : testable_isas()) {
        for (const Path& path : curve.paths) {
          // A scale that is infinite makes NaN of the scores that are 0.
          const bool by_scale = path.run == by_softmax || path.run == by_few_softmax;
          if (path.run == nullptr || (by_scale && isinf(ends[i]))) continue;
          path.run(kernels_for(isa), x, got);
          for (const float z : got) {
            CHECK_THAT(z == y * path.factor, "%s by %s %s 2^%g is %g", curve.name, path.name,
                       qfa_isa_name(isa), static_cast<double>(ends[i]), static_cast<double>(z));
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace qfa::test

QFA_TEST_MAIN
