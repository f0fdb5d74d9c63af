// Decoding with key/value caches of every format, token by token and several at a time.
#include "cache.h"

#include <math.h>
#include <string.h>

#include "attention/run.h"
#include "check.h"
#include "problem.h"

namespace qfa::test {
namespace {

constexpr double kBound = 5e-4;

qfa_status run(const qfa_attention& a, qfa_isa isa, const qfa_executor* executor = nullptr) {
  const char* message = "";
  const bool emulated = isa == QFA_ISA_AMXINT8 && qfa_isa_usable(isa) == 0;
  const qfa_status status = !emulated ? qfa_attention_run(&a, isa, executor, nullptr, &message)
                                      : run_attention(&a, kernels_for(isa), executor, nullptr);
  CHECK_THAT(status == QFA_OK, "status %d: %s", static_cast<int>(status), message);
  return status;
}

// A conversation: `all` holds every token's query, key and value; steps take some at a time, and
// each query sees the tokens up to its own.
struct Conversation {
  Problem all;
  CacheFormat format;
  std::vector<float> k_scales, v_scales;

  Conversation(const Extents& e, const CacheFormat& f, uint64_t seed) : all(), format(f) {
    all = Problem::random(e, seed);
    all.compute = f.compute();
    if (!f.per_channel) return;
    k_scales.assign(static_cast<size_t>(e.kv_heads * e.channels), 0.0f);
    v_scales.assign(static_cast<size_t>(e.kv_heads * e.value_channels), 0.0f);
    Random random(seed + 1);
    for (float& s : k_scales) s = 0.03f + 0.01f * static_cast<float>(random.uniform());
    for (float& s : v_scales) s = 0.03f + 0.01f * static_cast<float>(random.uniform());
  }

  // Tokens first..first + count - 1, whose output goes to `output`, of (B, H, N, Dv).
  qfa_attention step(int64_t first, int64_t count, std::vector<float>& output) const {
    const Extents& e = all.e;
    qfa_attention a = all.request(output.data());
    a.query_length = a.key_length = count;
    a.query.data = static_cast<const float*>(a.query.data) + first * e.channels;
    a.key.data = static_cast<const float*>(a.key.data) + first * e.channels;
    a.value.data = static_cast<const float*>(a.value.data) + first * e.value_channels;
    a.output = static_cast<float*>(a.output) + first * e.value_channels;
    a.is_causal = 1;
    a.queries_at_end = 1;
    if (format.per_channel) {
      a.k_channel_scale = k_scales.data();
      a.v_channel_scale = v_scales.data();
    }
    return a;
  }

  Cache cache(int64_t rows) const {
    const Extents& e = all.e;
    return Cache(format, e.batch, e.kv_heads, rows, e.channels, e.value_channels);
  }

