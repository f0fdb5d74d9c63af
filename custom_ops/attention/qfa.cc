// The C interface.
#include "qfa/qfa.h"

#include <stdlib.h>

#include "attention/run.h"
#include "attention/status.h"
#include "kernels/arch.h"

namespace qfa {
namespace {

qfa_status choose_isa(qfa_isa wanted, qfa_isa* chosen) {
  *chosen = wanted;
  if (wanted == QFA_ISA_AUTO) {
    const char* name = getenv("QFA_ISA");
    if (name == nullptr || name[0] == '\0') {
      *chosen = best_isa();
      return QFA_OK;
    }
    *chosen = isa_from_name(name);
    if (*chosen == QFA_ISA_AUTO) {
      return fail(QFA_UNSUPPORTED_ISA,
                  "QFA_ISA is '%.40s', which is no instruction set; use scalar, avx2, avxvnni, "
                  "avx512vnni, avx512bf16, amxint8, neondot or neoni8mm, or unset it",
                  name);
    }
  }
  const char* name = qfa_isa_name(*chosen);
  if (name == nullptr) {
    return fail(QFA_UNSUPPORTED_ISA, "instruction set %d is unknown", static_cast<int>(*chosen));
  }
  if (!is_isa_supported(*chosen)) {
    return fail(QFA_UNSUPPORTED_ISA,
                "instruction set %s cannot be used here (processor, operating system or build); "
                "the best one here is %s%s",
                name, qfa_isa_name(best_isa()),
                wanted == QFA_ISA_AUTO ? "; change or unset QFA_ISA" : "");
  }
  return QFA_OK;
}

qfa_status report(qfa_status status, const char** message) {
  if (status != QFA_OK && message != nullptr) *message = failure_text();
  return status;
}

}  // namespace
}  // namespace qfa

extern "C" qfa_status qfa_attention_run(const qfa_attention* attention, qfa_isa isa,
                                        const qfa_executor* executor,
                                        const qfa_allocator* allocator, const char** message) {
  qfa_isa chosen = QFA_ISA_SCALAR;
  qfa_status status = qfa::choose_isa(isa, &chosen);
  if (status == QFA_OK) {
    status = qfa::run_attention(attention, qfa::kernels_for(chosen), executor, allocator);
  }
  return qfa::report(status, message);
}

extern "C" qfa_status qfa_default_isa(qfa_isa* isa, const char** message) {
  if (isa == nullptr) {
    return qfa::report(qfa::fail(QFA_INVALID_ARGUMENT, "isa is null"), message);
  }
  return qfa::report(qfa::choose_isa(QFA_ISA_AUTO, isa), message);
}

extern "C" const char* qfa_version(void) { return QFA_VERSION; }
