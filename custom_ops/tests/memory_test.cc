// Memory: what the operator may touch, what it asks for, and what it does when there is none.
#include <stdlib.h>
#include <string.h>

#include <memory>

#include "amx_emulator.h"
#include "attention/run.h"
#include "check.h"
#include "guarded.h"
#include "kernels/kernels.h"
#include "problem.h"

namespace qfa::test {
namespace {

// Hands out memory filled with `fill`, `offset` bytes off any good alignment, between guard pages.
struct Allocator {
  int fill = 0;
  size_t offset = 0;
  int64_t live = 0, calls = 0;
  size_t largest = 0;
  bool refuse = false;
  Guarded* block = nullptr;

  qfa_allocator interface() {
    return {this,
            [](void* context, size_t bytes) -> void* {
              Allocator& self = *static_cast<Allocator*>(context);
              ++self.calls;
              if (bytes > self.largest) self.largest = bytes;
              if (self.refuse) return nullptr;
              ++self.live;
              self.block = new Guarded(bytes + self.offset, Guard::kBefore);
              memset(self.block->data(), self.fill, self.block->size());
              return self.block->data() + self.offset;
            },
            [](void* context, void*) {
              Allocator& self = *static_cast<Allocator*>(context);
              --self.live;
              delete self.block;
            }};
  }
};

qfa_status run(const qfa_attention& a, qfa_isa isa, const qfa_allocator* allocator) {
  return run_attention(&a, kernels_for(isa), nullptr, allocator);
}

QFA_TEST(scratch_content_and_alignment_do_not_matter) {
  for (const qfa_isa isa : testable_isas()) {
    for (const int64_t channels : {13, 40, 64, -40}) {
      const int64_t width = channels < 0 ? -channels : channels;
      Problem p = Problem::random({2, 2, 1, 37, 70, width, width}, 1);
      p.compute = channels < 0 ? QFA_COMPUTE_FLOAT : QFA_COMPUTE_INT8;
      p.causal = true;
      p.bias.assign(static_cast<size_t>(2 * 2 * 37 * 70), 0.25f);
      const std::vector<float> expected = p.run(isa);
      for (const int fill : {0x00, 0x7f, 0xff}) {  // 0x7f and 0xff make NaN of both signs
        for (const size_t offset : {size_t{0}, size_t{1}, size_t{33}}) {
          Allocator allocator;
          allocator.fill = fill;
          allocator.offset = offset;
          const qfa_allocator interface = allocator.interface();
          std::vector<float> output(expected.size());
          const qfa_attention a = p.request(output.data());
          CHECK(run(a, isa, &interface) == QFA_OK);
          CHECK(allocator.calls == 1 && allocator.live == 0);
          CHECK_THAT(same_bits(output, expected), "%s fill %d", qfa_isa_name(isa), fill);
        }
      }
    }
  }
}

// The same request with every tensor in a buffer of its own, between forbidden pages.
void check_guarded(const Problem& p, qfa_isa isa, Guard guard) {
  const std::vector<float> expected = p.run(isa);
  const std::vector<uint16_t> expected_half = p.output_half;
  std::vector<float> unused(expected.size());
  qfa_attention a = p.request(unused.data());
  const bool half = p.dtype != QFA_FLOAT32;
  const size_t element = half ? 2 : 4;
  std::vector<std::unique_ptr<Guarded>> buffers;
  const auto guarded = [&](const void* content, size_t bytes) -> void* {
    if (content == nullptr) return nullptr;
    buffers.push_back(std::make_unique<Guarded>(content, bytes, guard));
    return buffers.back()->data();
  };
  // Past and present rows of all heads lie in turns; only one head can be cut in two.
  const auto rows = [&](const qfa_tensor& t, int64_t count, int64_t channels) {
    return guarded(count == 0 ? nullptr : t.data, static_cast<size_t>(count * channels) * element);
  };
  a.query.data = guarded(a.query.data, p.query.size() * element);
  const int64_t heads = p.e.batch * p.e.kv_heads;
  CHECK(p.e.past == 0 || heads == 1);
  a.past_key.data = rows(a.past_key, p.e.past, p.e.channels);
  a.past_value.data = rows(a.past_value, p.e.past, p.e.value_channels);
  a.key.data = rows(a.key, heads * (p.e.keys - p.e.past), p.e.channels);
  a.value.data = rows(a.value, heads * (p.e.keys - p.e.past), p.e.value_channels);
  a.mask.data = guarded(a.mask.data, p.mask.size());
  a.bias.data = guarded(a.bias.data, 4 * p.bias.size());
  a.k_mean = static_cast<float*>(guarded(a.k_mean, 4 * p.k_mean.size()));
  a.sink = guarded(a.sink, 4 * p.sink.size());
  a.kv_length = static_cast<int64_t*>(guarded(a.kv_length, 8 * p.kv_length.size()));
  Guarded output(expected.size() * element, guard);
  a.output = output.data();
  Guarded key(p.key.size() * element, guard), value(p.value.size() * element, guard);
  const int64_t key_head = p.e.keys * p.e.channels, value_head = p.e.keys * p.e.value_channels;
  a.present_key = {key.data(), p.e.kv_heads * key_head, key_head, p.e.channels};
  a.present_value = {value.data(), p.e.kv_heads * value_head, value_head, p.e.value_channels};
  CHECK(run(a, isa, nullptr) == QFA_OK);
  const void* reference = half ? static_cast<const void*>(expected_half.data()) : expected.data();
  CHECK_THAT(memcmp(output.data(), reference, output.size()) == 0, "%s D %d", qfa_isa_name(isa),
             static_cast<int>(p.e.channels));
}

QFA_TEST(no_byte_outside_the_tensors_is_touched) {
  for (const qfa_isa isa : testable_isas()) {
    for (const Guard guard : {Guard::kAfter, Guard::kBefore}) {
      for (const qfa_dtype dtype : {QFA_FLOAT32, QFA_FLOAT16, QFA_BFLOAT16}) {
        for (const int64_t channels : {1, 13, 40, 64, 65}) {
          for (const qfa_compute compute : {QFA_COMPUTE_INT8, QFA_COMPUTE_FLOAT}) {
            Problem p = Problem::random({1, 2, 1, 35, 67, channels, channels}, 2, dtype);
            p.compute = compute;
            p.mask.assign(2 * 35 * 67, 1);
            for (size_t i = 0; i < p.mask.size(); i += 3) p.mask[i] = 0;
            p.bias.assign(2 * 35 * 67, 0.5f);
            p.k_mean.assign(static_cast<size_t>(channels), 0.125f);
            check_guarded(p, isa, guard);
            p.k_mean.clear();
            p.e.past = 30;
            p.sink.assign(2, 1.0f);
            p.kv_length.assign(1, 66);
            p.left_window = 20;
            p.softcap = 5.0f;
            check_guarded(p, isa, guard);
          }
        }
      }
    }
  }
}

QFA_TEST(unaligned_tensors) {
  for (const qfa_isa isa : testable_isas()) {
    const Problem p = Problem::random({1, 2, 1, 20, 40, 24, 24}, 3);
    const std::vector<float> expected = p.run(isa);
    std::vector<char> query(4 * p.query.size() + 1), key(4 * p.key.size() + 1),
        value(4 * p.value.size() + 1), output(4 * expected.size() + 1);
    memcpy(query.data() + 1, p.query.data(), query.size() - 1);
    memcpy(key.data() + 1, p.key.data(), key.size() - 1);
    memcpy(value.data() + 1, p.value.data(), value.size() - 1);
    std::vector<float> unused(expected.size());
    qfa_attention a = p.request(unused.data());
    a.query.data = query.data() + 1;
    a.key.data = key.data() + 1;
    a.value.data = value.data() + 1;
    a.output = output.data() + 1;
    CHECK(run(a, isa, nullptr) == QFA_OK);
    CHECK(memcmp(output.data() + 1, expected.data(), output.size() - 1) == 0);
  }
}

QFA_TEST(no_memory_is_a_status) {
  const Problem p = Problem::random({1, 2, 1, 20, 40, 16, 16}, 4);
  std::vector<float> output(static_cast<size_t>(p.output_count()), 7.0f);
  const qfa_attention a = p.request(output.data());
  Allocator allocator;
  allocator.refuse = true;
  const qfa_allocator interface = allocator.interface();
  const char* message = "";
  CHECK(qfa_attention_run(&a, QFA_ISA_AUTO, nullptr, &interface, &message) == QFA_OUT_OF_MEMORY);
  CHECK_THAT(strstr(message, "T 40") != nullptr, "%s", message);
  CHECK(output[0] == 7.0f);
  CHECK(qfa_attention_run(&a, QFA_ISA_AUTO, nullptr, nullptr, &message) == QFA_OK);
}

QFA_TEST(scratch_does_not_grow_with_queries_times_keys) {
  Allocator allocator;
  allocator.refuse = true;
  const qfa_allocator interface = allocator.interface();
  Problem p = Problem::random({1, 1, 1, 1, 1, 64, 64}, 5);
  std::vector<float> output(64);
  qfa_attention a = p.request(output.data());
  a.heads = a.kv_heads = 64;
  a.query_length = a.key_length = 1 << 20;
  // Nothing is read: the allocator refuses first. Tensors only have to have room.
  a.query.row_stride = a.key.row_stride = a.value.row_stride = 0;
  a.query.head_stride = a.key.head_stride = a.value.head_stride = 0;
  a.output_row_stride = a.output_head_stride = 0;
  CHECK(qfa_attention_run(&a, QFA_ISA_SCALAR, nullptr, &interface, nullptr) == QFA_OUT_OF_MEMORY);
  const size_t tokens = size_t{1} << 20;
  CHECK_THAT(allocator.largest < tokens * (64 + 64 + 16) + (1 << 20), "%zu", allocator.largest);
  a.compute = QFA_COMPUTE_FLOAT;
  CHECK(qfa_attention_run(&a, QFA_ISA_SCALAR, nullptr, &interface, nullptr) == QFA_OUT_OF_MEMORY);
  CHECK_THAT(allocator.largest < tokens * 4 * (64 + 64 + 1) + (1 << 20), "%zu", allocator.largest);
}

QFA_TEST(tensors_beyond_two_gigabytes_of_offsets) {
  // Rows a long way apart: address space is reserved, and only the rows themselves have memory.
  constexpr int64_t kStride = int64_t{3} << 28;  // floats: 3 GiB between rows
  const size_t bytes = static_cast<size_t>(kStride) * 4 * 2 + 4096;
  char* map = static_cast<char*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (map == MAP_FAILED) {
    printf("     not tested: no address space for %zu bytes\n", bytes);
    return;
  }
  const Problem p = Problem::random({1, 1, 1, 2, 3, 16, 16}, 6);
  const std::vector<float> expected = p.run(QFA_ISA_AUTO);
  for (int64_t t = 0; t < 3; ++t) {
    memcpy(map + 4 * kStride * t, p.key.data() + 16 * t, 64);
  }
  std::vector<float> output(expected.size());
  qfa_attention a = p.request(output.data());
  a.key.data = map;
  a.key.row_stride = kStride;
  CHECK(qfa_attention_run(&a, QFA_ISA_AUTO, nullptr, nullptr, nullptr) == QFA_OK);
  CHECK(same_bits(output, expected));
  munmap(map, bytes);
}

}  // namespace
}  // namespace qfa::test

QFA_TEST_MAIN
