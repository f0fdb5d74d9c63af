#include "attention/run.h"

#include <inttypes.h>
#include <stdlib.h>

#include <atomic>

#include "attention/attend.h"
#include "attention/bfloats.h"
#include "attention/float_mode.h"
#include "attention/floats.h"
#include "attention/int4.h"
#include "attention/plan.h"
#include "attention/status.h"
#include "attention/stream.h"
#include "attention/validate.h"

namespace qfa {
namespace {

// One allocation of the caller's allocator, released at the end of the scope.
class Scratch {
 public:
  Scratch(const qfa_allocator* allocator, size_t bytes)
      : allocator_(allocator != nullptr && allocator->allocate != nullptr ? allocator : nullptr) {
    const size_t padded = bytes + kAlignment;
    block_ =
        allocator_ != nullptr ? allocator_->allocate(allocator_->context, padded) : malloc(padded);
  }
  ~Scratch() {
    if (block_ == nullptr) return;
    if (allocator_ == nullptr) {
      free(block_);
    } else if (allocator_->release != nullptr) {
      allocator_->release(allocator_->context, block_);
    }
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // Null when there was no memory.
  char* aligned() const {
    if (block_ == nullptr) return nullptr;
    const uintptr_t address = reinterpret_cast<uintptr_t>(block_);
    return static_cast<char*>(block_) + (kAlignment - address % kAlignment) % kAlignment;
  }

 private:
  static constexpr size_t kAlignment = 64;
  const qfa_allocator* allocator_;
  void* block_;
};

// Items that may be done in any order. Workers draw them from a counter; who computes an item
// changes none of its bits.
//
// Key/value heads with few queries stream through their keys, whole or, where heads are few, in
// chunks that are joined afterwards. Others are taken some at a time: first their keys and values
// are quantized, then their queries are answered.
struct Phase {
  const Plan& plan;
  const Kernels& kernels;
  char* head_memory;
  char* worker_memory;
  int64_t first_head;
  int64_t items;
  void (*item)(const Phase& phase, int64_t index, const WorkerScratch& scratch);
  std::atomic<int64_t> next{0};

