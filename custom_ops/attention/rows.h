// From rows of tensors to codes.
#ifndef QFA_ATTENTION_ROWS_H_
#define QFA_ATTENTION_ROWS_H_

#include "attention/plan.h"
#include "kernels/kernels.h"

namespace qfa {

// row[i] = float(source[i]) - mean[i], whatever the type; mean may be null.
void load_row(const Kernels& kernels, qfa_dtype dtype, const void* source, const float* mean,
              int64_t count, float* row);

// One row of a tensor.
const char* row_of(const qfa_tensor& tensor, int64_t batch, int64_t head, int64_t row);

// One row of the joined keys or values (past ones first) of a key/value head. It is copied to
// present_key or present_value on the way, so it must be taken once.
const char* take_key(const qfa_attention& a, int64_t batch, int64_t head, int64_t token);
const char* take_value(const qfa_attention& a, int64_t batch, int64_t head, int64_t token);

// Quantizes 64 keys and values of one key/value head (of B * Hkv) into `codes`.
void encode_key_block(const Plan& plan, const Kernels& kernels, int64_t kv_head, int64_t key_block,
                      const HeadCodes& codes, const WorkerScratch& scratch);

// The query rows of one block: row r of a key/value head is query r % S of its query head r / S, so
// that heads which share keys also share a block.
struct QueryRows {
  int count;
  int64_t batch;
  int64_t head[kLanes];
  int64_t query[kLanes];
};

QueryRows query_rows(const Plan& plan, int64_t kv_head, int64_t query_block);

// Quantizes and packs query rows; lanes without a row get codes and scales of zero.
void encode_queries(const Plan& plan, const Kernels& kernels, const QueryRows& rows,
                    const WorkerScratch& scratch, float* query_scale);

// Divides each lane of scratch.output by `factor`'s inverse and writes it to the output tensor.
void store_rows(const Plan& plan, const Kernels& kernels, const QueryRows& rows,
                const float* factor, int vectors, const WorkerScratch& scratch);

}  // namespace qfa

#endif  // QFA_ATTENTION_ROWS_H_
