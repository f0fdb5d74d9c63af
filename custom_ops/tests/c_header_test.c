/* The header is C, and the interface can be used from it. */
#include <string.h>

#include "qfa/qfa.h"

int main(void) {
  float query[8] = {1}, key[8] = {1}, value[8] = {2}, output[8] = {0};
  qfa_attention a;
  const char* message = "";
  memset(&a, 0, sizeof(a));
  a.struct_size = sizeof(a);
  a.batch = a.heads = a.kv_heads = a.query_length = a.key_length = 1;
  a.qk_channels = a.v_channels = 8;
  a.query.data = query;
  a.key.data = key;
  a.value.data = value;
  a.scale = 1.0f;
  a.output = output;
  if (qfa_attention_run(&a, QFA_ISA_AUTO, 0, 0, &message) != QFA_OK) return 1;
  return output[0] > 1.99f && output[0] < 2.01f && output[1] == 0.0f ? 0 : 2;
}
