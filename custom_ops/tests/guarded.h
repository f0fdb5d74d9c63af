// A buffer between two pages that must not be touched: the first byte outside it ends the program.
#ifndef QFA_TESTS_GUARDED_H_
#define QFA_TESTS_GUARDED_H_

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

namespace qfa::test {

enum class Guard {
  kAfter,  // the buffer ends at the forbidden page, whatever its start is aligned to
  kBefore  // the buffer starts right behind a forbidden page
};

class Guarded {
 public:
  explicit Guarded(size_t bytes, Guard guard = Guard::kAfter) : bytes_(bytes) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t inner = (bytes + page - 1) / page * page;
    mapped_ = inner + 2 * page;
    map_ =
        static_cast<char*>(mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (map_ == MAP_FAILED) abort();
    if (inner != 0 && mprotect(map_ + page, inner, PROT_READ | PROT_WRITE) != 0) abort();
    data_ = map_ + page + (guard == Guard::kAfter ? inner - bytes : 0);
  }
  Guarded(const void* content, size_t bytes, Guard guard = Guard::kAfter) : Guarded(bytes, guard) {
    if (bytes != 0) memcpy(data_, content, bytes);
  }
  ~Guarded() { munmap(map_, mapped_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  template <typename T>
  T* as() {
    return reinterpret_cast<T*>(data_);
  }
  char* data() { return data_; }
  size_t size() const { return bytes_; }

 private:
  size_t bytes_, mapped_;
  char* map_;
  char* data_;
};

}  // namespace qfa::test

#endif  // QFA_TESTS_GUARDED_H_