  // The error of rows first..first + count - 1 against attention in double over what the cache
  // holds.
  double error(const Cache& cache, int64_t first, int64_t count, int64_t rows,
               const std::vector<float>& output) const {
    const Extents& e = all.e;
    const std::vector<int64_t> stored(static_cast<size_t>(e.batch), first + count);
    const std::vector<double> keys = cache.keys.decode(stored, k_scales);
    const std::vector<double> values = cache.values.decode(stored, v_scales);
    Problem exact = Problem::random(
        {e.batch, e.heads, e.kv_heads, count, first + count, e.channels, e.value_channels}, 1);
    exact.causal = exact.queries_at_end = true;
    const auto copy = [&](std::vector<float>& to, const std::vector<double>& from, int64_t width) {
      for (int64_t head = 0; head < e.batch * e.kv_heads; ++head) {
        for (int64_t i = 0; i < (first + count) * width; ++i) {
          to[static_cast<size_t>(head * (first + count) * width + i)] =
              static_cast<float>(from[static_cast<size_t>(head * rows * width + i)]);
        }
      }
    };
    copy(exact.key, keys, e.channels);
    copy(exact.value, values, e.value_channels);
    std::vector<float> actual;
    for (int64_t head = 0; head < e.batch * e.heads; ++head) {
      for (int64_t i = 0; i < count; ++i) {
        const size_t row = static_cast<size_t>(head * e.queries + first + i);
        const float* query = all.query.data() + row * static_cast<size_t>(e.channels);
        float* target = exact.query.data() + (head * count + i) * e.channels;
        memcpy(target, query, static_cast<size_t>(e.channels) * 4);
        const float* out = output.data() + row * static_cast<size_t>(e.value_channels);
        actual.insert(actual.end(), out, out + e.value_channels);
      }
    }
    return normalized_error(actual, exact.oracle());
  }
};

std::vector<float> empty_output(const Conversation& c) {
  return std::vector<float>(static_cast<size_t>(c.all.output_count()), -12345.0f);
}

Extents extents(int64_t tokens, int64_t channels = 64, int64_t value_channels = 64) {
  return {2, 4, 2, tokens, tokens, channels, value_channels};
}

// Runs the whole conversation in pieces, each from one cache to the next.
std::vector<float> converse(const Conversation& c, const std::vector<int64_t>& pieces, qfa_isa isa,
                            bool checks = false, const qfa_executor* executor = nullptr) {
  std::vector<float> output = empty_output(c);
  Cache past = c.cache(0);
  int64_t first = 0;
  for (const int64_t count : pieces) {
    Cache present = c.cache(first + count);
    qfa_attention a = c.step(first, count, output);
    set_cache(a, c.format, first > 0 ? &past : nullptr, &present);
    if (run(a, isa, executor) != QFA_OK) return output;
    if (checks) {
      const double error = c.error(present, first, count, first + count, output);
      CHECK_THAT(error <= kBound, "%s %s tokens %d+%d D %d: error %g", c.format.name,
                 qfa_isa_name(isa), static_cast<int>(first), static_cast<int>(count),
                 static_cast<int>(c.all.e.channels), error);
    }
    past = present;
    first += count;
  }
  return output;
}

// The same in one buffer, in place.
std::vector<float> converse_in_place(const Conversation& c, const std::vector<int64_t>& pieces,
                                     int64_t capacity, qfa_isa isa, Cache& buffer,
                                     const qfa_executor* executor = nullptr) {
  std::vector<float> output = empty_output(c);
  int64_t first = 0;
  for (const int64_t count : pieces) {
    const int64_t length = first + count;
    qfa_attention a = c.step(first, count, output);
    set_cache(a, c.format, &buffer, &buffer);
    a.kv_shared = 1;
    a.kv_length = &length;
    a.kv_length_count = 1;
    CHECK(buffer.keys.rows() == capacity);
    if (run(a, isa, executor) != QFA_OK) return output;
    first += count;
  }
  return output;
}

const std::vector<int64_t> kPieces = {40, 1, 1, 21, 1, 16, 3, 33, 1, 70, 2};

int64_t total(const std::vector<int64_t>& pieces) {
  int64_t sum = 0;
  for (const int64_t piece : pieces) sum += piece;
  return sum;
}

QFA_TEST(each_step_is_attention_over_what_the_cache_holds) {
  for (const CacheFormat& format : cache_formats()) {
    for (const auto& [d, dv] : {std::pair<int64_t, int64_t>{64, 64}, {80, 40}, {17, 33}}) {
      const Conversation c(extents(total(kPieces), d, dv), format, 1);
      converse(c, kPieces, QFA_ISA_AUTO, true);
    }
  }
}

// Numbers as a cache of `format` holds them, decoded by the tests' own code.
std::vector<float> held(const CacheFormat& format, const std::vector<float>& rows, int64_t heads,
                        int64_t count, int64_t channels) {
  const std::vector<float> query(static_cast<size_t>(heads * channels));
  std::vector<float> output(static_cast<size_t>(heads * channels));
  Problem p = Problem::random({1, heads, heads, 1, count, channels, channels}, 1);
  p.key = p.value = rows;
  qfa_attention a = p.request(output.data());
  Cache cache(format, 1, heads, count, channels, channels);
  set_cache(a, format, nullptr, &cache);
  run(a, QFA_ISA_AUTO);
  const std::vector<double> numbers = cache.keys.decode({count}, {});
  return std::vector<float>(numbers.begin(), numbers.end());
}

QFA_TEST(computing_in_8_bit_floats) {
  for (const CacheFormat& format : cache_formats()) {
    const bool is_e4m3 = format.kv_format == QFA_KV_FP8E4M3;
    if (!is_e4m3 && format.kv_format != QFA_KV_FP8E5M2) continue;
    for (const int64_t queries : {1, 5, 20, 100}) {
      for (const int64_t channels : {40, 64}) {
        Problem p = Problem::random({1, 4, 2, queries, 150, channels, channels}, 11);
        p.compute = is_e4m3 ? QFA_COMPUTE_FP8E4M3 : QFA_COMPUTE_FP8E5M2;
        p.causal = p.queries_at_end = true;
        const std::vector<float> output = p.run(QFA_ISA_AUTO);
        Problem exact = p;
        exact.query = held(format, p.query, 4, queries, channels);
        exact.key = held(format, p.key, 2, 150, channels);
        exact.value = held(format, p.value, 2, 150, channels);
        const double error = normalized_error(output, exact.oracle());
        CHECK_THAT(error <= 1e-4, "%s %d queries: error %g", format.name, static_cast<int>(queries),
                   error);
        const double coarse = normalized_error(output, p.oracle());
        CHECK_THAT(coarse > 1e-4 && coarse < (is_e4m3 ? 6e-3 : 3e-2), "%s: error %g", format.name,
                   coarse);
      }
    }
  }
}

QFA_TEST(same_bits_on_every_set) {
  for (const CacheFormat& format : cache_formats()) {
    const Conversation c(extents(total(kPieces), 80, 48), format, 2);
    const std::vector<float> scalar = converse(c, kPieces, QFA_ISA_SCALAR);
    for (const qfa_isa isa : testable_isas()) {
      CHECK_THAT(same_bits(converse(c, kPieces, isa), scalar), "%s %s", format.name,
                 qfa_isa_name(isa));
    }
  }
}

QFA_TEST(in_place_gives_the_same_bits) {
  constexpr int64_t kCapacity = 250;
  for (const CacheFormat& format : cache_formats()) {
    const Conversation c(extents(total(kPieces)), format, 3);
    Cache buffer = c.cache(kCapacity);
    const std::vector<float> apart = converse(c, kPieces, QFA_ISA_AUTO);
    const std::vector<float> together =
        converse_in_place(c, kPieces, kCapacity, QFA_ISA_AUTO, buffer);
    CHECK_THAT(same_bits(apart, together), "%s", format.name);
  }
}

// Where the buffers differ, all that the past held is in the present, too.
QFA_TEST(buffers_that_differ_are_copied) {
  constexpr int64_t kCapacity = 150;
  for (const CacheFormat& format : cache_formats()) {
    const Conversation c(extents(140), format, 4);
    Cache one = c.cache(kCapacity), past = c.cache(kCapacity), present = c.cache(kCapacity);
    std::vector<float> expected = empty_output(c), output = empty_output(c);
    int64_t first = 0;
    for (const int64_t count : {70, 5, 1, 64}) {
      const int64_t length = first + count;
      for (const bool in_place : {true, false}) {
        qfa_attention a = c.step(first, count, in_place ? expected : output);
        set_cache(a, format, in_place ? &one : &past, in_place ? &one : &present);
        a.kv_shared = 1;
        a.kv_length = &length;
        a.kv_length_count = 1;
        run(a, QFA_ISA_AUTO);
      }
      CHECK_THAT(one.keys == present.keys && one.values == present.values, "%s at %d", format.name,
                 static_cast<int>(length));
      past = present;
      first += count;
    }
    CHECK_THAT(same_bits(expected, output), "%s", format.name);
  }
}

// A cache of codes per token holds just what attention on numbers would code.
QFA_TEST(int8_per_token_is_attention_on_numbers) {
  const CacheFormat numbers = cache_formats()[0], codes = cache_formats()[1];
  const Conversation a(extents(total(kPieces), 80, 48), numbers, 5);
  const Conversation b(extents(total(kPieces), 80, 48), codes, 5);
  CHECK(same_bits(converse(a, kPieces, QFA_ISA_AUTO), converse(b, kPieces, QFA_ISA_AUTO)));
}

void run_on_this_thread(void*, qfa_task task, void* argument, size_t count) {
  while (count > 0) task(argument, --count);
}

// Long sequences of few heads are split among workers, whatever their number: chunks are joined to
// the same bits. Workers draw items backwards here.
QFA_TEST(splitting_long_sequences_changes_nothing) {
  const std::vector<int64_t> pieces = {2100, 1, 3, 12, 100, 1};
  for (const CacheFormat& format : cache_formats()) {
    Extents e = {1, 4, 1, total(pieces), total(pieces), 32, 32};
    const Conversation c(e, format, 6);
    const std::vector<float> serial = converse(c, pieces, QFA_ISA_AUTO);
    for (const int threads : {2, 3, 16}) {
      const qfa_executor executor = {nullptr, run_on_this_thread, threads};
      CHECK_THAT(same_bits(converse(c, pieces, QFA_ISA_AUTO, false, &executor), serial),
                 "%s %d threads", format.name, threads);
      Cache buffer = c.cache(2300);
      CHECK_THAT(
          same_bits(converse_in_place(c, pieces, 2300, QFA_ISA_AUTO, buffer, &executor), serial),
          "%s %d threads in place", format.name, threads);
    }
  }
}

// One query at a time, or all at once: a row has the same bits. Not with 4 bits, where calls with
// few queries multiply other codes.
QFA_TEST(rows_do_not_depend_on_how_many_there_are) {
  const std::vector<int64_t> once = {1200};
  std::vector<int64_t> pieces = {1090, 64, 32, 1, 2, 4, 1, 1, 5};
  for (const CacheFormat& format : cache_formats()) {
    if (format.kv_format == QFA_KV_INT4) continue;
    const Conversation c({1, 2, 1, 1200, 1200, 32, 32}, format, 7);
    CHECK_THAT(same_bits(converse(c, once, QFA_ISA_AUTO), converse(c, pieces, QFA_ISA_AUTO)), "%s",
               format.name);
  }
}

// Batches of different lengths, and garbage behind their tokens.
QFA_TEST(batches_have_lengths_of_their_own) {
  for (const CacheFormat& format : cache_formats()) {
    const Conversation c(extents(100), format, 8);
    Cache buffer = c.cache(128);
    std::vector<float> output = empty_output(c);
    // Both batches take 60 tokens, then batch 1 alone takes more: batch 0 repeats its last ones.
    int64_t lengths[2] = {60, 60};
    qfa_attention a = c.step(0, 60, output);
    set_cache(a, format, &buffer, &buffer);
    a.kv_shared = 1;
    a.kv_length = lengths;
    a.kv_length_count = 2;
    run(a, QFA_ISA_AUTO);
    const std::vector<float> before = output;
    a = c.step(56, 4, output);
    set_cache(a, format, &buffer, &buffer);
    a.kv_shared = 1;
    a.kv_length = lengths;
    a.kv_length_count = 2;
    lengths[1] = 64;
    run(a, QFA_ISA_AUTO);
    const auto row = [&](const std::vector<float>& from, int64_t batch, int64_t head) {
      const int64_t start = ((batch * 4 + head) * 100 + 56) * 64;
      return std::vector<float>(from.begin() + start, from.begin() + start + 4 * 64);
    };
    for (int64_t head = 0; head < 4; ++head) {
      const bool coarse = format.kv_format == QFA_KV_INT4;
      CHECK_THAT(coarse || same_bits(row(before, 0, head), row(output, 0, head)), "%s head %d",
                 format.name, static_cast<int>(head));
      // Twice the same tokens: other weights, but numbers.
      for (const float x : row(output, 1, head)) CHECK(isfinite(x));
      CHECK(!same_bits(row(before, 1, head), row(output, 1, head)));
    }
  }
}

QFA_TEST(present_alone_is_written_without_queries) {
  for (const CacheFormat& format : cache_formats()) {
    const Conversation c(extents(80), format, 9);
    std::vector<float> output = empty_output(c);
    Cache expected = c.cache(80), present = c.cache(80);
    qfa_attention a = c.step(0, 80, output);
    set_cache(a, format, nullptr, &expected);
    run(a, QFA_ISA_AUTO);
    a = c.step(0, 80, output);
    a.query_length = 0;
    set_cache(a, format, nullptr, &present);
    run(a, QFA_ISA_AUTO);
    CHECK_THAT(present.keys == expected.keys && present.values == expected.values, "%s",
               format.name);
  }
}

// One group then holds a whole row, however wide the group is.
QFA_TEST(groups_may_be_wider_than_rows) {
  const CacheFormat format = cache_formats()[4];
  CHECK(format.kv_format == QFA_KV_INT4 && format.v_group == 64);
  for (const int64_t count : {2, 40}) {
    const Conversation c(extents(count), format, 12);
    std::vector<float> expected = empty_output(c), output = empty_output(c);
    Cache one = c.cache(count), other = c.cache(count);
    qfa_attention a = c.step(0, count, expected);
    set_cache(a, format, nullptr, &one);
    run(a, QFA_ISA_AUTO);
    for (const int64_t group : {int64_t{96}, int64_t{4096}, INT64_MAX / 32 * 32}) {
      a = c.step(0, count, output);
      set_cache(a, format, nullptr, &other);
      a.v_group = group;
      run(a, QFA_ISA_AUTO);
      CHECK(same_bits(output, expected));
      CHECK(one.keys == other.keys && one.values == other.values);
    }
  }
}

// Sanitizers see that no sum with them overflows.
QFA_TEST(strides_of_what_has_one_row_may_be_anything) {
  for (const CacheFormat& format : cache_formats()) {
    Conversation c({1, 1, 1, 2, 2, 64, 64}, format, 13);
    std::vector<float> output = empty_output(c), expected = output;
    Cache past = c.cache(1);
    qfa_attention a = c.step(0, 1, output);
    set_cache(a, format, nullptr, &past);
    run(a, QFA_ISA_AUTO);
    a = c.step(1, 1, expected);
    set_cache(a, format, &past, nullptr);
    run(a, QFA_ISA_AUTO);
    a = c.step(1, 1, output);
    set_cache(a, format, &past, nullptr);
    for (qfa_tensor* t : {&a.query, &a.key, &a.value, &a.past_key, &a.past_value}) {
      t->batch_stride = t->head_stride = t->row_stride = INT64_MAX;
    }
    for (qfa_codes* side : {&a.past_keys, &a.past_values}) {
      for (int64_t& stride : side->codes_strides) stride = INT64_MAX;
      for (int64_t& stride : side->scale_strides) stride = INT64_MAX;
    }
    run(a, QFA_ISA_AUTO);
    const auto second = [](const std::vector<float>& from) {
      return std::vector<float>(from.begin() + 64, from.end());
    };
    CHECK_THAT(same_bits(second(output), second(expected)), "%s", format.name);
  }
}

// A batch that sees nothing, of a cache that holds nothing: its strides mean nothing.
QFA_TEST(a_cache_of_no_rows_is_not_looked_at) {
  for (const CacheFormat& format : cache_formats()) {
    const Conversation c(extents(70), format, 14);
    std::vector<float> output = empty_output(c);
    const int64_t lengths[] = {70, 0};
    qfa_attention a = c.step(0, 70, output);
    set_cache(a, format, nullptr, nullptr);
    a.kv_length = lengths;
    a.kv_length_count = 2;
    for (qfa_codes* side : {&a.past_keys, &a.past_values}) {
      for (int64_t& stride : side->codes_strides) stride = INT64_MAX;
      for (int64_t& stride : side->scale_strides) stride = INT64_MAX;
    }
    run(a, QFA_ISA_AUTO);
    for (size_t i = output.size() / 2; i < output.size(); ++i) CHECK(output[i] == 0.0f);
  }
}

QFA_TEST(what_does_not_fit_is_refused) {
  const std::vector<CacheFormat> formats = cache_formats();
  for (const CacheFormat& format : formats) {
    const Conversation c(extents(20), format, 10);
    std::vector<float> output = empty_output(c);
    Cache buffer = c.cache(64), other = c.cache(64);
    int64_t length = 30;
    const auto request = [&] {
      length = 30;
      qfa_attention a = c.step(0, 20, output);
      set_cache(a, format, &buffer, &buffer);
      a.kv_shared = 1;
      a.kv_length = &length;
      a.kv_length_count = 1;
      return a;
    };
    const auto refused = [&](const qfa_attention& a, const char* word) {
      const char* message = "";
      const qfa_status status = qfa_attention_run(&a, QFA_ISA_AUTO, nullptr, nullptr, &message);
      CHECK_THAT((status == QFA_INVALID_ARGUMENT || status == QFA_INVALID_SHAPE) &&
                     strstr(message, word) != nullptr,
                 "%s: status %d, %s", format.name, static_cast<int>(status), message);
    };
    qfa_attention a = request();
    for (const int64_t bad : {int64_t{19}, int64_t{65}, int64_t{-1}, INT64_MIN, INT64_MAX}) {
      a = request();
      length = bad;
      refused(a, "kv_length");
    }
    a = request();
    a.kv_length = nullptr;
    refused(a, "kv_length");
    a = request();
    a.kv_format = static_cast<qfa_kv_format>(99);
    refused(a, "kv_format");
    if (format.is_float()) {
      a = request();
      a.present_key.row_stride += 1;
      refused(a, "overlap");
      continue;
    }
    a = request();
    a.compute = format.compute() == QFA_COMPUTE_INT8 ? QFA_COMPUTE_FLOAT : QFA_COMPUTE_INT8;
    refused(a, "compute");
    a = request();
    a.kv_format = QFA_KV_FLOAT;
    refused(a, "kv_format");
    a = request();
    a.past_keys.codes = nullptr;
    refused(a, "past_keys.codes");
    a = request();
    a.present_values = other.keys.codes();
    a.present_values.codes = a.present_keys.codes;
    refused(a, "overlap");
    a = request();
    a.present_keys.codes = static_cast<char*>(a.present_keys.codes) + 1;
    refused(a, "overlap");
    a = request();
    a.past_keys.codes_strides[0] = INT64_MAX;
    refused(a, "past_keys.codes");
    if (format.per_channel) {
      a = request();
      a.v_channel_scale = nullptr;
      refused(a, "channel_scale");
      Conversation bad = c;
      bad.k_scales[3] = 0.0f;
      a.k_channel_scale = bad.k_scales.data();
      a.v_channel_scale = bad.v_scales.data();
      refused(a, "k_channel_scale[3]");
      a.batch = a.heads = 0;
      a.kv_heads = INT64_MAX / 2;
      refused(a, "scales per channel overflow");
    } else {
      a = request();
      a.past_values.scale = nullptr;
      refused(a, "past_values.scale");
    }
    if (format.kv_format == QFA_KV_INT4) {
      a = request();
      a.v_group = 16;
      refused(a, "v_group");
      a = request();
      a.present_keys.open = nullptr;
      refused(a, "open");
      a = request();
      a.past_values.zero_point = nullptr;
      refused(a, "zero_point");
    }
  }
}

}  // namespace
}  // namespace qfa::test

QFA_TEST_MAIN
