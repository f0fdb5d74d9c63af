// Sweeps over shapes: every number of channels, and lengths around blocks and chunks, against
// attention in double precision and to the bit on every instruction set. Plus the largest integer
// sums that there can be.
#include <math.h>

#include "check.h"
#include "problem.h"

namespace qfa::test {
namespace {

// Sanitizers, emulators and unoptimized builds take a sample.
#if defined(__OPTIMIZE__) && defined(__x86_64__) && !defined(QFA_SANITIZED)
constexpr int64_t kStep = 1;
#else
constexpr int64_t kStep = 23;
#endif

void check_problem(const Problem& p, double bound) {
  const std::vector<float> scalar = p.run(QFA_ISA_SCALAR);
  const double error = normalized_error(scalar, p.oracle());
  CHECK_THAT(error <= bound, "error %g: S %d T %d D %d Dv %d compute %d", error,
             static_cast<int>(p.e.queries), static_cast<int>(p.e.keys),
             static_cast<int>(p.e.channels), static_cast<int>(p.e.value_channels),
             static_cast<int>(p.compute));
  for (const qfa_isa isa : testable_isas()) {
    CHECK_THAT(same_bits(p.run(isa), scalar), "%s differs: S %d T %d D %d Dv %d compute %d",
               qfa_isa_name(isa), static_cast<int>(p.e.queries), static_cast<int>(p.e.keys),
               static_cast<int>(p.e.channels), static_cast<int>(p.e.value_channels),
               static_cast<int>(p.compute));
  }
}

// Single rows of few channels are noisier than tensors.
double bound_of(qfa_compute compute) { return compute == QFA_COMPUTE_INT8 ? 1.5e-3 : 1e-11; }

// Queries: a few, in lanes, and more than stream through their keys.
constexpr int64_t kQueries[] = {3, 12, 40};

QFA_TEST(every_number_of_channels) {
  for (int64_t channels = 1; channels <= 576; channels += kStep) {
    for (const qfa_compute compute : {QFA_COMPUTE_INT8, QFA_COMPUTE_FLOAT}) {
      if (compute == QFA_COMPUTE_FLOAT && channels % 3 != 0) continue;
      Problem p =
          Problem::random({1, 1, 1, kQueries[channels / 3 % 3], 67, channels, 577 - channels},
                          static_cast<uint64_t>(channels));
      p.compute = compute;
      check_problem(p, bound_of(compute));
    }
  }
}

QFA_TEST(lengths_around_blocks_and_chunks) {
  uint64_t seed = 5000;
  for (const int64_t keys : {799, 1023, 1024, 1025, 1087, 2047, 2049, 3100}) {
    for (const int64_t queries : {1, 8, 9, 32, 33, 239}) {
      for (const qfa_compute compute : {QFA_COMPUTE_INT8, QFA_COMPUTE_FLOAT}) {
        if (kStep > 1 && seed++ % 7 != 0) continue;
        Problem p = Problem::random({1, 1, 1, queries, keys, 8, 16}, seed++);
        p.compute = compute;
        p.causal = seed % 3 == 0;
        p.queries_at_end = true;
        check_problem(p, bound_of(compute));
      }
    }
  }
  for (const int64_t both : {799, 1023}) {
    Problem p = Problem::random({1, 1, 1, both / kStep, both, 16, 16}, seed++);
    p.causal = true;
    check_problem(p, bound_of(QFA_COMPUTE_INT8));
  }
}

// Codes of 127 and -127 throughout, over the most channels, and weights of 255 over whole blocks:
// sums that would not fit 16 bits, or even 31 in twos. All of it is exact, and so is the result.
QFA_TEST(the_largest_sums_are_exact) {
  for (const int64_t channels : {64, 256, 257, 1024}) {
    for (const int64_t queries : kQueries) {
      Problem p = Problem::random({1, 1, 1, queries, 128, channels, channels}, 6000);
      p.scale = 1.0f;
      for (int64_t i = 0; i < queries; ++i) {
        for (int64_t c = 0; c < channels; ++c) p.query_row(0, 0, i)[c] = i % 2 == 0 ? 1.0f : -1.0f;
      }
      // Even queries see the first half of the keys alone, odd ones the other.
      for (int64_t j = 0; j < 128; ++j) {
        for (int64_t c = 0; c < channels; ++c) {
          p.key_row(0, 0, j)[c] = j < 64 ? 1.0f : -1.0f;
          p.value_row(0, 0, j)[c] = j < 64 ? 2.0f : -2.0f;
        }
      }
      for (const qfa_isa isa : testable_isas()) {
        const std::vector<float> output = p.run(isa);
        for (int64_t i = 0; i < queries * channels; ++i) {
          const float expected = i / channels % 2 == 0 ? 2.0f : -2.0f;
          const float error = fabsf(output[static_cast<size_t>(i)] - expected);
          CHECK_THAT(error <= 1e-6f, "%s D %d S %d: off by %g", qfa_isa_name(isa),
                     static_cast<int>(channels), static_cast<int>(queries),
                     static_cast<double>(error));
        }
      }
    }
  }
}

}  // namespace
}  // namespace qfa::test

QFA_TEST_MAIN
