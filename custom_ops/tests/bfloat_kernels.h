// kernels_test.cc's tests of the kernels of kernels/bfloats.h, between forbidden pages: the same
// bits as the scalar kernel, or sums within the rounding errors of any order.
#ifndef QFA_TESTS_BFLOAT_KERNELS_H_
#define QFA_TESTS_BFLOAT_KERNELS_H_

#include <math.h>
#include <string.h>

#include <bit>
#include <vector>

#include "check.h"
#include "format_kernels.h"
#include "guarded.h"
#include "kernels/kernels.h"
#include "problem.h"
#include "softmax_buffers.h"

namespace qfa::test {
namespace {

// Numbers of 8-bit floats, as bfloat16.
void fill_bfloats(Random& random, Guarded& buffer) {
  for (size_t i = 0; i < buffer.size() / 2; ++i) {
    const auto code = static_cast<uint8_t>(random.bits());
    float number;
    load_e4m3_row_scalar(&code, 1.0f, 1, &number);
    if (isnan(number)) number = 0.0f;
    buffer.as<uint16_t>()[i] = static_cast<uint16_t>(std::bit_cast<uint32_t>(number) >> 16);
  }
}

double bfloat_number(uint16_t bfloat) {
  return double{std::bit_cast<float>(static_cast<uint32_t>(bfloat) << 16)};
}

void test_kernel_pack_bfloats(pack_bfloats_fn* kernel, const char* name) {
  Random random(61);
  for (const int64_t width : {32, 64, 96, 128, 1024}) {
    Guarded rows(size_of(kLanes * width, 2)), packed(rows.size());
    fill_random(random, rows);
    kernel(rows.as<uint16_t>(), width, packed.as<uint16_t>());
    bool equal = true;
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      for (int64_t c = 0; c < width; ++c) {
        equal &= packed.as<uint16_t>()[(c / 2 * kLanes + lane) * 2 + c % 2] ==
                 rows.as<uint16_t>()[lane * width + c];
      }
    }
    CHECK_THAT(equal, "%s width %d", name, int(width));
  }
}

void test_kernel_transpose_bfloats(transpose_bfloats_fn* kernel, const char* name) {
  Random random(62);
  for (const int64_t channels : {16, 32, 48, 128, 1024}) {
    const int64_t stride = channels + channels % 64;
    Guarded rows(size_of((kKeyBlock - 1) * stride + channels, 2));
    Guarded columns(size_of(kKeyBlock * channels, 2));
    fill_random(random, rows);
    kernel(rows.as<uint16_t>(), stride, channels, columns.as<uint16_t>());
    bool equal = true;
    for (int64_t j = 0; j < kKeyBlock; ++j) {
      for (int64_t c = 0; c < channels; ++c) {
        equal &= columns.as<uint16_t>()[c * kKeyBlock + j] == rows.as<uint16_t>()[j * stride + c];
      }
    }
    CHECK_THAT(equal, "%s channels %d", name, int(channels));
  }
}

void test_kernel_bfloat_scores(bfloat_scores_fn* kernel, const char* name) {
  Random random(63);
  for (const int64_t width : {32, 64, 96, 128, 1024}) {
    for (const int keys : {16, 32, 48, 64}) {
      for (const int vectors : {1, 2}) {
        Guarded rows(size_of(keys * width, 2)), packed(size_of(kLanes * width, 2));
        Guarded got(size_of(keys * kLanes, 4));
        fill_bfloats(random, rows);
        fill_bfloats(random, packed);
        kernel(rows.as<uint16_t>(), width, packed.as<uint16_t>(), keys, vectors, got.as<float>());
        for (int64_t j = 0; j < keys; ++j) {
          for (int64_t lane = 0; lane < vectors * kVectorLanes; ++lane) {
            double exact = 0.0, magnitude = 0.0;
            for (int64_t c = 0; c < width; ++c) {
              const double product =
                  bfloat_number(rows.as<uint16_t>()[j * width + c]) *
                  bfloat_number(packed.as<uint16_t>()[(c / 2 * kLanes + lane) * 2 + c % 2]);
              exact += product;
              magnitude += fabs(product);
            }
            const double sum = double{got.as<float>()[j * kLanes + lane]};
            CHECK_THAT(fabs(sum - exact) <= magnitude * double(width) * 0x1p-24,
                       "%s width %d keys %d vectors %d: %g not %g", name, int(width), keys, vectors,
                       sum, exact);
          }
        }
      }
    }
  }
}

void test_kernel_bfloat_accumulate(bfloat_accumulate_fn* kernel, const char* name) {
  Random random(64);
  for (const int64_t channels : {16, 32, 48, 128, 1024}) {
    for (const int vectors : {1, 2}) {
      Guarded values(size_of(channels * kKeyBlock, 2)), weights(size_of(kLanes * kKeyBlock, 2));
      Guarded keep(kLanes * 4), got(size_of(channels * kLanes, 4));
      fill_bfloats(random, values);
      fill_bfloats(random, weights);
      fill_numbers(random, keep, 0);
      fill_numbers(random, got, 0);
      std::vector<float> before(got.as<float>(), got.as<float>() + channels * kLanes);
      kernel(values.as<uint16_t>(), channels, weights.as<uint16_t>(), keep.as<float>(), vectors,
             got.as<float>());
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t lane = 0; lane < kLanes; ++lane) {
          const double old = double{before[size_t(c * kLanes + lane)]};
          const double sum = double{got.as<float>()[c * kLanes + lane]};
          if (lane >= vectors * kVectorLanes) {
            CHECK(sum == old);
            continue;
          }
          double exact = old * double{keep.as<float>()[lane]}, magnitude = fabs(exact);
          for (int64_t j = 0; j < kKeyBlock; ++j) {
            const double product =
                bfloat_number(values.as<uint16_t>()[c * kKeyBlock + j]) *
                bfloat_number(weights.as<uint16_t>()[(j / 2 * kLanes + lane) * 2 + j % 2]);
            exact += product;
            magnitude += fabs(product);
          }
          CHECK_THAT(fabs(sum - exact) <= magnitude * 0x1p-18, "%s channels %d: %g not %g", name,
                     int(channels), sum, exact);
        }
      }
    }
  }
}

