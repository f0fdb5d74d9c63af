// Every line of kernels.inc against the scalar kernel of its kind: the same bits, and no byte
// touched outside the buffers. A new line is tested without a word here.
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

#include <memory>
#include <vector>

#include "amx_emulator.h"
#include "attention/float_mode.h"
#include "bfloat_kernels.h"
#include "check.h"
#include "format_kernels.h"
#include "guarded.h"
#include "kernels/arch.h"
#include "problem.h"
#include "softmax_buffers.h"

namespace qfa::test {
namespace {

constexpr int64_t kCounts[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 40, 64, 100, 128, 192, 1024};

void fill_row(Random& random, float* row, int64_t count, int kind) {
  for (int64_t i = 0; i < count; ++i) row[i] = random.normal();
  if (count == 0) return;
  const int64_t at = random.below(static_cast<uint32_t>(count));
  if (kind == 1) memset(row, 0, static_cast<size_t>(count) * 4);
  if (kind == 2) row[at] = NAN;
  if (kind == 3) row[at] = -INFINITY;
  if (kind == 4) row[at] = 3e38f;
  if (kind == 5) {
    for (int64_t i = 0; i < count; ++i) row[i] *= 1e-40f;
  }
  if (kind == 6) {  // ties between codes
    for (int64_t i = 0; i < count; ++i) {
      row[i] = static_cast<float>(static_cast<int>(random.below(255)) - 127) + 0.5f;
    }
    row[at] = 127.0f;
  }
}

bool equal_floats(const float* a, const float* b, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (isnan(a[i]) && isnan(b[i])) continue;
    if (memcmp(a + i, b + i, 4) != 0) return false;
  }
  return true;
}

template <typename Load>
void test_load_row(Load* kernel, Load* scalar, int64_t element, const char* name) {
  Random random(1);
  for (const int64_t count : kCounts) {
    for (const bool with_mean : {false, true}) {
      for (const Guard guard : {Guard::kAfter, Guard::kBefore}) {
        // One byte off its natural alignment.
        Guarded source(static_cast<size_t>(count * element + 1), guard);
        for (size_t i = 0; i < source.size(); ++i) source.data()[i] = char(random.bits());
        const char* start = source.data() + (guard == Guard::kAfter ? 1 : 0);
        Guarded mean(static_cast<size_t>(4 * count)), got(mean.size()), expected(mean.size());
        fill_row(random, mean.as<float>(), count, 0);
        const float* subtracted = with_mean ? mean.as<float>() : nullptr;
        kernel(start, subtracted, count, got.as<float>());
        scalar(start, subtracted, count, expected.as<float>());
        CHECK_THAT(equal_floats(got.as<float>(), expected.as<float>(), count), "%s count %d", name,
                   static_cast<int>(count));
      }
    }
  }
}

void test_kernel_load_float_row(load_float_row_fn* kernel, const char* name) {
  test_load_row(kernel, load_float_row_scalar, 4, name);
}

void test_kernel_load_half_row(load_half_row_fn* kernel, const char* name) {
  test_load_row(kernel, load_half_row_scalar, 2, name);
}

void test_kernel_load_bfloat_row(load_bfloat_row_fn* kernel, const char* name) {
  test_load_row(kernel, load_bfloat_row_scalar, 2, name);
}

void test_kernel_rotate_row(rotate_row_fn* kernel, const char* name) {
  Random random(2);
  for (const int64_t count : {8, 16, 24, 32, 40, 64, 80, 96, 128, 192, 256, 1024}) {
    for (int64_t block = 8; count % block == 0; block *= 2) {
      Guarded row(static_cast<size_t>(4 * count)), expected(row.size());
      fill_row(random, row.as<float>(), count, 0);
      memcpy(expected.data(), row.data(), row.size());
      kernel(row.as<float>(), count, block);
      rotate_row_scalar(expected.as<float>(), count, block);
      CHECK_THAT(equal_floats(row.as<float>(), expected.as<float>(), count), "%s count %d block %d",
                 name, static_cast<int>(count), static_cast<int>(block));
    }
  }
}

void test_kernel_quantize_row(quantize_row_fn* kernel, const char* name) {
  Random random(3);
  for (const int64_t count : kCounts) {
    for (int kind = 0; kind <= 6; ++kind) {
      for (const float static_scale : {0.0f, 0.01f, 1e-30f}) {
        Guarded row(static_cast<size_t>(4 * count)), got(static_cast<size_t>(count));
        Guarded expected(got.size());
        fill_row(random, row.as<float>(), count, kind);
        // One byte off its natural alignment.
        Guarded moved(row.size() + 1);
        memcpy(moved.data() + 1, row.data(), row.size());
        const float a = kernel(moved.data() + 1, count, static_scale, got.as<int8_t>());
        const float b =
            quantize_row_scalar(row.as<float>(), count, static_scale, expected.as<int8_t>());
        CHECK_THAT(equal_floats(&a, &b, 1) && memcmp(got.data(), expected.data(), got.size()) == 0,
                   "%s count %d kind %d static %g", name, static_cast<int>(count), kind,
                   static_cast<double>(static_scale));
      }
    }
  }
}

void fill_bytes(Random& random, Guarded& buffer, bool extremes) {
  for (size_t i = 0; i < buffer.size(); ++i) {
    buffer.data()[i] = extremes ? (random.below(2) != 0 ? char(127) : char(-127))
                                : static_cast<char>(random.bits());
  }
}

void test_kernel_transpose_codes(transpose_codes_fn* kernel, const char* name) {
  Random random(4);
  for (const int64_t channels : {16, 32, 48, 128, 1024}) {
    Guarded rows(static_cast<size_t>(kKeyBlock * channels)), got(rows.size());
    fill_bytes(random, rows, false);
    kernel(rows.as<int8_t>(), channels, channels, got.as<int8_t>());
    bool equal = true;
    for (int64_t j = 0; j < kKeyBlock; ++j) {
      for (int64_t c = 0; c < channels; ++c) {
        equal &= got.data()[c * kKeyBlock + j] == rows.data()[j * channels + c];
      }
    }
    CHECK_THAT(equal, "%s channels %d", name, static_cast<int>(channels));
  }
}

// Rows of codes with zeros behind them. kind: 0 any codes, 1 the extremes, 2 the greatest.
void fill_codes(Random& random, Guarded& rows, int64_t channels, int64_t stride, int kind) {
  for (size_t i = 0; i < rows.size(); ++i) {
    const bool is_code = static_cast<int64_t>(i) % stride < channels;
    const int code = kind == 0 ? static_cast<int>(random.below(255)) - 127
                               : (kind == 2 || random.below(2) != 0 ? 127 : -127);
    rows.as<int8_t>()[i] = static_cast<int8_t>(is_code ? code : 0);
  }
}

// Its effect shows in the scores.
void test_kernel_pack_queries(pack_queries_fn*, const char*) {}

// The packing that belongs to a kernel of scores.
pack_queries_fn* packing_of(const char* name) {
  return kernels_for(isa_from_name(strrchr(name, '_') + 1)).pack_queries;
}

void test_kernel_scores(scores_fn* kernel, const char* name) {
  Random random(5);
  for (const int64_t channels : {1, 4, 13, 40, 64, 65, 128, 256, 260, 576, 1024}) {
    const int64_t stride = (channels + kCodePad - 1) / kCodePad * kCodePad;
    const int64_t groups = (channels + 3) / 4;
    for (const int keys : {16, 32, 48, 64}) {
      for (const int vectors : {1, 2}) {
        for (const int kind : {0, 1, 2}) {  // any codes, the extremes, only the greatest
          if (kind != 0 && keys != 64) continue;
          Guarded codes(static_cast<size_t>(keys * stride));
          Guarded queries(static_cast<size_t>(kLanes * stride));
          Guarded packed(static_cast<size_t>(kLanes * stride * kPackedCodeBytes));
          Guarded start(static_cast<size_t>(4 * keys));
          fill_codes(random, codes, channels, stride, kind);
          fill_codes(random, queries, channels, stride, kind);
          for (int j = 0; j < keys; ++j) {
            int32_t sum = 0;
            for (int64_t c = 0; c < channels; ++c) sum += codes.as<int8_t>()[j * stride + c];
            start.as<int32_t>()[j] = score_zero(groups) - 128 * sum;
          }
          Guarded got(static_cast<size_t>(keys * kLanes * 4)), expected(got.size());
          packing_of(name)(queries.as<int8_t>(), stride, packed.as<uint8_t>());
          kernel(codes.as<int8_t>(), stride, groups, packed.as<uint8_t>(), start.as<int32_t>(),
                 keys, vectors, got.as<int32_t>());
          for (int j = 0; j < keys; ++j) {
            for (int lane = 0; lane < vectors * kVectorLanes; ++lane) {
              int32_t sum = score_zero(groups);
              for (int64_t c = 0; c < channels; ++c) {
                sum += codes.as<int8_t>()[j * stride + c] * queries.as<int8_t>()[lane * stride + c];
              }
              expected.as<int32_t>()[j * kLanes + lane] = sum;
            }
          }
          CHECK_THAT(memcmp(got.data(), expected.data(), got.size()) == 0,
                     "%s channels %d keys %d vectors %d", name, static_cast<int>(channels), keys,
                     vectors);
        }
      }
    }
  }
}

void test_kernel_accumulate(accumulate_fn* kernel, const char* name) {
  Random random(6);
  for (const int64_t channels : {16, 32, 48, 64, 128, 1024}) {
    for (const int keys : {16, 32, 48, 64}) {
      for (const int vectors : {1, 2}) {
        Guarded values(static_cast<size_t>(channels * kKeyBlock)), weights(kKeyBlock * kLanes);
        Guarded keep(4 * kLanes), gain(4 * kLanes);
        Guarded got(static_cast<size_t>(channels * kLanes * 4)), expected(got.size());
        fill_bytes(random, values, channels == 64);
        fill_bytes(random, weights, false);
        if (channels == 64) memset(weights.data(), 255, weights.size());
        memset(weights.data() + keys * kLanes, 0, static_cast<size_t>((kKeyBlock - keys) * kLanes));
        fill_row(random, keep.as<float>(), kLanes, 0);
        fill_row(random, gain.as<float>(), kLanes, 0);
        fill_row(random, got.as<float>(), channels * kLanes, 0);
        memcpy(expected.data(), got.data(), got.size());
        kernel(values.as<int8_t>(), channels, weights.as<uint8_t>(), keys, keep.as<float>(),
               gain.as<float>(), vectors, got.as<float>());
        accumulate_scalar(values.as<int8_t>(), channels, weights.as<uint8_t>(), keys,
                          keep.as<float>(), gain.as<float>(), vectors, expected.as<float>());
        CHECK_THAT(equal_floats(got.as<float>(), expected.as<float>(), channels * kLanes),
                   "%s channels %d keys %d vectors %d", name, static_cast<int>(channels), keys,
                   vectors);
      }
    }
  }
}

void test_kernel_float_scores(float_scores_fn* kernel, const char* name) {
  Random random(11);
  for (const int64_t channels : {1, 3, 16, 40, 64, 65, 128, 1024}) {
    for (const int keys : {16, 48, 64}) {
      for (const int vectors : {1, 2}) {
        Guarded rows(static_cast<size_t>(keys * channels * 4));
        Guarded queries(static_cast<size_t>(channels * kLanes * 4));
        fill_row(random, rows.as<float>(), keys * channels, 0);
        fill_row(random, queries.as<float>(), channels * kLanes, 0);
        rows.as<float>()[1] = NAN;
        queries.as<float>()[1] = 1e30f;
        Guarded got(static_cast<size_t>(keys * kLanes * 4)), expected(got.size());
        memset(got.data(), 0, got.size());
        memset(expected.data(), 0, expected.size());
        kernel(rows.as<float>(), channels, queries.as<float>(), keys, vectors, got.as<float>());
        float_scores_scalar(rows.as<float>(), channels, queries.as<float>(), keys, vectors,
                            expected.as<float>());
        CHECK_THAT(equal_floats(got.as<float>(), expected.as<float>(), keys * kLanes),
                   "%s channels %d keys %d vectors %d", name, static_cast<int>(channels), keys,
                   vectors);
      }
    }
  }
}

void test_kernel_float_accumulate(float_accumulate_fn* kernel, const char* name) {
  Random random(12);
  for (const int64_t channels : {16, 32, 48, 64, 128, 1024}) {
    for (const int keys : {16, 48, 64}) {
      for (const int vectors : {1, 2}) {
        Guarded values(static_cast<size_t>(keys * channels * 4));
        Guarded weights(static_cast<size_t>(keys * kLanes * 4)), keep(kLanes * 4);
        Guarded got(static_cast<size_t>(channels * kLanes * 4)), expected(got.size());
        fill_row(random, values.as<float>(), keys * channels, 0);
        fill_row(random, weights.as<float>(), keys * kLanes, 0);
        fill_row(random, keep.as<float>(), kLanes, 0);
        fill_row(random, got.as<float>(), channels * kLanes, 0);
        weights.as<float>()[3] = NAN;
        memcpy(expected.data(), got.data(), got.size());
        kernel(values.as<float>(), channels, weights.as<float>(), keys, keep.as<float>(), vectors,
               got.as<float>());
        float_accumulate_scalar(values.as<float>(), channels, weights.as<float>(), keys,
                                keep.as<float>(), vectors, expected.as<float>());
        CHECK_THAT(equal_floats(got.as<float>(), expected.as<float>(), channels * kLanes),
                   "%s channels %d keys %d vectors %d", name, static_cast<int>(channels), keys,
                   vectors);
      }
    }
  }
}

void test_kernel_float_softmax(float_softmax_fn* kernel, const char* name) {
  for (uint64_t seed = 0; seed < 6; ++seed) {
    for (const int keys : {16, 48, 64}) {
      for (const int vectors : {1, 2}) {
        for (int kind = 0; kind < 8; ++kind) {
          SoftmaxBuffers got, expected;
          const auto run = [&](SoftmaxBuffers& b, float_softmax_fn* softmax) {
            fill_softmax(b, seed, seed >= 3);
            Random random(seed);
            for (int i = 0; i < kKeyBlock * kLanes; ++i) {
              b.scores.as<float>()[i] = random.normal() * 3000.0f;
            }
            if (seed >= 3) b.scores.as<float>()[77] = NAN;
            // key_scale stands for spoil.
            for (int j = 0; j < kKeyBlock; ++j) {
              b.key_scale.as<float>()[j] = seed == 5 && j == 9 ? NAN : 0.0f;
            }
            const float cap = (kind & 4) != 0 ? 7.0f : 0.0f;
            softmax({keys, vectors, b.scores.as<float>(), b.query_scale.as<float>(),
                     b.key_scale.as<float>(), cap, cap == 0.0f ? 0.0f : 1.0f / cap,
                     (kind & 1) != 0 ? b.limits.as<int32_t>() : nullptr,
                     (kind & 2) != 0 ? b.bias.as<float>() : nullptr, b.running_max.as<float>(),
                     b.running_sum.as<float>(), b.keep.as<float>()});
          };
          run(got, kernel);
          run(expected, float_softmax_scalar);
          const auto same = [&](Guarded SoftmaxBuffers::* member, int count) {
            return equal_floats((got.*member).as<float>(), (expected.*member).as<float>(), count);
          };
          CHECK_THAT(same(&SoftmaxBuffers::running_max, kLanes) &&
                         same(&SoftmaxBuffers::running_sum, kLanes) &&
                         same(&SoftmaxBuffers::keep, kLanes) &&
                         same(&SoftmaxBuffers::scores, kKeyBlock * kLanes),
                     "%s seed %d keys %d vectors %d kind %d", name, static_cast<int>(seed), keys,
                     vectors, kind);
        }
      }
    }
  }
}

void test_kernel_finish_rows(finish_rows_fn* kernel, const char* name) {
  Random random(7);
  for (const int64_t channels : {16, 48, 128, 1024}) {
    for (const int vectors : {1, 2}) {
      Guarded output(static_cast<size_t>(channels * kLanes * 4)), factor(4 * kLanes);
      Guarded got(output.size()), expected(output.size());
      fill_row(random, output.as<float>(), channels * kLanes, 0);
      output.as<float>()[3] = -0.0f;
      fill_row(random, factor.as<float>(), kLanes, 0);
      kernel(output.as<float>(), channels, factor.as<float>(), vectors, got.as<float>());
      finish_rows_scalar(output.as<float>(), channels, factor.as<float>(), vectors,
                         expected.as<float>());
      CHECK_THAT(memcmp(got.data(), expected.data(), got.size()) == 0, "%s channels %d vectors %d",
                 name, static_cast<int>(channels), vectors);
    }
  }
}

void test_store_row(store_half_row_fn* kernel, store_half_row_fn* scalar, const char* name) {
  Random random(8);
  for (const int64_t count : kCounts) {
    Guarded row(static_cast<size_t>(4 * count));
    Guarded got(static_cast<size_t>(2 * count + 1)), expected(got.size());
    for (int64_t i = 0; i < count; ++i) {
      const float magnitude = ldexpf(1.0f, static_cast<int>(random.below(50)) - 30);
      row.as<float>()[i] = random.normal() * magnitude;
    }
    kernel(row.as<float>(), count, got.data() + 1);
    scalar(row.as<float>(), count, expected.data() + 1);
    CHECK_THAT(memcmp(got.data(), expected.data(), got.size()) == 0, "%s count %d", name,
               static_cast<int>(count));
  }
}

void test_kernel_store_half_row(store_half_row_fn* kernel, const char* name) {
  test_store_row(kernel, store_half_row_scalar, name);
}

void test_kernel_store_bfloat_row(store_bfloat_row_fn* kernel, const char* name) {
  test_store_row(kernel, store_bfloat_row_scalar, name);
  for (const float value : {NAN, -NAN, INFINITY, -INFINITY, 3.4028235e38f, 1e-40f}) {
    const float row[3] = {value, -value, 1.00390625f};  // the last lies between two bfloats
    uint16_t got[3], expected[3];
    kernel(row, 3, got);
    store_bfloat_row_scalar(row, 3, expected);
    CHECK_THAT(memcmp(got, expected, sizeof(got)) == 0, "%s %g", name, static_cast<double>(value));
    CHECK(got[2] == 0x3f80);
  }
}

void test_kernel_read_bias(read_bias_fn* kernel, const char* name) {
  for (const int count : {1, 7, 8, 9, 16, 17, 40, 63, 64}) {
    for (const int vectors : {1, 2}) {
      for (int kind = 0; kind < 5; ++kind) {  // zeros, numbers, -inf, zeros and -inf, everything
        Random random(static_cast<uint64_t>(kind + 10 * count));
        std::vector<std::unique_ptr<Guarded>> buffers;
        const void* rows[kLanes];
        for (int lane = 0; lane < vectors * kVectorLanes; ++lane) {
          buffers.push_back(std::make_unique<Guarded>(static_cast<size_t>(4 * count + 1)));
          char* row = buffers.back()->data() + (kind == 1 ? 0 : 1);
          for (int j = 0; j < count; ++j) {
            const float everything[] = {0.0f,    -0.0f,    1.5f,      -3.4e38f,
                                        3.4e38f, INFINITY, -INFINITY, NAN};
            const float choices[] = {0.0f, random.normal(), -INFINITY,
                                     random.below(2) != 0 ? 0.0f : -INFINITY,
                                     everything[random.below(8)]};
            memcpy(row + 4 * j, &choices[kind], 4);
          }
          rows[lane] = row;
        }
        Guarded got(kKeyBlock * kLanes * 4), expected(got.size());
        const BiasSummary a = kernel(rows, vectors, count, got.as<float>());
        const BiasSummary b = read_bias_scalar(rows, vectors, count, expected.as<float>());
        bool equal =
            a.any_seen == b.any_seen && a.any_masked == b.any_masked && a.any_bias == b.any_bias;
        for (int j = 0; j < kKeyBlock; ++j) {
          equal &= equal_floats(got.as<float>() + j * kLanes, expected.as<float>() + j * kLanes,
                                vectors * kVectorLanes);
        }
        CHECK_THAT(equal, "%s count %d vectors %d kind %d", name, count, vectors, kind);
      }
    }
  }
}

void test_kernel_cap_scores(cap_scores_fn* kernel, const char* name) {
  for (uint64_t seed = 0; seed < 6; ++seed) {
    for (const int keys : {16, 32, 48, 64}) {
      for (const int vectors : {1, 2}) {
        for (const float cap : {0.01f, 30.0f, 1e6f}) {
          SoftmaxBuffers got, expected;
          fill_softmax(got, seed, seed >= 3);
          fill_softmax(expected, seed, seed >= 3);
          const auto block = [&](SoftmaxBuffers& b) {
            return CapBlock{keys,
                            vectors,
                            b.scores.as<int32_t>(),
                            b.score_zero,
                            b.query_scale.as<float>(),
                            b.key_scale.as<float>(),
                            cap,
                            0.693147f / cap,
                            b.bias.as<float>()};
          };
          kernel(block(got));
          cap_scores_scalar(block(expected));
          CHECK_THAT(
              equal_floats(got.bias.as<float>(), expected.bias.as<float>(), kKeyBlock * kLanes),
              "%s seed %d keys %d vectors %d cap %g", name, static_cast<int>(seed), keys, vectors,
              static_cast<double>(cap));
        }
      }
    }
  }
}

void test_kernel_softmax(softmax_fn* kernel, const char* name) {
  for (uint64_t seed = 0; seed < 6; ++seed) {
    for (const int keys : {16, 32, 48, 64}) {
      for (const int vectors : {1, 2}) {
        for (int masking = 0; masking < 4; ++masking) {
          const bool limits = (masking & 1) != 0, bias = (masking & 2) != 0;
          SoftmaxBuffers got, expected;
          fill_softmax(got, seed, seed >= 3);
          fill_softmax(expected, seed, seed >= 3);
          kernel(softmax_block(got, keys, vectors, limits, bias));
          softmax_scalar(softmax_block(expected, keys, vectors, limits, bias));
          const auto same = [&](Guarded SoftmaxBuffers::* member) {
            return equal_floats((got.*member).as<float>(), (expected.*member).as<float>(), kLanes);
          };
          CHECK_THAT(same(&SoftmaxBuffers::running_max) && same(&SoftmaxBuffers::running_sum) &&
                         same(&SoftmaxBuffers::keep) && same(&SoftmaxBuffers::gain) &&
                         equal_weights(got, expected, vectors),
                     "%s seed %d keys %d vectors %d limits %d bias %d", name,
                     static_cast<int>(seed), keys, vectors, limits, bias);
        }
      }
    }
  }
}

// Their effect shows in the kernels that they surround.
void test_kernel_begin_work(begin_work_fn*, const char*) {}
void test_kernel_end_work(end_work_fn*, const char*) {}

void fill_floats(Random& random, Guarded& buffer, float scale) {
  for (size_t i = 0; i < buffer.size() / 4; ++i) buffer.as<float>()[i] = random.normal() * scale;
}

// Codes at their limits, -128 too, which caches of others may hold.
void fill_codes(Random& random, Guarded& buffer, bool extremes) {
  constexpr int8_t kExtremes[] = {127, -127, -128};
  for (size_t i = 0; i < buffer.size(); ++i) {
    buffer.as<int8_t>()[i] =
        extremes ? kExtremes[random.below(3)] : static_cast<int8_t>(random.bits());
  }
}

void test_kernel_few_scores(few_scores_fn* kernel, const char* name) {
  Random random(31);
  for (const int64_t width : {64, 128, 192, 256, 1024}) {
    for (int queries = 1; queries <= kMostFew; ++queries) {
      for (const int keys : {16, 48, 64}) {
        const bool extremes = random.below(2) != 0;
        // Rows as they lie in a cache: further apart than they are long, at any address.
        const int64_t stride = width + (queries % 3 == 0 ? 0 : 37 * (queries - 1));
        const auto rows = static_cast<size_t>((keys - 1) * stride + width);
        Guarded key(rows, queries % 2 == 0 ? Guard::kBefore : Guard::kAfter);
        Guarded query(static_cast<size_t>(queries * width));
        Guarded got(static_cast<size_t>(queries * kKeyBlock) * 4), expected(got.size());
        fill_codes(random, key, extremes);
        fill_codes(random, query, extremes);
        if (extremes && queries == 1) memset(key.data(), -128, rows);
        if (extremes && queries == 1) memset(query.data(), -128, query.size());
        memset(got.data(), 0, got.size());
        memset(expected.data(), 0, got.size());
        kernel(key.as<int8_t>(), stride, width, query.as<int8_t>(), queries, keys,
               got.as<int32_t>());
        few_scores_scalar(key.as<int8_t>(), stride, width, query.as<int8_t>(), queries, keys,
                          expected.as<int32_t>());
        bool equal = true;
        for (int q = 0; q < queries; ++q) {
          const size_t row = static_cast<size_t>(q * kKeyBlock) * 4;
          equal &= memcmp(got.data() + row, expected.data() + row, size_t(keys) * 4) == 0;
        }
        CHECK_THAT(equal, "%s width %d queries %d keys %d", name, int(width), queries, keys);
      }
    }
  }
}

// Everything a few queries have: inputs at random, some masked, some not numbers.
struct FewBuffers {
  FewBuffers(Random& random, int query_count, int key_count, int kind)
      : queries(query_count), keys(key_count) {
    for (float& x : query_scale) x = random.normal() * 1e-3f;
    for (float& x : key_scale) x = fabsf(random.normal());
    for (int j = 0; j < kKeyBlock; ++j) {
      const float scale = fabsf(random.normal()) + 1e-3f;
      value_scales_scalar(&scale, 1, value_log2 + j, value_inverse + j);
      spoil[j] = kind == 3 && j == 5 ? NAN : 0.0f;
    }
    for (int i = 0; i < kMostFew * kKeyBlock; ++i) {
      scores[i] = static_cast<int32_t>(random.below(400000)) - 200000;
      float_scores[i] = random.normal();
      bias[i] = random.below(4) == 0 ? -INFINITY : random.normal();
      if (kind == 2) bias[i] = -INFINITY;
    }
    for (int q = 0; q < kMostFew; ++q) {
      limits[q] = static_cast<int32_t>(random.below(kKeyBlock + 1));
      running_max[q] = random.below(3) == 0 ? -INFINITY : random.normal();
      running_sum[q] = running_max[q] == -INFINITY ? 0.0f : fabsf(random.normal());
    }
    if (kind == 3) query_scale[0] = NAN;
    if (kind == 4) key_scale[9] = value_log2[11] = NAN;
    has_bias = kind != 0;
    has_limits = kind != 1;
  }

