#include "attention/status.h"

#include <stdarg.h>
#include <stdio.h>

namespace qfa {
namespace {

thread_local char text[512] = "";

}  // namespace

qfa_status fail(qfa_status status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  return status;
}

const char* failure_text() { return text; }

}  // namespace qfa
