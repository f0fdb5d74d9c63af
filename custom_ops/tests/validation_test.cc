// Every request that is refused, with the status and the words that a caller needs.
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include <functional>
#include <string>

#include "check.h"
#include "problem.h"

namespace qfa::test {
namespace {

// A valid request, changed by `spoil`, must be refused with `status` and a message that has
// `words`.
void refuses(qfa_status status, const char* words,
             const std::function<void(qfa_attention&)>& spoil) {
  const Problem p = Problem::random({2, 4, 2, 5, 6, 8, 8}, 1);
  std::vector<float> output(static_cast<size_t>(p.output_count()), 7.0f);
  qfa_attention a = p.request(output.data());
  spoil(a);
  const char* message = "";
  const qfa_status got = qfa_attention_run(&a, QFA_ISA_SCALAR, nullptr, nullptr, &message);
  CHECK_THAT(got == status && strstr(message, words) != nullptr, "status %d, message '%s'",
             static_cast<int>(got), message);
  for (const float x : output) CHECK(x == 7.0f);
  // A caller that does not want the text.
  CHECK(qfa_attention_run(&a, QFA_ISA_SCALAR, nullptr, nullptr, nullptr) == status);
}

QFA_TEST(struct_sizes) {
  refuses(QFA_INVALID_ARGUMENT, "struct_size", [](auto& a) { a.struct_size = 0; });
  refuses(QFA_INVALID_ARGUMENT, "struct_size", [](auto& a) { a.struct_size -= 8; });
  refuses(QFA_INVALID_ARGUMENT, "struct_size", [](auto& a) { a.struct_size = UINT_MAX; });
  const char* message = nullptr;
  CHECK(qfa_attention_run(nullptr, QFA_ISA_SCALAR, nullptr, nullptr, &message) ==
        QFA_INVALID_ARGUMENT);
  CHECK(strstr(message, "null") != nullptr);
}

QFA_TEST(a_longer_struct_is_accepted_while_its_news_are_zero) {
  const Problem p = Problem::random({1, 1, 1, 2, 3, 8, 8}, 2);
  std::vector<float> output(static_cast<size_t>(p.output_count()));
  struct {
    qfa_attention known;
    char news[16];
  } longer;
  memset(&longer, 0, sizeof(longer));
  longer.known = p.request(output.data());
  longer.known.struct_size = sizeof(longer);
  CHECK(qfa_attention_run(&longer.known, QFA_ISA_SCALAR, nullptr, nullptr, nullptr) == QFA_OK);
  longer.news[15] = 1;
  const char* message = "";
  CHECK(qfa_attention_run(&longer.known, QFA_ISA_SCALAR, nullptr, nullptr, &message) ==
        QFA_INVALID_ARGUMENT);
  CHECK(strstr(message, "newer") != nullptr);
}

QFA_TEST(extents) {
  refuses(QFA_INVALID_SHAPE, "B -1", [](auto& a) { a.batch = -1; });
  refuses(QFA_INVALID_SHAPE, "T -5", [](auto& a) { a.key_length = -5; });
  refuses(QFA_INVALID_SHAPE, "H 4", [](auto& a) { a.kv_heads = 3; });
  refuses(QFA_INVALID_SHAPE, "Hkv 0", [](auto& a) { a.kv_heads = 0; });
  refuses(QFA_INVALID_SHAPE, "D 0", [](auto& a) { a.qk_channels = 0; });
  refuses(QFA_INVALID_SHAPE, "Dv 1025", [](auto& a) { a.v_channels = 1025; });
}

QFA_TEST(extents_that_overflow) {
  refuses(QFA_INVALID_SHAPE, "overflow", [](auto& a) { a.key_length = INT64_MAX; });
  refuses(QFA_INVALID_SHAPE, "overflow", [](auto& a) { a.query_length = INT64_MAX / 8; });
  refuses(QFA_INVALID_SHAPE, "overflow", [](auto& a) { a.batch = INT64_MAX; });
  refuses(QFA_INVALID_SHAPE, "overflow", [](auto& a) {
    a.heads = a.kv_heads = int64_t{1} << 40;
    a.key_length = int64_t{1} << 30;
  });
  refuses(QFA_INVALID_SHAPE, "strides of key", [](auto& a) { a.key.row_stride = INT64_MAX; });
  refuses(QFA_INVALID_SHAPE, "strides of output",
          [](auto& a) { a.output_batch_stride = INT64_MIN / 2; });
}

QFA_TEST(pointers) {
  refuses(QFA_INVALID_ARGUMENT, "query.data", [](auto& a) { a.query.data = nullptr; });
  refuses(QFA_INVALID_ARGUMENT, "key.data", [](auto& a) { a.key.data = nullptr; });
  refuses(QFA_INVALID_ARGUMENT, "value.data", [](auto& a) { a.value.data = nullptr; });
  refuses(QFA_INVALID_ARGUMENT, "output", [](auto& a) { a.output = nullptr; });
}

QFA_TEST(values) {
  refuses(QFA_INVALID_ARGUMENT, "scale is nan", [](auto& a) { a.scale = NAN; });
  refuses(QFA_INVALID_ARGUMENT, "scale is inf", [](auto& a) { a.scale = INFINITY; });
  refuses(QFA_INVALID_ARGUMENT, "rotation 7",
          [](auto& a) { a.rotation = static_cast<qfa_rotation>(7); });
  refuses(QFA_INVALID_ARGUMENT, "key 9", [](auto& a) { a.key.dtype = static_cast<qfa_dtype>(9); });
  refuses(QFA_INVALID_SHAPE, "D 4", [](auto& a) {
    a.qk_channels = 4;
    a.rotation = QFA_ROTATE_HADAMARD;
  });
}

QFA_TEST(static_scales) {
  static const float scales[] = {0.1f, 0.0f, -1.0f, NAN, INFINITY, 1e-40f};
  refuses(QFA_INVALID_SHAPE, "q_scale has 3", [](auto& a) {
    a.q_scale = scales;
    a.q_scale_count = 3;
  });
  for (int i = 1; i < 6; ++i) {
    refuses(QFA_INVALID_ARGUMENT, "k_scale[0]", [i](auto& a) {
      a.k_scale = scales + i;
      a.k_scale_count = 1;
    });
  }
  refuses(QFA_INVALID_ARGUMENT, "v_scale[1]", [](auto& a) {
    a.v_scale = scales;
    a.v_scale_count = 2;
  });
}

QFA_TEST(outputs_that_overlap_inputs) {
  refuses(QFA_INVALID_ARGUMENT, "overlaps key",
          [](auto& a) { a.key.data = static_cast<char*>(a.output) + 4; });
  refuses(QFA_INVALID_ARGUMENT, "overlaps value", [](auto& a) { a.value.data = a.output; });
  refuses(QFA_INVALID_ARGUMENT, "overlaps query",
          [](auto& a) { a.query.data = static_cast<char*>(a.output) + 4; });
  refuses(QFA_INVALID_ARGUMENT, "overlaps mask",
          [](auto& a) { a.mask = {a.output, {0, 0, 0, 1}}; });
  refuses(QFA_INVALID_ARGUMENT, "overlaps k_mean",
          [](auto& a) { a.k_mean = static_cast<float*>(a.output) - 1; });
  refuses(QFA_INVALID_ARGUMENT, "overlaps q_scale", [](auto& a) {
    a.q_scale = static_cast<float*>(a.output);
    a.q_scale_count = a.heads;
  });
}

QFA_TEST(output_in_place_of_the_query) {
  Problem p = Problem::random({2, 4, 2, 40, 70, 16, 16}, 3);
  const std::vector<float> expected = p.run(QFA_ISA_AUTO);
  const qfa_attention a = p.request(p.query.data());
  CHECK(qfa_attention_run(&a, QFA_ISA_AUTO, nullptr, nullptr, nullptr) == QFA_OK);
  CHECK(same_bits(p.query, expected));
}

QFA_TEST(requests_of_the_first_version) {
  const Problem p = Problem::random({1, 2, 1, 5, 70, 16, 16}, 4);
  std::vector<float> output(static_cast<size_t>(p.output_count()));
  qfa_attention a = p.request(output.data());
  a.struct_size = offsetof(qfa_attention, compute);
  // What lies behind its end is not looked at.
  memset(reinterpret_cast<char*>(&a) + a.struct_size, 0xff, sizeof(a) - a.struct_size);
  CHECK(qfa_attention_run(&a, QFA_ISA_AUTO, nullptr, nullptr, nullptr) == QFA_OK);
  CHECK(same_bits(output, p.run(QFA_ISA_AUTO)));
}

QFA_TEST(softcaps_windows_lengths_and_sinks) {
  static const float logits[4] = {1.0f, 1.0f, 1.0f, 1.0f};
  static const int64_t lengths[3] = {};
  refuses(QFA_INVALID_ARGUMENT, "softcap is -1", [](auto& a) { a.softcap = -1.0f; });
  refuses(QFA_INVALID_ARGUMENT, "softcap is nan", [](auto& a) { a.softcap = NAN; });
  refuses(QFA_INVALID_ARGUMENT, "softcap is inf", [](auto& a) { a.softcap = INFINITY; });
  refuses(QFA_INVALID_ARGUMENT, "left -2", [](auto& a) {
    a.has_left_window = 1;
    a.left_window = -2;
  });
  refuses(QFA_INVALID_ARGUMENT, "right -1", [](auto& a) {
    a.has_right_window = 1;
    a.right_window = -1;
  });
  refuses(QFA_INVALID_SHAPE, "kv_length has 3", [](auto& a) {
    a.kv_length = lengths;
    a.kv_length_count = 3;
  });
  refuses(QFA_INVALID_ARGUMENT, "sink 5", [](auto& a) {
    a.sink = logits;
    a.sink_dtype = static_cast<qfa_dtype>(5);
  });
  refuses(QFA_INVALID_ARGUMENT, "k_mean is given with a sink", [](auto& a) {
    a.sink = logits;
    a.k_mean = logits;
  });
  refuses(QFA_INVALID_ARGUMENT, "k_mean is given with a softcap", [](auto& a) {
    a.softcap = 1.0f;
    a.k_mean = logits;
  });
  refuses(QFA_INVALID_ARGUMENT, "compute 4",
          [](auto& a) { a.compute = static_cast<qfa_compute>(4); });
  refuses(QFA_INVALID_ARGUMENT, "float32 quantizes nothing with them", [](auto& a) {
    a.compute = QFA_COMPUTE_FLOAT;
    a.q_scale = logits;
    a.q_scale_count = 1;
  });
}

QFA_TEST(pasts_and_presents) {
  refuses(QFA_INVALID_SHAPE, "P -1", [](auto& a) { a.past_length = -1; });
  refuses(QFA_INVALID_SHAPE, "overflow", [](auto& a) { a.past_length = INT64_MAX; });
  refuses(QFA_INVALID_ARGUMENT, "past_key.data is null", [](auto& a) { a.past_length = 2; });
  refuses(QFA_INVALID_ARGUMENT, "must agree", [](auto& a) {
    a.past_length = 2;
    a.past_key = a.past_value = a.key;
    a.past_value.dtype = QFA_FLOAT16;
  });
  refuses(QFA_INVALID_ARGUMENT, "output overlaps past_value", [](auto& a) {
    a.past_length = 2;
    a.past_key = a.past_value = a.key;
    a.past_value.data = a.output;
  });
  refuses(QFA_INVALID_ARGUMENT, "present_key overlaps key",
          [](auto& a) { a.present_key.data = const_cast<void*>(a.key.data); });
  refuses(QFA_INVALID_ARGUMENT, "present_key overlaps output",
          [](auto& a) { a.present_key.data = a.output; });
  refuses(QFA_INVALID_SHAPE, "strides of present_value",
          [](auto& a) { a.present_value = {a.output, INT64_MAX, 0, 0}; });
}

QFA_TEST(empty_requests_need_no_pointers) {
  for (int axis = 0; axis < 3; ++axis) {
    qfa_attention a;
    memset(&a, 0, sizeof(a));
    a.struct_size = sizeof(a);
    a.batch = axis == 0 ? 0 : 2;
    a.heads = axis == 1 ? 0 : 2;
    a.kv_heads = a.heads;
    a.query_length = axis == 2 ? 0 : 3;
    a.key_length = 4;
    a.qk_channels = a.v_channels = 8;
    a.scale = 1.0f;
    CHECK(qfa_attention_run(&a, QFA_ISA_AUTO, nullptr, nullptr, nullptr) == QFA_OK);
  }
}

}  // namespace
}  // namespace qfa::test

QFA_TEST_MAIN
