#include "ort/session_resources.h"

#if defined(__linux__)
#include <sched.h>
#endif

#include <thread>

#include "ort/status.h"

namespace qfa::ort {

int32_t usable_processors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
#endif
  const unsigned count = std::thread::hardware_concurrency();
  return count == 0 ? 1 : static_cast<int32_t>(count);
}

qfa_executor PoolExecutor::as_c() {
  static const int32_t threads = usable_processors();
  return {this, &PoolExecutor::parallel_for, threads};
}

void PoolExecutor::parallel_for(void* self, qfa_task task, void* argument, size_t count) noexcept {
  if (count == 0) return;
  const auto* executor = static_cast<PoolExecutor*>(self);
  // As many batches as tasks: threads fetch one task at a time, so uneven tasks balance out.
  OrtStatus* status =
      executor->api_.KernelContext_ParallelFor(executor->context_, task, count, count, argument);
  if (succeeded(executor->api_, status)) return;
  // The runtime refuses before it starts anything (a null function, a missing pool).
  for (size_t index = 0; index < count; ++index) task(argument, index);
}

SessionAllocator::SessionAllocator(const OrtApi& api, const OrtKernelContext* context,
                                   const OrtMemoryInfo* memory)
    : api_(api) {
  check(api, api.KernelContext_GetAllocator(context, memory, &allocator_));
}

SessionAllocator::~SessionAllocator() { api_.ReleaseAllocator(allocator_); }

qfa_allocator SessionAllocator::as_c() {
  return {this, &SessionAllocator::allocate, &SessionAllocator::release};
}

void* SessionAllocator::allocate(void* self, size_t bytes) noexcept {
  auto* memory = static_cast<SessionAllocator*>(self);
  void* pointer = nullptr;
  if (!succeeded(memory->api_, memory->api_.AllocatorAlloc(memory->allocator_, bytes, &pointer))) {
    return nullptr;
  }
  return pointer;
}

void SessionAllocator::release(void* self, void* pointer) noexcept {
  auto* memory = static_cast<SessionAllocator*>(self);
  succeeded(memory->api_, memory->api_.AllocatorFree(memory->allocator_, pointer));
}

}  // namespace qfa::ort
