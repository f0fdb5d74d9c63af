// Formats of 8 and 4 bits against oracles in double precision that share nothing with the kernels.
#include <math.h>
#include <string.h>

#include <algorithm>
#include <bit>
#include <vector>

#include "check.h"
#include "kernels/arch.h"
#include "kernels/kernels.h"
#include "problem.h"

namespace qfa::test {
namespace {

// Number of a code of 8 bits by the textbook; NaN where it has none.
double number_of(uint8_t code, int mantissa_bits, int bias, bool has_infinity) {
  const int magnitude = code & 0x7f, most = (0x80 >> mantissa_bits) - 1;
  const int exponent = magnitude >> mantissa_bits, mantissa = magnitude % (1 << mantissa_bits);
  const double sign = (code & 0x80) != 0 ? -1.0 : 1.0;
  if (has_infinity && exponent == most) return mantissa == 0 ? sign * INFINITY : NAN;
  if (!has_infinity && magnitude == 0x7f) return NAN;
  const double fraction = mantissa / double(1 << mantissa_bits);
  return sign * (exponent == 0 ? ldexp(fraction, 1 - bias) : ldexp(1 + fraction, exponent - bias));
}

struct Format {
  const char* name;
  int mantissa_bits, bias;
  bool has_infinity;
  float greatest;
  uint8_t greatest_code;
  load_e4m3_row_fn* Kernels::* load;
  quantize_e4m3_row_fn* Kernels::* quantize;