void test_kernel_bfloat_softmax(bfloat_softmax_fn* kernel, const char* name) {
  for (uint64_t seed = 0; seed < 6; ++seed) {
    for (const int keys : {16, 32, 48, 64}) {
      for (const int vectors : {1, 2}) {
        for (int masking = 0; masking < 4; ++masking) {
          SoftmaxBuffers got, expected;
          Guarded weights(kKeyBlock * kLanes * 2), weights_expected(weights.size());
          memset(weights.data(), 0xee, weights.size());
          memset(weights_expected.data(), 0xee, weights.size());
          const auto run = [&](bfloat_softmax_fn* softmax, SoftmaxBuffers& b, Guarded& target) {
            fill_softmax(b, seed, seed >= 3);
            Random random(seed);
            Guarded key_scale(size_of(keys, 4)), value_scale(size_of(keys, 4));
            Guarded spoil(size_of(keys, 4));
            fill_numbers(random, key_scale, 0);
            fill_numbers(random, value_scale, 0);
            for (int j = 0; j < keys; ++j) spoil.as<float>()[j] = seed == 5 && j == 7 ? NAN : 0.0f;
            for (int i = 0; i < kKeyBlock * kLanes; ++i) b.scores.as<float>()[i] = random.normal();
            const float cap = seed == 2 ? 3.0f : 0.0f;
            const FloatBlock block = {keys,
                                      vectors,
                                      b.scores.as<float>(),
                                      b.query_scale.as<float>(),
                                      spoil.as<float>(),
                                      cap,
                                      1.0f / 3.0f,
                                      (masking & 1) != 0 ? b.limits.as<int32_t>() : nullptr,
                                      (masking & 2) != 0 ? b.bias.as<float>() : nullptr,
                                      b.running_max.as<float>(),
                                      b.running_sum.as<float>(),
                                      b.keep.as<float>()};
            softmax(block, key_scale.as<float>(), value_scale.as<float>(), target.as<uint16_t>());
          };
          run(kernel, got, weights);
          run(bfloat_softmax_scalar, expected, weights_expected);
          bool equal = same_floats(got.running_max, expected.running_max) &&
                       same_floats(got.running_sum, expected.running_sum) &&
                       same_floats(got.keep, expected.keep);
          for (int i = 0; i < kKeyBlock * kLanes; ++i) {
            if (i / 2 % kLanes >= vectors * kVectorLanes) continue;
            const uint16_t a = weights.as<uint16_t>()[i], b = weights_expected.as<uint16_t>()[i];
            equal &= a == b || (isnan(bfloat_number(a)) && isnan(bfloat_number(b)));
          }
          CHECK_THAT(equal, "%s seed %d keys %d vectors %d masking %d", name, int(seed), keys,
                     vectors, masking);
        }
      }
    }
  }
}

}  // namespace
}  // namespace qfa::test

#endif  // QFA_TESTS_BFLOAT_KERNELS_H_