  FewBlock block() {
    return {keys,
            queries,
            scores,
            query_scale,
            key_scale,
            value_log2,
            value_inverse,
            has_limits ? limits : nullptr,
            has_bias ? bias : nullptr,
            weights,
            running_max,
            running_sum,
            keep,
            gain};
  }
  FewFloatBlock float_block() {
    return {keys,
            queries,
            float_scores,
            query_scale,
            spoil,
            has_limits ? limits : nullptr,
            has_bias ? bias : nullptr,
            running_max,
            running_sum,
            keep};
  }

  int queries, keys;
  bool has_bias = false, has_limits = false;
  int32_t scores[kMostFew * kKeyBlock], limits[kMostFew];
  float float_scores[kMostFew * kKeyBlock], bias[kMostFew * kKeyBlock];
  float query_scale[kMostFew], key_scale[kKeyBlock], value_log2[kKeyBlock];
  float value_inverse[kKeyBlock], spoil[kKeyBlock];
  float running_max[kMostFew], running_sum[kMostFew], keep[kMostFew] = {}, gain[kMostFew] = {};
  uint8_t weights[kMostFew * kKeyBlock] = {};
};

void test_kernel_few_softmax(few_softmax_fn* kernel, const char* name) {
  Random random(32);
  for (int round = 0; round < 500; ++round) {
    const int queries = 1 + static_cast<int>(random.below(8));
    const int keys = 16 * (1 + static_cast<int>(random.below(4)));
    FewBuffers buffers(random, queries, keys, round % 5), expected = buffers;
    FewBlock block = buffers.block();
    const size_t key_bytes = size_t(keys) * 4, query_bytes = size_t(queries) * 4;
    Guarded key_scale(block.key_scale, key_bytes), value_log2(block.value_log2, key_bytes);
    Guarded value_inverse(block.value_inverse, key_bytes), keep(query_bytes), gain(query_bytes);
    Guarded scores(block.scores, query_bytes * kKeyBlock), weights(size_t(queries * kKeyBlock));
    Guarded running_max(block.running_max, query_bytes);
    Guarded running_sum(block.running_sum, query_bytes);
    block.key_scale = key_scale.as<float>();
    block.value_log2 = value_log2.as<float>();
    block.value_inverse = value_inverse.as<float>();
    block.scores = scores.as<int32_t>();
    block.weights = weights.as<uint8_t>();
    block.running_max = running_max.as<float>();
    block.running_sum = running_sum.as<float>();
    block.keep = keep.as<float>();
    block.gain = gain.as<float>();
    memset(weights.data(), 0x55, weights.size());
    kernel(block);
    few_softmax_scalar(expected.block());
    bool equal = equal_floats(block.running_max, expected.running_max, queries) &&
                 equal_floats(block.running_sum, expected.running_sum, queries) &&
                 equal_floats(block.keep, expected.keep, queries) &&
                 equal_floats(block.gain, expected.gain, queries);
    for (int q = 0; q < queries; ++q) {
      if (isnan(expected.running_sum[q])) continue;  // its weights are of no consequence
      equal &= memcmp(block.weights + q * kKeyBlock, expected.weights + q * kKeyBlock, 64) == 0;
    }
    CHECK_THAT(equal, "%s queries %d keys %d kind %d", name, queries, keys, round % 5);
  }
}

void test_kernel_few_float_softmax(few_float_softmax_fn* kernel, const char* name) {
  Random random(33);
  for (int round = 0; round < 400; ++round) {
    const int queries = 1 + static_cast<int>(random.below(8));
    const int keys = 16 * (1 + static_cast<int>(random.below(4)));
    FewBuffers buffers(random, queries, keys, round % 4), expected = buffers;
    FewFloatBlock block = buffers.float_block();
    const size_t query_bytes = size_t(queries) * 4;
    Guarded spoil(block.spoil, size_t(keys) * 4), scores(block.scores, query_bytes * kKeyBlock);
    Guarded running_max(block.running_max, query_bytes), keep(query_bytes);
    Guarded running_sum(block.running_sum, query_bytes);
    block.spoil = spoil.as<float>();
    block.scores = scores.as<float>();
    block.running_max = running_max.as<float>();
    block.running_sum = running_sum.as<float>();
    block.keep = keep.as<float>();
    kernel(block);
    few_float_softmax_scalar(expected.float_block());
    bool equal = equal_floats(block.running_max, expected.running_max, queries) &&
                 equal_floats(block.running_sum, expected.running_sum, queries) &&
                 equal_floats(block.keep, expected.keep, queries);
    for (int q = 0; q < queries; ++q) {
      const int row = q * kKeyBlock;
      equal &= equal_floats(block.scores + row, expected.float_scores + row, keys);
    }
    CHECK_THAT(equal, "%s queries %d keys %d kind %d", name, queries, keys, round % 4);
  }
}

void test_kernel_few_accumulate(few_accumulate_fn* kernel, const char* name) {
  Random random(34);
  for (const int64_t channels : {64, 128, 192, 320}) {
    for (int queries = 1; queries <= kMostFew; ++queries) {
      const bool extremes = random.below(2) != 0;
      const int64_t stride = channels + (queries % 3 == 0 ? 0 : 29 * (queries - 1));
      const auto rows = static_cast<size_t>((kKeyBlock - 1) * stride + channels);
      Guarded values(rows, queries % 2 == 0 ? Guard::kBefore : Guard::kAfter);
      Guarded weights(static_cast<size_t>(queries * kKeyBlock));
      Guarded keep(size_t(queries) * 4), gain(keep.size());
      Guarded got(static_cast<size_t>(queries * channels) * 4), expected(got.size());
      fill_codes(random, values, extremes);
      fill_bytes(random, weights, false);
      if (extremes) memset(weights.data(), 255, weights.size());
      if (extremes && queries == 1) memset(values.data(), -128, rows);
      fill_floats(random, keep, 1.0f);
      fill_floats(random, gain, 1.0f);
      fill_floats(random, got, 1e4f);
      memcpy(expected.data(), got.data(), got.size());
      kernel(values.as<int8_t>(), stride, channels, weights.as<uint8_t>(), queries,
             keep.as<float>(), gain.as<float>(), got.as<float>());
      few_accumulate_scalar(values.as<int8_t>(), stride, channels, weights.as<uint8_t>(), queries,
                            keep.as<float>(), gain.as<float>(), expected.as<float>());
      CHECK_THAT(equal_floats(got.as<float>(), expected.as<float>(), queries * channels),
                 "%s channels %d queries %d", name, int(channels), queries);
    }
  }
}

void test_kernel_few_float_scores(few_float_scores_fn* kernel, const char* name) {
  Random random(35);
  for (const int64_t channels : {1, 8, 17, 40, 64, 80, 128, 256}) {
    for (int queries = 1; queries <= kMostFew; ++queries) {
      for (const int keys : {16, 48, 64}) {
        Guarded key(static_cast<size_t>(keys * channels) * 4);
        Guarded query(static_cast<size_t>(queries * channels) * 4);
        Guarded got(static_cast<size_t>(queries * kKeyBlock) * 4), expected(got.size());
        fill_floats(random, key, 1.0f);
        fill_floats(random, query, 1.0f);
        key.as<float>()[keys * channels - 1] = NAN;
        kernel(key.as<float>(), channels, query.as<float>(), queries, keys, got.as<float>());
        few_float_scores_scalar(key.as<float>(), channels, query.as<float>(), queries, keys,
                                expected.as<float>());
        bool equal = true;
        for (int q = 0; q < queries; ++q) {
          const int row = q * kKeyBlock;
          equal &= equal_floats(got.as<float>() + row, expected.as<float>() + row, keys);
        }
        CHECK_THAT(equal, "%s channels %d queries %d keys %d", name, int(channels), queries, keys);
      }
    }
  }
}

void test_kernel_few_float_accumulate(few_float_accumulate_fn* kernel, const char* name) {
  Random random(36);
  for (const int64_t channels : {16, 48, 64, 80, 128, 256}) {
    for (int queries = 1; queries <= kMostFew; ++queries) {
      for (const int keys : {16, 48, 64}) {
        Guarded values(static_cast<size_t>(keys * channels) * 4);
        Guarded weights(static_cast<size_t>(queries * kKeyBlock) * 4);
        Guarded keep(size_t(queries) * 4);
        Guarded got(static_cast<size_t>(queries * channels) * 4), expected(got.size());
        fill_floats(random, values, 1.0f);
        fill_floats(random, weights, 1.0f);
        weights.as<float>()[queries * kKeyBlock - 1] = NAN;  // of a key in a whole block only
        fill_floats(random, keep, 1.0f);
        fill_floats(random, got, 1.0f);
        memcpy(expected.data(), got.data(), got.size());
        kernel(values.as<float>(), channels, weights.as<float>(), queries, keys, keep.as<float>(),
               got.as<float>());
        few_float_accumulate_scalar(values.as<float>(), channels, weights.as<float>(), queries,
                                    keys, keep.as<float>(), expected.as<float>());
        CHECK_THAT(equal_floats(got.as<float>(), expected.as<float>(), queries * channels),
                   "%s channels %d queries %d keys %d", name, int(channels), queries, keys);
      }
    }
  }
}

void test_kernel_join_states(join_states_fn* kernel, const char* name) {
  Random random(38);
  for (int round = 0; round < 100; ++round) {
    const int vectors = 1 + round % 2;
    const auto state = [&] { return random.below(3) == 0 ? -INFINITY : 30.0f * random.normal(); };
    float part_max[kLanes], part_sum[kLanes], max[2][kLanes], sum[2][kLanes];
    float keep[2][kLanes] = {}, gain[2][kLanes] = {};
    for (int lane = 0; lane < kLanes; ++lane) {
      part_max[lane] = state();
      part_sum[lane] = part_max[lane] == -INFINITY ? 0.0f : fabsf(random.normal());
      if (random.below(8) == 0) part_sum[lane] = NAN;
      max[0][lane] = max[1][lane] = state();
      sum[0][lane] = sum[1][lane] = max[0][lane] == -INFINITY ? 0.0f : fabsf(random.normal());
    }
    kernel({vectors, part_max, part_sum, max[0], sum[0], keep[0], gain[0]});
    join_states_scalar({vectors, part_max, part_sum, max[1], sum[1], keep[1], gain[1]});
    CHECK_THAT(equal_floats(max[0], max[1], kLanes) && equal_floats(sum[0], sum[1], kLanes) &&
                   equal_floats(keep[0], keep[1], kLanes) && equal_floats(gain[0], gain[1], kLanes),
               "%s vectors %d", name, vectors);
  }
}

void test_kernel_join_lanes(join_lanes_fn* kernel, const char* name) {
  Random random(39);
  for (const int64_t channels : {16, 80, 128}) {
    for (const int vectors : {1, 2}) {
      Guarded part(static_cast<size_t>(channels * kLanes) * 4), got(part.size());
      Guarded expected(part.size()), keep(kLanes * 4), gain(kLanes * 4);
      for (Guarded* each : {&part, &got, &keep, &gain}) fill_floats(random, *each, 1.0f);
      memcpy(expected.data(), got.data(), got.size());
      kernel(part.as<float>(), channels, keep.as<float>(), gain.as<float>(), vectors,
             got.as<float>());
      join_lanes_scalar(part.as<float>(), channels, keep.as<float>(), gain.as<float>(), vectors,
                        expected.as<float>());
      CHECK_THAT(equal_floats(got.as<float>(), expected.as<float>(), channels * kLanes),
                 "%s channels %d vectors %d", name, int(channels), vectors);
    }
  }
}

void test_kernel_join_rows(join_rows_fn* kernel, const char* name) {
  Random random(40);
  for (const int64_t channels : {16, 80, 128}) {
    for (const int queries : {1, 5, 8}) {
      Guarded part(static_cast<size_t>(channels * queries) * 4), got(part.size());
      Guarded expected(part.size()), keep(size_t(queries) * 4), gain(keep.size());
      for (Guarded* each : {&part, &got, &keep, &gain}) fill_floats(random, *each, 1.0f);
      memcpy(expected.data(), got.data(), got.size());
      kernel(part.as<float>(), channels, queries, keep.as<float>(), gain.as<float>(),
             got.as<float>());
      join_rows_scalar(part.as<float>(), channels, queries, keep.as<float>(), gain.as<float>(),
                       expected.as<float>());
      CHECK_THAT(equal_floats(got.as<float>(), expected.as<float>(), channels * queries),
                 "%s channels %d queries %d", name, int(channels), queries);
    }
  }
}

void test_kernel_spoil_rows(spoil_rows_fn* kernel, const char* name) {
  Random random(41);
  for (const int64_t channels : {16, 48, 64, 128}) {
    for (const int count : {1, 7, 64}) {
      Guarded got(static_cast<size_t>(channels * count) * 4), expected(got.size());
      Guarded spoil(static_cast<size_t>(count) * 4), spoil_expected(spoil.size());
      fill_floats(random, got, 1e30f);
      constexpr float kValues[] = {NAN, -NAN, INFINITY, -INFINITY, 3.4e38f, -3.4e38f, 1e-45f};
      for (int j = 0; j < count; j += 2) {
        got.as<float>()[j * channels + random.below(static_cast<uint32_t>(channels))] =
            kValues[random.below(7)];
      }
      memcpy(expected.data(), got.data(), got.size());
      kernel(got.as<float>(), channels, count, spoil.as<float>());
      spoil_rows_scalar(expected.as<float>(), channels, count, spoil_expected.as<float>());
      CHECK_THAT(equal_floats(got.as<float>(), expected.as<float>(), channels * count) &&
                     equal_floats(spoil.as<float>(), spoil_expected.as<float>(), count),
                 "%s channels %d count %d", name, int(channels), count);
    }
  }
}

void test_kernel_value_scales(value_scales_fn* kernel, const char* name) {
  Random random(37);
  for (const int count : {16, 32, 64}) {
    Guarded scales(static_cast<size_t>(count) * 4 + 1), log2(static_cast<size_t>(count) * 4);
    Guarded inverse(log2.size()), log2_expected(log2.size()), inverse_expected(log2.size());
    for (int round = 0; round < 200; ++round) {
      for (int j = 0; j < count; ++j) {
        uint32_t bits = random.bits();
        if (round < 2) bits = round == 0 ? 0u : 0x80000000u;
        memcpy(scales.data() + 1 + 4 * j, &bits, 4);
      }
      kernel(scales.data() + 1, count, log2.as<float>(), inverse.as<float>());
      value_scales_scalar(scales.data() + 1, count, log2_expected.as<float>(),
                          inverse_expected.as<float>());
      CHECK_THAT(equal_floats(log2.as<float>(), log2_expected.as<float>(), count) &&
                     equal_floats(inverse.as<float>(), inverse_expected.as<float>(), count),
                 "%s count %d", name, count);
    }
  }
}

bool can_run(qfa_isa isa) {
  for (const qfa_isa testable : testable_isas()) {
    if (testable == isa) return true;
  }
  return false;
}

QFA_TEST(every_kernel_equals_the_scalar_one) {
  const FloatMode mode;
  int tested = 0, left_out = 0;
#define QFA_KERNEL(kind, isa)                         \
  if (can_run(sets::isa)) {                           \
    const Kernels kernels = kernels_for(sets::isa);   \
    CHECK(kernels.kind == kind##_##isa);              \
    kernels.begin_work();                             \
    test_kernel_##kind(kind##_##isa, #kind "_" #isa); \
    kernels.end_work();                               \
    ++tested;                                         \
  } else {                                            \
    ++left_out;                                       \
  }
#include "kernels/kernels.inc"
#undef QFA_KERNEL
  printf("     %d kernels tested, %d need another processor; AMX %s\n", tested, left_out,
         amx_is_emulated() ? "emulated" : (can_run(QFA_ISA_AMXINT8) ? "native" : "absent"));
}

QFA_TEST(amx_releases_its_tiles) {
  if (!amx_is_emulated()) return;  // counts exist only in the emulator
  const AmxCounts counts = amx_counts();
  CHECK(counts.configs > 0 && counts.configs == counts.releases);
  CHECK(counts.products > 0 && counts.loads > 0 && counts.stores > 0 && counts.zeros > 0);
  CHECK(!amx_is_configured());
}

}  // namespace
}  // namespace qfa::test

QFA_TEST_MAIN
