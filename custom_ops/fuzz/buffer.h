// Memory of exactly the size that a request needs, so that AddressSanitizer sees the first byte too
// many, with a record of what may be written.
#ifndef QFA_FUZZ_BUFFER_H_
#define QFA_FUZZ_BUFFER_H_

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

namespace qfa::fuzz {

class Buffer {
 public:
  // The data start `offset` bytes behind a good alignment.
  Buffer(size_t bytes, size_t offset)
      : block_(static_cast<uint8_t*>(malloc(offset + bytes))), offset_(offset), bytes_(bytes) {
    if (block_ == nullptr && offset + bytes != 0) abort();
  }
  ~Buffer() { free(block_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  uint8_t* data() const { return block_ + offset_; }
  size_t size() const { return bytes_; }

  // Elements of a target; nothing else may change after seal().
  void allow(int64_t first, int64_t bytes) {
    if (writable_.empty()) writable_.resize(bytes_);
    memset(writable_.data() + first, 1, static_cast<size_t>(bytes));
  }
  void seal() { before_.assign(data(), data() + bytes_); }
  bool is_target() const { return !writable_.empty(); }

  bool kept_the_rest() const {
    if (writable_.empty()) return is_unchanged();
    for (size_t i = 0; i < bytes_; ++i) {
      if (writable_[i] == 0 && data()[i] != before_[i]) return false;
    }
    return true;
  }
  bool is_unchanged() const { return bytes_ == 0 || memcmp(data(), before_.data(), bytes_) == 0; }

 private:
  uint8_t* block_;
  size_t offset_, bytes_;
  std::vector<uint8_t> writable_, before_;
};

}  // namespace qfa::fuzz

#endif  // QFA_FUZZ_BUFFER_H_
