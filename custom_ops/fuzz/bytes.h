// Reads decisions from the bytes of a fuzzer; zeros once there are none left, so that every input,
// of any length, means something, and the empty one means the smallest request.
#ifndef QFA_FUZZ_BYTES_H_
#define QFA_FUZZ_BYTES_H_

#include <stddef.h>
#include <stdint.h>

namespace qfa::fuzz {

class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), left_(size) {}

  uint8_t byte() {
    if (left_ == 0) return 0;
    --left_;
    return *data_++;
  }
  uint64_t word() {
    uint64_t word = 0;
    for (int i = 0; i < 8; ++i) word = word << 8 | byte();
    return word;
  }
  // 0 to end - 1; end is at most 65536.
  uint32_t below(uint32_t end) {
    const uint32_t low = byte();
    return end <= 256 ? low * end >> 8 : (low << 8 | byte()) * uint64_t{end} >> 16;
  }
  // Rare for the byte 0, so that an input that ends early has nothing special.
  bool one_in(uint32_t n) { return below(n) == n - 1; }

 private:
  const uint8_t* data_;
  size_t left_;
};

}  // namespace qfa::fuzz

#endif  // QFA_FUZZ_BYTES_H_
