// kernels_test.cc's tests of the kernels of kernels/formats.h: the same bits as the scalar kernel,
// between forbidden pages.
#ifndef QFA_TESTS_FORMAT_KERNELS_H_
#define QFA_TESTS_FORMAT_KERNELS_H_

#include <math.h>
#include <string.h>

#include "check.h"
#include "guarded.h"
#include "kernels/kernels.h"
#include "problem.h"

namespace qfa::test {
namespace {

constexpr int64_t kFormatCounts[] = {1,  2,  5,  7,  8,  9,   15,  16,  17,  31,  32,
                                     33, 40, 63, 64, 80, 100, 127, 128, 130, 192, 333};

bool same_floats(const Guarded& a, const Guarded& b) {
  Guarded &x = const_cast<Guarded&>(a), &y = const_cast<Guarded&>(b);
  for (size_t i = 0; i < a.size() / 4; ++i) {
    if (isnan(x.as<float>()[i]) && isnan(y.as<float>()[i])) continue;
    if (memcmp(x.as<float>() + i, y.as<float>() + i, 4) != 0) return false;
  }
  return true;
}

bool same_bytes(const Guarded& a, const Guarded& b) {
  return memcmp(const_cast<Guarded&>(a).data(), const_cast<Guarded&>(b).data(), a.size()) == 0;
}

size_t size_of(int64_t count, int64_t bytes) { return static_cast<size_t>(count * bytes); }

void fill_random(Random& random, Guarded& buffer) {
  for (size_t i = 0; i < buffer.size(); ++i) buffer.data()[i] = static_cast<char>(random.bits());
}

// Floats of all sizes, or ordinary ones, or a few special ones among them.
void fill_numbers(Random& random, Guarded& buffer, int kind) {
  const float size = ldexpf(1.0f, static_cast<int>(random.below(60)) - 35);
  const float offset = ldexpf(random.normal(), static_cast<int>(random.below(16)) - 4);
  for (size_t i = 0; i < buffer.size() / 4; ++i) {
    float x = random.normal();
    const uint32_t bits = random.bits();
    if (kind == 1) memcpy(&x, &bits, 4);
    if (kind == 2) x *= size;
    if (kind == 3) x = offset + x * size;
    if (kind == 4) x = static_cast<float>(static_cast<int>(random.below(33)) - 16) * 0.5f;
    if (kind == 5 && random.below(64) == 0) x = random.below(2) != 0 ? NAN : -INFINITY;
    if (kind == 6) x = random.below(2) != 0 ? 0.0f : -0.0f;
    if (kind == 7) x = offset;
    memcpy(buffer.data() + 4 * i, &x, 4);
  }
}

void test_load_float8(load_e4m3_row_fn* kernel, load_e4m3_row_fn* scalar, const char* name) {
  Random random(41);
  for (const int64_t count : kFormatCounts) {
    for (const float scale : {1.0f, 0.37f, 1e-30f, NAN}) {
      for (const Guard guard : {Guard::kAfter, Guard::kBefore}) {
        Guarded codes(size_of(count, 1), guard), got(size_of(count, 4)), expected(got.size());
        fill_random(random, codes);
        kernel(codes.data(), scale, count, got.as<float>());
        scalar(codes.data(), scale, count, expected.as<float>());
        CHECK_THAT(same_floats(got, expected), "%s count %d", name, int(count));
      }
    }
  }
}

void test_kernel_load_e4m3_row(load_e4m3_row_fn* kernel, const char* name) {
  test_load_float8(kernel, load_e4m3_row_scalar, name);
}

void test_kernel_load_e5m2_row(load_e5m2_row_fn* kernel, const char* name) {
  test_load_float8(kernel, load_e5m2_row_scalar, name);
}

void test_quantize_float8(quantize_e4m3_row_fn* kernel, quantize_e4m3_row_fn* scalar,
                          const char* name) {
  Random random(42);
  for (const int64_t count : kFormatCounts) {
    for (int kind = 0; kind < 8; ++kind) {
      for (const int64_t offset : {0, 1}) {  // a byte off the alignment of floats
        Guarded row(size_of(count, 4)), moved(row.size() + size_t(offset));
        Guarded got(size_of(count, 1)), expected(got.size());
        fill_numbers(random, row, kind);
        memcpy(moved.data() + offset, row.data(), row.size());
        const float a = kernel(moved.data() + offset, count, got.as<uint8_t>());
        const float b = scalar(moved.data() + offset, count, expected.as<uint8_t>());
        CHECK_THAT((a == b || (isnan(a) && isnan(b))) && same_bytes(got, expected),
                   "%s count %d kind %d", name, int(count), kind);
      }
    }
  }
}

void test_kernel_quantize_e4m3_row(quantize_e4m3_row_fn* kernel, const char* name) {
  test_quantize_float8(kernel, quantize_e4m3_row_scalar, name);
}

void test_kernel_quantize_e5m2_row(quantize_e5m2_row_fn* kernel, const char* name) {
  test_quantize_float8(kernel, quantize_e5m2_row_scalar, name);
}

void test_kernel_quantize_int4_row(quantize_int4_row_fn* kernel, const char* name) {
  Random random(43);
  for (const int64_t count : kFormatCounts) {
    for (const int64_t group : {32, 64, 96, 128}) {
      const int64_t groups = (count + group - 1) / group;
      for (int kind = 0; kind < 8; ++kind) {
        Guarded row(size_of(count, 4)), got(size_of((count + 1) / 2, 1)), expected(got.size());
        Guarded scale(size_of(groups, 2) + 1), scale_expected(scale.size());
        Guarded zero(size_of(groups, 1)), zero_expected(zero.size());
        fill_numbers(random, row, kind);
        kernel(row.as<float>(), count, group, got.as<uint8_t>(), scale.data() + 1,
               zero.as<int8_t>());
        quantize_int4_row_scalar(row.as<float>(), count, group, expected.as<uint8_t>(),
                                 scale_expected.data() + 1, zero_expected.as<int8_t>());
        CHECK_THAT(same_bytes(got, expected) && same_bytes(scale, scale_expected) &&
                       same_bytes(zero, zero_expected),
                   "%s count %d group %d kind %d", name, int(count), int(group), kind);
      }
    }
  }
}

void test_kernel_load_int4_row(load_int4_row_fn* kernel, const char* name) {
  Random random(44);
  for (const int64_t count : kFormatCounts) {
    for (const int64_t group : {32, 64, 96, 128}) {
      const int64_t groups = (count + group - 1) / group;
      Guarded codes(size_of((count + 1) / 2, 1)), scale(size_of(groups, 2) + 1);
      Guarded zero(size_of(groups, 1)), got(size_of(count, 4)), expected(got.size());
      fill_random(random, codes);
      fill_random(random, scale);
      fill_random(random, zero);
      kernel(codes.as<uint8_t>(), scale.data() + 1, zero.as<int8_t>(), group, count,
             got.as<float>());
      load_int4_row_scalar(codes.as<uint8_t>(), scale.data() + 1, zero.as<int8_t>(), group, count,
                           expected.as<float>());
      CHECK_THAT(same_floats(got, expected), "%s count %d group %d", name, int(count), int(group));
    }
  }
}

void test_kernel_quantize_int4_keys(quantize_int4_keys_fn* kernel, const char* name) {
  Random random(45);
  for (const int64_t channels : kFormatCounts) {
    for (int kind = 0; kind < 8; ++kind) {
      const int64_t stride = channels + (kind % 2) * 3, bytes = (channels + 1) / 2;
      const int64_t code_stride = bytes + kind % 3;
      Guarded keys(size_of(31 * stride + channels, 4));
      Guarded got(size_of(31 * code_stride + bytes, 1)), expected(got.size());
      Guarded scale(size_of(channels, 2) + 1), scale_expected(scale.size());
      Guarded zero(size_of(channels, 1)), zero_expected(zero.size());
      fill_numbers(random, keys, kind);
      kernel(keys.as<float>(), stride, channels, got.as<uint8_t>(), code_stride, scale.data() + 1,
             zero.as<int8_t>());
      quantize_int4_keys_scalar(keys.as<float>(), stride, channels, expected.as<uint8_t>(),
                                code_stride, scale_expected.data() + 1, zero_expected.as<int8_t>());
      CHECK_THAT(same_bytes(got, expected) && same_bytes(scale, scale_expected) &&
                     same_bytes(zero, zero_expected),
                 "%s channels %d kind %d", name, int(channels), kind);
    }
  }
}

void test_kernel_load_int4_keys(load_int4_keys_fn* kernel, const char* name) {
  Random random(46);
  for (const int64_t channels : kFormatCounts) {
    for (const int keys : {1, 3, 32}) {
      const int64_t stride = channels + keys % 2, bytes = (channels + 1) / 2;
      const int64_t code_stride = bytes + keys % 3;
      Guarded codes(size_of((keys - 1) * code_stride + bytes, 1));
      Guarded scale(size_of(channels, 2) + 1), zero(size_of(channels, 1));
      Guarded got(size_of((keys - 1) * stride + channels, 4)), expected(got.size());
      fill_random(random, codes);
      fill_random(random, scale);
      fill_random(random, zero);
      kernel(codes.as<uint8_t>(), code_stride, scale.data() + 1, zero.as<int8_t>(), channels, keys,
             got.as<float>(), stride);
      load_int4_keys_scalar(codes.as<uint8_t>(), code_stride, scale.data() + 1, zero.as<int8_t>(),
                            channels, keys, expected.as<float>(), stride);
      CHECK_THAT(same_floats(got, expected), "%s channels %d keys %d", name, int(channels), keys);
    }
  }
}

// Halfs that are scales: mostly ordinary, in `wild` ones anything.
void fill_scales(Random& random, char* scales, int64_t count, bool wild) {
  for (int64_t i = 0; i < count; ++i) {
    const auto half = static_cast<uint16_t>(
        wild && random.below(16) == 0 ? random.bits() : 0x2c00 + random.below(0x1000));
    memcpy(scales + 2 * i, &half, 2);
  }
}

void test_kernel_few_int4_scores(few_int4_scores_fn* kernel, const char* name) {
  Random random(47);
  for (const int64_t channels : kFormatCounts) {
    for (const int queries : {1, 2, 3, 4, 5, 7, 8}) {
      for (int kind = 0; kind < 3; ++kind) {
        const int64_t bytes = (channels + 1) / 2, code_stride = bytes + kind;
        Guarded codes(size_of(31 * code_stride + bytes, 1));
        Guarded scale(size_of(channels, 2) + 1), zero(size_of(channels, 1));
        Guarded query(size_of(queries * channels, 4));
        Guarded got(size_of((queries - 1) * kKeyBlock + 32, 4)), expected(got.size());
        fill_random(random, codes);
        fill_scales(random, scale.data() + 1, channels, kind == 2);
        fill_random(random, zero);
        fill_numbers(random, query, kind == 1 ? 5 : 2);
        kernel(codes.as<uint8_t>(), code_stride, scale.data() + 1, zero.as<int8_t>(), channels,
               query.as<float>(), queries, got.as<float>());
        few_int4_scores_scalar(codes.as<uint8_t>(), code_stride, scale.data() + 1,
                               zero.as<int8_t>(), channels, query.as<float>(), queries,
                               expected.as<float>());
        CHECK_THAT(same_floats(got, expected), "%s channels %d queries %d kind %d", name,
                   int(channels), queries, kind);
      }
    }
  }
}

void test_kernel_few_int4_accumulate(few_int4_accumulate_fn* kernel, const char* name) {
  Random random(48);
  for (const int64_t channels : kFormatCounts) {
    for (const int64_t group : {32, 64, 96, 128}) {
      for (const int queries : {1, 2, 3, 4, 5, 7, 8}) {
        for (int kind = 0; kind < 4; ++kind) {
          const int keys = kind == 0 ? kKeyBlock : 1 + static_cast<int>(random.below(kKeyBlock));
          const int64_t bytes = (channels + 1) / 2, groups = (channels + group - 1) / group;
          const int64_t code_stride = bytes + kind, scale_stride = groups + kind;
          const int64_t output_stride = channels + 2 * kind;
          Guarded codes(size_of((keys - 1) * code_stride + bytes, 1));
          Guarded scale(size_of((keys - 1) * scale_stride + groups, 2) + 1);
          Guarded zero(size_of((keys - 1) * scale_stride + groups, 1));
          Guarded weights(size_of(queries * kKeyBlock, 4)), keep(size_of(queries, 4));
          Guarded got(size_of((queries - 1) * output_stride + channels, 4)), expected(got.size());
          fill_random(random, codes);
          fill_scales(random, scale.data() + 1, (keys - 1) * scale_stride + groups, kind == 2);
          fill_random(random, zero);
          fill_numbers(random, got, 0);
          memcpy(expected.data(), got.data(), got.size());
          fill_numbers(random, keep, 0);
          for (int i = 0; i < queries * kKeyBlock; ++i) {
            float y = static_cast<float>(random.uniform());
            if (random.below(4) == 0) y = 0.0f;
            if (kind == 3) y = ldexpf(y, -static_cast<int>(random.below(150)));
            if (kind == 1 && random.below(100) == 0) y = NAN;
            weights.as<float>()[i] = y;
          }
          const Int4Values values = {
              codes.as<uint8_t>(), code_stride, scale.data() + 1, zero.as<int8_t>(),
              scale_stride,        group,       channels};
          kernel(values, weights.as<float>(), queries, keys, keep.as<float>(), got.as<float>(),
                 output_stride);
          few_int4_accumulate_scalar(values, weights.as<float>(), queries, keys, keep.as<float>(),
                                     expected.as<float>(), output_stride);
          CHECK_THAT(same_floats(got, expected), "%s channels %d group %d queries %d kind %d", name,
                     int(channels), int(group), queries, kind);
        }
      }
    }
  }
}

}  // namespace
}  // namespace qfa::test

#endif  // QFA_TESTS_FORMAT_KERNELS_H_
