// Errors inside the adapter are exceptions; at its border they become OrtStatus. Nothing is thrown
// across the C interface.
#ifndef QFA_ORT_STATUS_H_
#define QFA_ORT_STATUS_H_

#include <exception>
#include <new>
#include <string>
#include <utility>

#include "ort/ort_abi.h"

namespace qfa::ort {

class Failure : public std::exception {
 public:
  Failure(OrtErrorCode code, std::string text) : code_(code), text_(std::move(text)) {}
  const char* what() const noexcept override { return text_.c_str(); }
  OrtErrorCode code() const noexcept { return code_; }

 private:
  OrtErrorCode code_;
  std::string text_;
};

// Throws what the runtime reported.
inline void check(const OrtApi& api, OrtStatus* status) {
  if (status == nullptr) return;
  std::string text = api.GetErrorMessage(status);
  api.ReleaseStatus(status);
  throw Failure(ORT_RUNTIME_EXCEPTION, std::move(text));
}

// True if the call succeeded; what it reported is dropped.
inline bool succeeded(const OrtApi& api, OrtStatus* status) {
  if (status == nullptr) return true;
  api.ReleaseStatus(status);
  return false;
}

// Runs `body`; what fails in it is told with the place in front.
template <typename Body>
void in_context(const std::string& place, Body&& body) {
  try {
    body();
  } catch (const Failure& failure) {
    throw Failure(failure.code(), place + ": " + failure.what());
  } catch (const std::bad_alloc&) {
    throw Failure(ORT_RUNTIME_EXCEPTION, place + ": out of memory");
  }
}

// Runs `body` and turns whatever it throws into a status.
template <typename Body>
OrtStatus* guarded(const OrtApi& api, Body&& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const Failure& failure) {
    return api.CreateStatus(failure.code(), failure.what());
  } catch (const std::bad_alloc&) {
    return api.CreateStatus(ORT_RUNTIME_EXCEPTION, "QuantFlashAttention: out of memory");
  } catch (const std::exception& error) {
    return api.CreateStatus(ORT_RUNTIME_EXCEPTION, error.what());
  } catch (...) {
    return api.CreateStatus(ORT_RUNTIME_EXCEPTION, "QuantFlashAttention: unknown C++ exception");
  }
}

}  // namespace qfa::ort

#endif  // QFA_ORT_STATUS_H_
