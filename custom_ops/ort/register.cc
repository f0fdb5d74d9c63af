// RegisterCustomOps: what SessionOptions.register_custom_ops_library calls.
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "ort/custom_op.h"
#include "ort/opspec.h"
#include "ort/ort_abi.h"
#include "ort/status.h"
#include "qfa/qfa.h"

namespace qfa::ort {
namespace {

struct Domain {
  explicit Domain(const OrtSlot* table) : ops(make_custom_ops(table)) {
    const OrtApi api(table);
    check(api, api.CreateCustomOpDomain(kDomain, &handle));
    for (const auto& op : ops) check(api, api.CustomOpDomain_Add(handle, op.get()));
  }

  std::vector<std::unique_ptr<CustomOp>> ops;
  OrtCustomOpDomain* handle = nullptr;
};

// One domain per copy of ONNX Runtime in the process. Never freed: sessions may outlive this
// library's destructors.
OrtCustomOpDomain* domain_of(const OrtSlot* table) {
  static std::mutex mutex;
  static auto& domains = *new std::map<const OrtSlot*, std::unique_ptr<Domain>>;
  const std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<Domain>& domain = domains[table];
  if (domain == nullptr) domain = std::make_unique<Domain>(table);
  return domain->handle;
}

std::string too_old(const OrtApiBase* base) {
  return std::string("qfa ") + qfa_version() + " needs ONNX Runtime 1." +
         std::to_string(kApiVersion) + " or later (tested: 1.24 to 1.31); this is " +
         base->GetVersionString() + "; run: pip install --upgrade onnxruntime";
}

}  // namespace
}  // namespace qfa::ort

extern "C" QFA_EXPORT qfa::ort::OrtStatus* RegisterCustomOps(qfa::ort::OrtSessionOptions* options,
                                                             const qfa::ort::OrtApiBase* base) {
  using namespace qfa::ort;
  const OrtSlot* table = base->GetApi(kApiVersion);
  if (table == nullptr) {
    // Every release has the first slot, which makes a status.
    const OrtSlot* oldest = base->GetApi(1);
    if (oldest == nullptr) return nullptr;
    const auto create_status = reinterpret_cast<decltype(OrtApi::CreateStatus)>(oldest[0]);
    return create_status(ORT_FAIL, too_old(base).c_str());
  }
  const OrtApi api(table);
  return guarded(api, [&] { check(api, api.AddCustomOpDomain(options, domain_of(table))); });
}
