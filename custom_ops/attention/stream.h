// Attention of few queries on many keys: every block of keys and values is taken from where it
// lies, brought into the format of the products, and answered at once.
#ifndef QFA_ATTENTION_STREAM_H_
#define QFA_ATTENTION_STREAM_H_

#include "attention/plan.h"
#include "kernels/kernels.h"

namespace qfa {

// Answers the queries of one key/value head (of B * Hkv) and writes its present cache.
void stream_head(const Plan& plan, const Kernels& kernels, int64_t kv_head,
                 const WorkerScratch& scratch);

// Takes one chunk of the keys of a head, and leaves what it found in `result`.
void stream_chunk(const Plan& plan, const Kernels& kernels, int64_t kv_head, int64_t chunk,
                  const ChunkState& result, const WorkerScratch& scratch);

// Joins the chunks of a head, plan.chunk_bytes apart, and writes the output.
void join_head(const Plan& plan, const Kernels& kernels, int64_t kv_head, char* chunks,
               const WorkerScratch& scratch);

}  // namespace qfa

#endif  // QFA_ATTENTION_STREAM_H_
