// Rows of queries and of the output.
#ifndef QFA_ATTENTION_ROWS_H_
#define QFA_ATTENTION_ROWS_H_

#include "attention/plan.h"
#include "kernels/kernels.h"

namespace qfa {

// row[i] = float(source[i]) - mean[i], whatever the type; mean may be null.
void load_row(const Kernels& kernels, qfa_dtype dtype, const void* source, const float* mean,
              int64_t count, float* row);

// The query rows of one block: row r of a key/value head is query r % S of its query head r / S, so
// that heads which share keys also share a block.
struct QueryRows {
  int count;
  int64_t batch;
  int64_t head[kLanes];
  int64_t query[kLanes];
};

QueryRows query_rows(const Plan& plan, int64_t kv_head, int64_t query_block);

// The numbers of one of them.
const char* query_row(const Plan& plan, const QueryRows& rows, int lane);

// Quantizes query rows into scratch.queries, packed for lanes or, where queries are few, as rows;
// lanes without a row get codes and scales of zero.
void encode_queries(const Plan& plan, const Kernels& kernels, const QueryRows& rows,
                    const WorkerScratch& scratch, float* query_scale);

// Widens query rows into scratch.float_queries, as rows where queries are few; lanes without a row
// get zeros. For 4-bit keys queries are rotated as these are.
void widen_queries(const Plan& plan, const Kernels& kernels, const QueryRows& rows,
                   const WorkerScratch& scratch);

// Multiplies each row of `output` (see ChunkState) by its factor, and writes it to the output
// tensor. `rows_memory` is scratch.rows.
void store_rows(const Plan& plan, const Kernels& kernels, const QueryRows& rows,
                const float* factor, int vectors, const float* output, float* rows_memory);

}  // namespace qfa

#endif  // QFA_ATTENTION_ROWS_H_