  double number(int code) const {
    return number_of(static_cast<uint8_t>(code), mantissa_bits, bias, has_infinity);
  }
};

constexpr Format kFormats[] = {
    {"e4m3", 3, 7, false, 448.0f, 0x7e, &Kernels::load_e4m3_row, &Kernels::quantize_e4m3_row},
    {"e5m2", 2, 15, true, 57344.0f, 0x7b, &Kernels::load_e5m2_row, &Kernels::quantize_e5m2_row}};

QFA_TEST(every_code_of_8_bits_widens_exactly) {
  for (const qfa_isa isa : testable_isas()) {
    const Kernels kernels = kernels_for(isa);
    for (const Format& format : kFormats) {
      uint8_t codes[256];
      float row[256];
      for (int i = 0; i < 256; ++i) codes[i] = static_cast<uint8_t>(i);
      for (const float scale : {1.0f, 0.3f, 0x1p-100f, 0x1p100f}) {
        (kernels.*format.load)(codes, scale, 256, row);
        for (int i = 0; i < 256; ++i) {
          // The product of 24 bits and at most 4 is exact in double: one rounding.
          const float expected = static_cast<float>(format.number(i) * double{scale});
          CHECK_THAT(isnan(expected)
                         ? isnan(row[i])
                         : std::bit_cast<uint32_t>(row[i]) == std::bit_cast<uint32_t>(expected),
                     "%s %s code %d scale %g: %g not %g", qfa_isa_name(isa), format.name, i,
                     double{scale}, double{row[i]}, double{expected});
        }
      }
    }
  }
}

QFA_TEST(numbers_become_the_nearest_code_of_8_bits) {
  for (const Format& format : kFormats) {
    // A row whose greatest number is `greatest` is coded as it stands.
    std::vector<float> row = {format.greatest, -0.0f, 0.0f};
    const uint32_t end = std::bit_cast<uint32_t>(format.greatest);
    for (uint32_t bits = 0; bits < end; bits += 6151) {
      row.push_back(std::bit_cast<float>(bits | (bits % 2 << 31)));
    }
    for (int code = 0; code < format.greatest_code; ++code) {
      const auto middle = static_cast<float>((format.number(code) + format.number(code + 1)) / 2);
      for (const float x : {middle, nextafterf(middle, 0.0f), nextafterf(middle, INFINITY)}) {
        row.push_back(x);
        row.push_back(-x);
      }
    }
    const auto count = static_cast<int64_t>(row.size());
    for (const qfa_isa isa : testable_isas()) {
      const Kernels kernels = kernels_for(isa);
      std::vector<uint8_t> codes(row.size(), 0xee);
      const float scale = (kernels.*format.quantize)(row.data(), count, codes.data());
      CHECK(scale == 1.0f);
      int below = 0;  // the code at or below the magnitude
      std::vector<size_t> order(row.size());
      for (size_t i = 0; i < order.size(); ++i) order[i] = i;
      std::sort(order.begin(), order.end(),
                [&](size_t a, size_t b) { return fabsf(row[a]) < fabsf(row[b]); });
      for (const size_t i : order) {
        const double x = fabs(double{row[i]});
        while (below < format.greatest_code && format.number(below + 1) <= x) ++below;
        int expected = below;
        if (below < format.greatest_code) {
          const double down = x - format.number(below), up = format.number(below + 1) - x;
          if (up < down || (up == down && below % 2 == 1)) expected = below + 1;
        }
        if (signbit(row[i])) expected |= 0x80;
        CHECK_THAT(codes[i] == expected, "%s %s %.9g: %d not %d", qfa_isa_name(isa), format.name,
                   double{row[i]}, codes[i], expected);
      }
    }
  }
}

QFA_TEST(rows_of_8_bits_have_the_scale_of_their_greatest_number) {
  for (const qfa_isa isa : testable_isas()) {
    const Kernels kernels = kernels_for(isa);
    for (const Format& format : kFormats) {
      const auto scale_of = [&](std::vector<float> row) {
        std::vector<uint8_t> codes(row.size(), 0xee);
        const float scale =
            (kernels.*format.quantize)(row.data(), int64_t(row.size()), codes.data());
        if (isnan(scale)) {
          for (const uint8_t code : codes) CHECK(code == 0);
          return scale;
        }
        std::vector<float> back(row.size());
        (kernels.*format.load)(codes.data(), scale, int64_t(row.size()), back.data());
        float most = 0.0f;
        for (const float x : row) most = fmaxf(most, fabsf(x));
        for (size_t i = 0; i < row.size(); ++i) {
          // Half a step of a normal number, or of a subnormal one.
          const double bound = fabs(double{row[i]}) * ldexp(1.001, -1 - format.mantissa_bits) +
                               double{scale} * ldexp(0.501, 1 - format.bias - format.mantissa_bits);
          CHECK_THAT(fabs(double{back[i]} - double{row[i]}) <= bound, "%s %.9g: %.9g", format.name,
                     double{row[i]}, double{back[i]});
        }
        return scale;
      };
      CHECK(scale_of({3.0f, -7.0f, 0.25f}) == 7.0f / format.greatest);
      CHECK(scale_of({0.0f, -0.0f}) == 0.0f);
      CHECK(scale_of({1e-38f, 1e-42f}) == kSmallestScale);
      CHECK(scale_of({3.4e38f, -1.0f, 1e30f}) == 3.4e38f / format.greatest);
      CHECK(isnan(scale_of({1.0f, NAN})));
      CHECK(isnan(scale_of({-INFINITY, 1.0f})));
      Random random(3);
      for (const int count : {1, 5, 31, 128, 333}) {
        std::vector<float> row;
        for (int i = 0; i < count; ++i) row.push_back(random.normal() * ldexpf(1.0f, i % 20 - 10));
        scale_of(row);
      }
    }
  }
}

double half_number(uint16_t half) {
  const int exponent = half >> 10 & 31;
  const double mantissa = half & 1023;
  if (exponent == 31) return mantissa == 0 ? INFINITY : NAN;
  return exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25);
}

int code_of(const uint8_t* codes, int64_t c) {
  return c % 2 == 0 ? codes[c / 2] % 16 : codes[c / 2] / 16;
}

// Numbers of one group of many kinds: near and far from 0, narrow and wide.
std::vector<float> group_of_kind(Random& random, int kind, int count) {
  std::vector<float> group;
  const float size = ldexpf(1.0f, static_cast<int>(random.below(40)) - 25);
  const float offset = size * ldexpf(random.normal(), static_cast<int>(random.below(12)));
  for (int i = 0; i < count; ++i) {
    float x = random.normal();
    if (kind == 1) x = fabsf(x);
    if (kind == 2) x = x * size + offset;
    if (kind == 3) x = offset;
    if (kind == 4) x = x * size;
    if (kind == 5) x = random.below(8) == 0 ? 40.0f * x : x;
    if (kind == 6) x = 0.0f;
    if (kind == 7) x = static_cast<float>(random.below(16)) - 8.0f;
    group.push_back(x);
  }
  return group;
}

void check_int4_group(const std::vector<float>& group, const std::vector<float>& back,
                      bool are_values, uint16_t scale, const char* where) {
  float low = are_values ? 0.0f : group[0], high = low;
  bool finite = true;
  for (const float x : group) {
    low = fminf(low, x);
    high = fmaxf(high, x);
    finite &= isfinite(x) != 0;
  }
  const double s = half_number(scale), range = double{high} - double{low};
  const double furthest = fmax(fabs(double{low}), fabs(double{high}));
  if (isnan(s)) {
    CHECK_THAT(!finite || range > 14.99 * 65504 || furthest > 118.9 * 65504, "%s: %g..%g", where,
               double{low}, double{high});
    for (const float x : back) CHECK_THAT(isnan(x), "%s: %g", where, double{x});
    return;
  }
  CHECK(finite);
  CHECK(s > 0.0 && s < INFINITY);
  for (size_t i = 0; i < group.size(); ++i) {
    const double x = double{group[i]}, error = fabs(double{back[i]} - x);
    CHECK_THAT(error <= (0.5 + 0x1p-15) * s + 0x1p-17, "%s: %.9g came back as %.9g, scale %g",
               where, x, double{back[i]}, s);
    if (*std::min_element(group.begin(), group.end()) ==
        *std::max_element(group.begin(), group.end())) {
      const double bound = are_values ? fabs(x) * 0x1p-10 + 0x1p-20 : fabs(x) * 0x1p-11 + 0x1p-24;
      CHECK_THAT(error <= bound, "%s: constant %.9g came back as %.9g", where, x, double{back[i]});
    }
  }
  // No coarser than the range, or the distance from 0, asks for; constants may have any scale.
  double coarsest = range / 15;
  if (furthest > 126 * range / 15) {
    coarsest = fmax(coarsest, furthest / (range * 134 > furthest ? 119 : 1));
  }
  CHECK_THAT(s <= coarsest * 1.01 + 0x1p-23, "%s: scale %g range %g", where, s, range);
}

QFA_TEST(values_of_4_bits_come_back_within_half_a_step) {
  for (const qfa_isa isa : testable_isas()) {
    const Kernels kernels = kernels_for(isa);
    Random random(11);
    for (int round = 0; round < 300; ++round) {
      for (const int group : {32, 64, 128}) {
        const int count = 1 + static_cast<int>(random.below(200));
        const int groups = (count + group - 1) / group;
        std::vector<float> row, back(static_cast<size_t>(count));
        for (int g = 0; g < groups; ++g) {
          const int length = std::min(group, count - g * group);
          const auto part = group_of_kind(random, round % 8, length);
          row.insert(row.end(), part.begin(), part.end());
        }
        std::vector<uint8_t> codes(static_cast<size_t>(count + 1) / 2, 0xee);
        std::vector<uint16_t> scale(static_cast<size_t>(groups));
        std::vector<int8_t> zero(static_cast<size_t>(groups));
        kernels.quantize_int4_row(row.data(), count, group, codes.data(), scale.data(),
                                  zero.data());
        if (count % 2 == 1) CHECK(codes.back() < 16);
        kernels.load_int4_row(codes.data(), scale.data(), zero.data(), group, count, back.data());
        for (int g = 0; g < groups; ++g) {
          const int start = g * group, end = std::min(start + group, count);
          check_int4_group({row.begin() + start, row.begin() + end},
                           {back.begin() + start, back.begin() + end}, true, scale[size_t(g)],
                           qfa_isa_name(isa));
        }
        for (int c = 0; c < count; ++c) {
          const size_t g = static_cast<size_t>(c / group);
          const double expected = half_number(scale[g]) * (code_of(codes.data(), c) - zero[g]);
          CHECK(isnan(expected) || double{back[size_t(c)]} == expected);
        }
      }
    }
  }
}

QFA_TEST(keys_of_4_bits_come_back_within_half_a_step) {
  for (const qfa_isa isa : testable_isas()) {
    const Kernels kernels = kernels_for(isa);
    Random random(12);
    for (int round = 0; round < 200; ++round) {
      const int64_t channels = 1 + random.below(150), stride = channels + 3;
      const int64_t bytes = (channels + 1) / 2, code_stride = bytes + 1;
      std::vector<float> keys(static_cast<size_t>(stride * 32)), back(keys.size(), -1.0f);
      for (int64_t c = 0; c < channels; ++c) {
        const auto group = group_of_kind(random, int(random.below(8)), 32);
        for (int64_t j = 0; j < 32; ++j) keys[size_t(j * stride + c)] = group[size_t(j)];
      }
      if (round % 5 == 0) keys[size_t(7 * stride)] = round % 2 == 0 ? NAN : INFINITY;
      if (round % 5 == 1) keys[size_t(9 * stride)] = -1e7f;
      std::vector<uint8_t> codes(static_cast<size_t>(code_stride * 32), 0xee);
      std::vector<uint16_t> scale(static_cast<size_t>(channels));
      std::vector<int8_t> zero(static_cast<size_t>(channels));
      kernels.quantize_int4_keys(keys.data(), stride, channels, codes.data(), code_stride,
                                 scale.data(), zero.data());
      kernels.load_int4_keys(codes.data(), code_stride, scale.data(), zero.data(), channels, 32,
                             back.data(), stride);
      for (int64_t c = 0; c < channels; ++c) {
        std::vector<float> group, returned;
        for (int64_t j = 0; j < 32; ++j) {
          group.push_back(keys[size_t(j * stride + c)]);
          returned.push_back(back[size_t(j * stride + c)]);
        }
        check_int4_group(group, returned, false, scale[size_t(c)], qfa_isa_name(isa));
      }
      for (int64_t j = 0; j < 32; ++j) {
        CHECK(codes[size_t(j * code_stride + bytes)] == 0xee);
        if (channels % 2 == 1) CHECK(codes[size_t(j * code_stride + bytes - 1)] < 16);
        CHECK(back[size_t(j * stride + channels)] == -1.0f);
      }
    }
  }
}

QFA_TEST(scores_of_4_bit_keys_are_near_those_of_their_numbers) {
  for (const qfa_isa isa : testable_isas()) {
    const Kernels kernels = kernels_for(isa);
    Random random(13);
    for (const int64_t channels : {1, 2, 40, 64, 80, 96, 128, 192, 256, 333}) {
      const int64_t bytes = (channels + 1) / 2;
      std::vector<float> keys, queries;
      for (int64_t i = 0; i < 32 * channels; ++i) keys.push_back(random.normal() + float(i % 3));
      for (int64_t i = 0; i < kMostFew * channels; ++i) queries.push_back(random.normal());
      std::vector<uint8_t> codes(static_cast<size_t>(bytes * 32));
      std::vector<uint16_t> scale(static_cast<size_t>(channels));
      std::vector<int8_t> zero(static_cast<size_t>(channels));
      quantize_int4_keys_scalar(keys.data(), channels, channels, codes.data(), bytes, scale.data(),
                                zero.data());
      std::vector<float> scores(kMostFew * kKeyBlock, -1.0f);
      kernels.few_int4_scores(codes.data(), bytes, scale.data(), zero.data(), channels,
                              queries.data(), kMostFew, scores.data());
      for (int64_t q = 0; q < kMostFew; ++q) {
        double most = 0.0;
        for (int64_t c = 0; c < channels; ++c) {
          most =
              fmax(most, fabs(queries[size_t(q * channels + c)] * half_number(scale[size_t(c)])));
        }
        for (int64_t j = 0; j < kKeyBlock; ++j) {
          const float got = scores[size_t(q * kKeyBlock + j)];
          if (j >= 32) {
            CHECK(got == -1.0f);
            continue;
          }
          double exact = 0.0, magnitude = 0.0;
          for (int64_t c = 0; c < channels; ++c) {
            const int steps = code_of(codes.data() + j * bytes, c) - zero[size_t(c)];
            exact += queries[size_t(q * channels + c)] * half_number(scale[size_t(c)]) * steps;
            magnitude += abs(steps);
          }
          const double bound = most / 254 * magnitude * 1.0001 + 1e-6;
          CHECK_THAT(fabs(double{got} - exact) <= bound, "%s channels %d: %g not %g",
                     qfa_isa_name(isa), int(channels), double{got}, exact);
        }
      }
    }
  }
}

QFA_TEST(weighted_4_bit_values_are_near_those_of_their_numbers) {
  for (const qfa_isa isa : testable_isas()) {
    const Kernels kernels = kernels_for(isa);
    Random random(14);
    for (const int64_t channels : {1, 32, 40, 64, 80, 96, 128, 192, 256, 333}) {
      for (const int64_t group : {32, 64, 128}) {
        const int keys = 1 + static_cast<int>(random.below(64)), queries = 5;
        const int64_t bytes = (channels + 1) / 2, groups = (channels + group - 1) / group;
        std::vector<float> row(static_cast<size_t>(channels)), weights, keep;
        std::vector<uint8_t> codes(static_cast<size_t>(bytes * keys));
        std::vector<uint16_t> scale(static_cast<size_t>(groups * keys));
        std::vector<int8_t> zero(scale.size());
        std::vector<double> numbers;
        for (int64_t j = 0; j < keys; ++j) {
          for (float& x : row) x = random.normal();
          quantize_int4_row_scalar(row.data(), channels, group, codes.data() + j * bytes,
                                   scale.data() + j * groups, zero.data() + j * groups);
          for (int64_t c = 0; c < channels; ++c) {
            const size_t g = static_cast<size_t>(j * groups + c / group);
            const int steps = code_of(codes.data() + j * bytes, c) - zero[g];
            numbers.push_back(half_number(scale[g]) * steps);
          }
        }
        for (int i = 0; i < queries * kKeyBlock; ++i) {
          weights.push_back(random.below(3) == 0 ? 0.0f : static_cast<float>(random.uniform()));
        }
        for (int q = 0; q < queries; ++q) keep.push_back(static_cast<float>(random.uniform()));
        const int64_t stride = channels + 5;
        std::vector<float> output(static_cast<size_t>(queries * stride));
        for (float& x : output) x = random.normal();
        const std::vector<float> before = output;
        const Int4Values values = {codes.data(), bytes, scale.data(), zero.data(),
                                   groups,       group, channels};
        kernels.few_int4_accumulate(values, weights.data(), queries, keys, keep.data(),
                                    output.data(), stride);
        for (int64_t q = 0; q < queries; ++q) {
          for (int64_t c = 0; c < stride; ++c) {
            const size_t at = static_cast<size_t>(q * stride + c);
            if (c >= channels) {
              CHECK(output[at] == before[at]);
              continue;
            }
            double exact = double{before[at]} * double{keep[size_t(q)]};
            double most = 0.0, steps = 0.0;
            for (int64_t j = 0; j < keys; ++j) {
              const double y = double{weights[size_t(q * kKeyBlock + j)]};
              const double number = numbers[size_t(j * channels + c)];
              const double s = half_number(scale[size_t(j * groups + c / group)]);
              exact += y * number;
              most = fmax(most, y * s);
              steps += fabs(number) / s;
            }
            const double bound = most / 510 * steps * 1.0001 + 1e-6;
            CHECK_THAT(fabs(double{output[at]} - exact) <= bound, "%s channels %d: %g not %g",
                       qfa_isa_name(isa), int(channels), double{output[at]}, exact);
          }
        }
      }
    }
  }
}

// What a key holds that no query sees changes nothing; what is seen and is no number shows.
QFA_TEST(scales_that_are_no_numbers_show_where_they_are_seen) {
  for (const qfa_isa isa : testable_isas()) {
    const Kernels kernels = kernels_for(isa);
    constexpr int64_t kChannels = 64, kBytes = 32;
    std::vector<uint8_t> codes(kBytes * kKeyBlock, 0x39);
    std::vector<int8_t> zero(2 * kKeyBlock, 3);
    std::vector<float> weights(2 * kKeyBlock, 0.5f);
    weights[5] = 0.0f;
    const float keep[2] = {1.0f, 1.0f};
    for (const uint16_t bad : {0x7e00, 0x7c00, 0xfc00, 0xbc00}) {  // NaN, infinities, -1
      std::vector<uint16_t> scale(2 * kKeyBlock, 0x3c00);
      scale[2 * 5] = bad;  // key 5, the first group of 32 channels
      std::vector<float> output(2 * kChannels, 0.0f);
      const Int4Values values = {codes.data(), kBytes, scale.data(), zero.data(), 2, 32, kChannels};
      kernels.few_int4_accumulate(values, weights.data(), 2, kKeyBlock, keep, output.data(),
                                  kChannels);
      for (int c = 0; c < kChannels; ++c) {
        const double steps = (c % 2 == 0 ? 9 : 3) - 3;
        CHECK(fabs(double{output[size_t(c)]} - 31.5 * steps) < 1e-3);
        const float second = output[size_t(kChannels + c)];
        CHECK(c < 32 ? isnan(second) : fabs(double{second} - 32 * steps) < 1e-3);
      }
    }
    // A weight that is no number, too; and weights of nothing leave what was there.
    std::vector<uint16_t> scale(2 * kKeyBlock, 0x3c00);
    const Int4Values values = {codes.data(), kBytes, scale.data(), zero.data(), 2, 32, kChannels};
    std::fill(weights.begin(), weights.end(), 0.0f);
    weights[kKeyBlock + 9] = NAN;
    std::vector<float> output(2 * kChannels, 2.0f);
    kernels.few_int4_accumulate(values, weights.data(), 2, kKeyBlock, keep, output.data(),
                                kChannels);
    for (int c = 0; c < kChannels; ++c) {
      CHECK(output[size_t(c)] == 2.0f && isnan(output[size_t(kChannels + c)]));
    }
  }
}

}  // namespace
}  // namespace qfa::test

QFA_TEST_MAIN
