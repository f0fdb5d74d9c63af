// The session's own threads and memory, in the form that the kernel library takes.
#ifndef QFA_ORT_SESSION_RESOURCES_H_
#define QFA_ORT_SESSION_RESOURCES_H_

#include <cstdint>

#include "ort/ort_abi.h"
#include "qfa/qfa.h"

namespace qfa::ort {

// Processors that this process may run on. An upper bound of the session's threads, whose number
// the runtime tells nobody: it only sizes the work into tasks, the pool runs as many at a time as
// it has threads.
int32_t usable_processors();

// Runs tasks on the session's intra-op pool.
class PoolExecutor {
 public:
  PoolExecutor(const OrtApi& api, const OrtKernelContext* context) : api_(api), context_(context) {}

  qfa_executor as_c();

 private:
  static void parallel_for(void* self, qfa_task task, void* argument, size_t count) noexcept;

  const OrtApi& api_;
  const OrtKernelContext* context_;
};

// Takes scratch memory from the session's allocator, which keeps it between calls (and counts it).
class SessionAllocator {
 public:
  SessionAllocator(const OrtApi& api, const OrtKernelContext* context, const OrtMemoryInfo* memory);
  ~SessionAllocator();
  SessionAllocator(const SessionAllocator&) = delete;
  SessionAllocator& operator=(const SessionAllocator&) = delete;

  qfa_allocator as_c();

 private:
  static void* allocate(void* self, size_t bytes) noexcept;
  static void release(void* self, void* pointer) noexcept;

  const OrtApi& api_;
  OrtAllocator* allocator_ = nullptr;
};

}  // namespace qfa::ort

#endif  // QFA_ORT_SESSION_RESOURCES_H_