  char* memory_of(int64_t local_head) const {
    return head_memory + static_cast<size_t>(local_head) * plan.head_bytes;
  }
};

void encode_item(const Phase& p, int64_t index, const WorkerScratch& scratch) {
  const int64_t local = index / p.plan.key_blocks, key_block = index % p.plan.key_blocks;
  const int64_t head = p.first_head + local;
  if (p.plan.computes_fp8()) {
    const BfloatBlock bfloats = head_bfloats_at(p.plan, p.memory_of(local));
    take_bfloat_block(p.plan, p.kernels, head, key_block, true, scratch,
                      p.plan.block_of(bfloats, key_block * kKeyBlock));
  } else if (p.plan.computes_float()) {
    const HeadFloats floats = head_floats_at(p.plan, p.memory_of(local));
    const int64_t first = key_block * kKeyBlock;
    widen_key_block(p.plan, p.kernels, head, key_block, true, scratch,
                    {floats.keys + first * p.plan.request.qk_channels,
                     floats.values + first * p.plan.value_channels, floats.spoil + first});
  } else {
    encode_key_block(p.plan, p.kernels, head, key_block, head_codes_at(p.plan, p.memory_of(local)),
                     scratch);
  }
}

void attend_item(const Phase& p, int64_t index, const WorkerScratch& scratch) {
  const int64_t local = index / p.plan.query_blocks;
  // The last queries of a causal head see the most keys: they start first, to end together.
  const int64_t query_block = p.plan.query_blocks - 1 - index % p.plan.query_blocks;
  const int64_t head = p.first_head + local;
  if (p.plan.computes_fp8()) {
    attend_bfloats(p.plan, p.kernels, head, query_block,
                   head_bfloats_at(p.plan, p.memory_of(local)), scratch);
  } else if (p.plan.computes_float()) {
    attend_floats(p.plan, p.kernels, head, query_block, head_floats_at(p.plan, p.memory_of(local)),
                  scratch);
  } else {
    attend(p.plan, p.kernels, head, query_block, head_codes_at(p.plan, p.memory_of(local)),
           scratch);
  }
}

void stream_item(const Phase& p, int64_t index, const WorkerScratch& scratch) {
  stream_head(p.plan, p.kernels, index, scratch);
}

void chunk_item(const Phase& p, int64_t index, const WorkerScratch& scratch) {
  const int64_t head = index / p.plan.key_chunks, chunk = index % p.plan.key_chunks;
  char* memory = p.memory_of(head) + static_cast<size_t>(chunk) * p.plan.chunk_bytes;
  stream_chunk(p.plan, p.kernels, head, chunk, chunk_state_at(p.plan, memory), scratch);
}

void keep_item(const Phase& p, int64_t index, const WorkerScratch&) {
  keep_open_keys(p.plan, index);
}

void join_item(const Phase& p, int64_t index, const WorkerScratch& scratch) {
  join_head(p.plan, p.kernels, index, p.memory_of(index), scratch);
}

void work(void* argument, size_t worker) {
  Phase& phase = *static_cast<Phase*>(argument);
  const FloatMode mode;
  const WorkerScratch scratch =
      worker_scratch_at(phase.plan, phase.worker_memory + worker * phase.plan.worker_bytes);
  phase.kernels.begin_work();
  for (;;) {
    const int64_t index = phase.next.fetch_add(1, std::memory_order_relaxed);
    if (index >= phase.items) break;
    phase.item(phase, index, scratch);
  }
  phase.kernels.end_work();
}

void run_phase(Phase& phase, const qfa_executor* executor) {
  const int64_t workers = phase.plan.workers < phase.items ? phase.plan.workers : phase.items;
  const bool parallel = executor != nullptr && executor->parallel_for != nullptr && workers > 1;
  if (parallel) {
    executor->parallel_for(executor->context, work, &phase, static_cast<size_t>(workers));
  } else if (workers > 0) {
    work(&phase, 0);
  }
}

}  // namespace

qfa_status run_attention(const qfa_attention* request, const Kernels& kernels,
                         const qfa_executor* executor, const qfa_allocator* allocator) {
  qfa_attention checked;
  qfa_status status = validate(request, &checked);
  if (status != QFA_OK || is_idle(checked)) return status;

  const bool serial = executor == nullptr || executor->parallel_for == nullptr;
  Plan plan;
  {
    const FloatMode mode;  // the factor of the scores is a product
    status = make_plan(checked, serial ? 1 : executor->threads, &plan);
  }
  if (status != QFA_OK) return status;

  const Scratch scratch(allocator, plan.scratch_bytes);
  char* memory = scratch.aligned();
  if (memory == nullptr) {
    return fail(QFA_OUT_OF_MEMORY,
                "no memory for %zu bytes of scratch (T %" PRId64 ", D %" PRId64 ", Dv %" PRId64
                ", %" PRId64 " workers); free memory or use fewer threads",
                plan.scratch_bytes, plan.keys, checked.qk_channels, checked.v_channels,
                plan.workers);
  }
  char* worker_memory = memory + static_cast<size_t>(plan.heads_at_once) * plan.head_bytes;
  plan.kept_open = worker_memory + static_cast<size_t>(plan.workers) * plan.worker_bytes;
  if (plan.open_bytes == 0) plan.kept_open = nullptr;
  const auto run = [&](int64_t head, int64_t items, auto item) {
    Phase phase = {plan, kernels, memory, worker_memory, head, items, item};
    run_phase(phase, executor);
  };
  if (plan.open_bytes != 0) run(0, plan.kv_heads_total, keep_item);
  if (plan.splits) {
    run(0, plan.kv_heads_total * plan.key_chunks, chunk_item);
    run(0, plan.kv_heads_total, join_item);
    return QFA_OK;
  }
  if (plan.streams) {
    run(0, plan.kv_heads_total, stream_item);
    return QFA_OK;
  }
  for (int64_t head = 0; head < plan.kv_heads_total; head += plan.heads_at_once) {
    const int64_t left = plan.kv_heads_total - head;
    const int64_t heads = left < plan.heads_at_once ? left : plan.heads_at_once;
    run(head, heads * plan.key_blocks, encode_item);
    run(head, heads * plan.query_blocks, attend_item);
  }
  return QFA_OK;
}

}  // namespace qfa
