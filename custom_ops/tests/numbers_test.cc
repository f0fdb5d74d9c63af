// The numbers that everything else stands on: logarithms, half precision, codes; for 2^x see
// exp2_test.cc.
#include <math.h>
#include <string.h>

#include "check.h"
#include "kernels/kernels.h"
#include "kernels/log2.h"
#include "kernels/reference/half.h"
#include "problem.h"

namespace qfa::test {
namespace {

QFA_TEST(log2_of_scales) {
  double worst = 0.0;
  for (uint32_t bits = 0x00800000u; bits < 0x7f800000u; bits += 997) {
    float x;
    memcpy(&x, &bits, 4);
    const double exact = log2(static_cast<double>(x));
    const double error = fabs(static_cast<double>(log2_of_scale(x)) - exact);
    worst = fmax(worst, error / fmax(1.0, fabs(exact)));
  }
  CHECK_THAT(worst <= 2e-7, "error %g", worst);
  for (int exponent = -126; exponent < 128; ++exponent) {
    CHECK(log2_of_scale(ldexpf(1.0f, exponent)) == static_cast<float>(exponent));
  }
  CHECK(isnan(log2_of_scale(NAN)) && isnan(log2_of_scale(-NAN)));
}

QFA_TEST(every_half_widens_exactly) {
  for (uint32_t half = 0; half < 0x10000; ++half) {
    const float got = float_from_half(static_cast<uint16_t>(half));
    const float expected = half_to_float(static_cast<uint16_t>(half));
    CHECK_THAT(isnan(expected) ? isnan(got) : memcmp(&got, &expected, 4) == 0, "%04x", half);
    if (!isnan(got)) CHECK(half_from_float(got) == half);
  }
}

QFA_TEST(floats_narrow_to_the_nearest_half) {
  // Around every half: the midpoint to its neighbour and the floats next to it.
  for (uint32_t half = 0; half < 0x7c00; ++half) {
    const double here = static_cast<double>(half_to_float(static_cast<uint16_t>(half)));
    const double next = half + 1 == 0x7c00
                            ? 65536.0
                            : static_cast<double>(half_to_float(static_cast<uint16_t>(half + 1)));
    const float middle = static_cast<float>((here + next) / 2.0);
    for (const float x : {middle, nextafterf(middle, 0.0f), nextafterf(middle, INFINITY)}) {
      CHECK_THAT(half_from_float(x) == float_to_half(x) && half_from_float(-x) == float_to_half(-x),
                 "%a", static_cast<double>(x));
    }
  }
  CHECK(half_from_float(INFINITY) == 0x7c00 && half_from_float(-1e30f) == 0xfc00);
  CHECK((half_from_float(NAN) & 0x7e00) == 0x7e00);
}

QFA_TEST(codes_are_the_nearest) {
  Random random(1);
  for (int trial = 0; trial < 200; ++trial) {
    float row[64];
    for (float& x : row)
      x = random.normal() * ldexpf(1.0f, static_cast<int>(random.below(60)) - 30);
    int8_t codes[64];
    const float scale = quantize_row_scalar(row, 64, 0.0f, codes);
    int largest = 0;
    for (int i = 0; i < 64; ++i) {
      const double error = fabs(static_cast<double>(row[i]) - codes[i] * double(scale));
      CHECK(error <= double(scale) * 0.50001);
      largest = codes[i] > largest ? codes[i] : (-codes[i] > largest ? -codes[i] : largest);
    }
    CHECK(largest == 127);
  }
}

QFA_TEST(static_codes_are_those_of_quantize_linear) {
  Random random(2);
  for (int trial = 0; trial < 200; ++trial) {
    float row[64];
    for (float& x : row) x = random.normal() * 3.0f;
    const float scale = static_cast<float>(random.uniform()) * 0.05f + 1e-3f;
    int8_t codes[64];
    CHECK(quantize_row_scalar(row, 64, scale, codes) == scale);
    for (int i = 0; i < 64; ++i) {
      const float steps = nearbyintf(row[i] / scale);
      CHECK(codes[i] == static_cast<int>(fminf(fmaxf(steps, -127.0f), 127.0f)));
    }
  }
}

// tanh, by way of a block whose scores are the arguments.
QFA_TEST(softcap_is_tanh) {
  for (const qfa_isa isa : testable_isas()) {
    const Kernels kernels = kernels_for(isa);
    double worst = 0.0;
    for (int step = 0; step < 2000; ++step) {
      alignas(64) static int32_t scores[kKeyBlock * kLanes];
      static float tile[kKeyBlock * kLanes], ones[kKeyBlock], query_scale[kLanes];
      for (int i = 0; i < kKeyBlock * kLanes; ++i) scores[i] = (step * 64 + i / 32) * 9 + i % 9;
      for (float& one : ones) one = 1.0f;
      // Arguments from 1e-6 to 10 of either sign.
      for (float& scale : query_scale) scale = step % 2 == 0 ? 1e-5f : -1e-6f;
      memset(tile, 0, sizeof(tile));
      kernels.cap_scores({kKeyBlock, 2, scores, 0, query_scale, ones, 1.0f, 1.0f, tile});
      for (int i = 0; i < kKeyBlock * kLanes; ++i) {
        const double exact =
            tanh(static_cast<double>(static_cast<float>(scores[i]) * query_scale[0]));
        if (exact == 0.0) continue;
        worst = fmax(worst, fabs(static_cast<double>(tile[i]) / exact - 1.0));
      }
    }
    CHECK_THAT(worst <= 2.5e-7, "%s %g", qfa_isa_name(isa), worst);
  }
}

}  // namespace
}  // namespace qfa::test

QFA_TEST_MAIN
