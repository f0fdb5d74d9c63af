// One input of the fuzzer: a request, run by the scalar kernels and by another instruction set,
// which must agree to the bit and keep to their memory; then the same request spoiled, which must
// be refused.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "request.h"
#include "spoil.h"

namespace qfa::fuzz {
namespace {

[[noreturn]] void give_up(const char* what, const char* detail, const qfa_attention& a) {
  fprintf(stderr,
          "%s: %s\nB %lld H %lld Hkv %lld S %lld T %lld P %lld D %lld Dv %lld compute %d "
          "types %d %d %d cache %d shared %d\n",
          what, detail, static_cast<long long>(a.batch), static_cast<long long>(a.heads),
          static_cast<long long>(a.kv_heads), static_cast<long long>(a.query_length),
          static_cast<long long>(a.key_length), static_cast<long long>(a.past_length),
          static_cast<long long>(a.qk_channels), static_cast<long long>(a.v_channels),
          static_cast<int>(a.compute), static_cast<int>(a.query.dtype),
          static_cast<int>(a.key.dtype), static_cast<int>(a.value.dtype),
          static_cast<int>(a.kv_format), a.kv_shared);
  abort();
}

// Memory of exactly the size that is asked for, off any alignment, full of NaN; or none.
struct Memory {
  size_t offset;
  bool refuses;
  int live = 0;

  qfa_allocator interface() {
    return {this,
            [](void* context, size_t bytes) -> void* {
              Memory& self = *static_cast<Memory*>(context);
              if (self.refuses) return nullptr;
              char* block = static_cast<char*>(malloc(bytes + self.offset));
              if (block == nullptr) return nullptr;
              memset(block, 0xff, bytes + self.offset);
              ++self.live;
              return block + self.offset;
            },
            [](void* context, void* pointer) {
              Memory& self = *static_cast<Memory*>(context);
              --self.live;
              free(static_cast<char*>(pointer) - self.offset);
            }};
  }
};

// Runs tasks one after the other, in an order of its own.
struct Tasks {
  size_t step;

  static void run(void* context, qfa_task task, void* argument, size_t count) {
    size_t step = static_cast<Tasks*>(context)->step % (count == 0 ? 1 : count);
    const auto divisor = [](size_t a, size_t b) {
      while (b != 0) {
        const size_t rest = a % b;
        a = b;
        b = rest;
      }
      return a;
    };
    while (divisor(step, count) != 1) ++step;
    for (size_t i = 0, at = 0; i < count; ++i, at = (at + step) % count) task(argument, at);
  }
};

qfa_isa draw_isa(Bytes& bytes) {
  qfa_isa usable[16];
  uint32_t count = 0;
  for (int i = 0; i < 16; ++i) {
    const qfa_isa isa = static_cast<qfa_isa>(i);
    if (isa == QFA_ISA_AUTO || qfa_isa_usable(isa) != 0) usable[count++] = isa;
  }
  return usable[bytes.below(count)];
}

// Products of bfloat16 add in an order of their own: the one exception from equal bits.
bool adds_like_scalar(const qfa_attention& a, qfa_isa isa) {
  if (isa == QFA_ISA_AUTO) qfa_default_isa(&isa, nullptr);
  const bool in_bfloat = isa == QFA_ISA_AVX512BF16 || isa == QFA_ISA_AMXINT8;
  return !in_bfloat || (a.compute != QFA_COMPUTE_FP8E4M3 && a.compute != QFA_COMPUTE_FP8E5M2);
}

bool is_nan(const uint8_t* bytes, qfa_dtype dtype) {
  uint32_t wide = 0;
  uint16_t narrow = 0;
  switch (dtype) {
    case QFA_FLOAT16:
      memcpy(&narrow, bytes, 2);
      return (narrow & 0x7fff) > 0x7c00;
    case QFA_BFLOAT16:
      memcpy(&narrow, bytes, 2);
      return (narrow & 0x7fff) > 0x7f80;
    default:
      memcpy(&wide, bytes, 4);
      return (wide & 0x7fffffffu) > 0x7f800000u;
  }
}

bool agree(const Target& a, const Target& b) {
  const uint8_t *x = a.buffer->data(), *y = b.buffer->data();
  const size_t size = static_cast<size_t>(a.element_bytes);
  for (size_t i = 0; i + size <= a.buffer->size(); i += size) {
    if (memcmp(x + i, y + i, size) == 0) continue;
    if (!a.is_number || !is_nan(x + i, a.dtype) || !is_nan(y + i, a.dtype)) return false;
  }
  return true;
}

void run_valid(Request& request, qfa_isa isa, const qfa_executor* executor, Memory memory) {
  const qfa_allocator allocator = memory.interface();
  const char* message = "";
  const qfa_status status =
      qfa_attention_run(&request.attention, isa, executor, &allocator, &message);
  const bool may_fail = memory.refuses && status == QFA_OUT_OF_MEMORY;
  if (status != QFA_OK && !may_fail) give_up("a valid request", message, request.attention);
  for (const auto& buffer : request.buffers) {
    if (may_fail ? !buffer->is_unchanged() : !buffer->kept_the_rest()) {
      give_up("wrote", "outside the rows of a target", request.attention);
    }
  }
  if (memory.live != 0) give_up("scratch", "was not released", request.attention);
}

void run_one(const uint8_t* data, size_t size) {
  Bytes head(data, size);
  const qfa_isa isa = draw_isa(head);
  constexpr int32_t kThreads[] = {1, 2, 3, 7, 16, 33, -1, INT32_MIN};
  Tasks tasks = {1 + size_t{head.byte()}};
  const qfa_executor executor = {&tasks, Tasks::run, kThreads[head.below(8)]};
  const size_t offset = head.below(64);
  const bool refuses = head.one_in(16);
  Bytes changes = head;
  for (int i = 0; i < 24; ++i) changes.byte();

  Bytes first = changes, second = changes;
  Request plain(first), other(second);
  run_valid(plain, QFA_ISA_SCALAR, nullptr, {0, false});
  run_valid(other, isa, &executor, {offset, refuses});
  const bool is_comparable =
      plain.is_repeatable && !refuses && adds_like_scalar(plain.attention, isa);
  for (size_t i = 0; i < plain.targets.size() && is_comparable; ++i) {
    if (!agree(plain.targets[i], other.targets[i])) {
      const char* name = qfa_isa_name(isa);
      give_up("differs from scalar", name == nullptr ? "the best set" : name, plain.attention);
    }
  }

  qfa_attention spoiled = other.attention;
  const bool asks = spoiled.batch != 0 && spoiled.heads != 0 && spoiled.query_length != 0 &&
                    spoiled.struct_size == sizeof(spoiled);
  const char* how = asks ? spoil(head, spoiled) : nullptr;
  const char* message = nullptr;
  Memory none = {0, true};
  const qfa_allocator empty = none.interface();
  if (how != nullptr) {
    const qfa_status status = qfa_attention_run(&spoiled, isa, &executor, &empty, &message);
    if (status == QFA_OK || status == QFA_OUT_OF_MEMORY) give_up("was accepted", how, spoiled);
    if (message == nullptr || message[0] == '\0') give_up("refused without a word", how, spoiled);
  }
  alignas(16) static uint8_t room[64];
  scramble(head, spoiled, room);
  // No memory: what is not refused must not begin.
  qfa_attention_run(&spoiled, static_cast<qfa_isa>(head.below(12)), &executor, &empty, &message);
}

}  // namespace
}  // namespace qfa::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  qfa::fuzz::run_one(data, size);
  return 0;
}
