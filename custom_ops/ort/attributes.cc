#include "ort/attributes.h"

#include <cmath>
#include <cstdlib>
#include <string_view>

#include "ort/status.h"

namespace qfa::ort {
namespace {

[[noreturn]] void reject(const std::string& text) { throw Failure(ORT_INVALID_ARGUMENT, text); }

// Runs a getter of the "tell me the size, then fill" family; false if the runtime refuses.
template <typename Getter>
bool read_text(const OrtApi& api, Getter&& getter, std::string* text) {
  size_t size = 0;
  if (!succeeded(api, getter(nullptr, &size))) return false;
  text->resize(size);
  if (!succeeded(api, getter(text->data(), &size))) return false;
  text->resize(size > 0 ? size - 1 : 0);  // the size counts the terminating zero
  return true;
}

bool fetch(const OrtApi& api, const OrtKernelInfo* info, const char* name, int64_t* value) {
  return succeeded(api, api.KernelInfoGetAttribute_int64(info, name, value));
}

bool fetch(const OrtApi& api, const OrtKernelInfo* info, const char* name, float* value) {
  return succeeded(api, api.KernelInfoGetAttribute_float(info, name, value));
}

bool fetch(const OrtApi& api, const OrtKernelInfo* info, const char* name, std::string* value) {
  return read_text(
      api,
      [&](char* text, size_t* size) {
        return api.KernelInfoGetAttribute_string(info, name, text, size);
      },
      value);
}

// The runtime reports a missing attribute and one of another type alike, so ask for each type.
bool present_as_another_type(const OrtApi& api, const OrtKernelInfo* info, const char* name) {
  int64_t integer;
  float real;
  std::string text;
  return fetch(api, info, name, &integer) || fetch(api, info, name, &real) ||
         fetch(api, info, name, &text);
}

void parse(const char* text, int64_t* value) { *value = std::strtoll(text, nullptr, 10); }
void parse(const char* text, float* value) { *value = std::strtof(text, nullptr); }
void parse(const char* text, std::string* value) { *value = text; }

template <typename Value>
void read(const OrtApi& api, const OrtKernelInfo* info, const char* name, const char* kind,
          bool required, const char* fallback, Value* value) {
  if (fetch(api, info, name, value)) return;
  if (present_as_another_type(api, info, name)) {
    reject("attribute " + std::string(name) + " has another type; write it as " + kind);
  }
  if (required) {
    reject("attribute " + std::string(name) + " (" + kind + ") is missing; it has no default");
  }
  parse(fallback, value);
}

// `choices` is "a|b|c"; empty allows everything.
void check_choice(const char* name, const std::string& value, std::string_view choices) {
  std::string shown;
  for (std::string_view rest = choices; !rest.empty();) {
    const size_t bar = rest.find('|');
    const std::string_view choice = rest.substr(0, bar);
    if (value == choice) return;
    shown += (shown.empty() ? "" : ", ") + std::string(choice);
    rest = bar == std::string_view::npos ? std::string_view() : rest.substr(bar + 1);
  }
  if (shown.empty()) return;
  reject("attribute " + std::string(name) + " is \"" + value + "\"; this library knows: " + shown);
}

void check_choice(const char*, int64_t, std::string_view) {}
void check_choice(const char*, float, std::string_view) {}

void check_flag(const char* name, int64_t value) {
  if (value == 0 || value == 1) return;
  reject("attribute " + std::string(name) + " is " + std::to_string(value) + "; it must be 0 or 1");
}

void check_window(const char* name, int64_t value) {
  if (value >= -1) return;
  reject("attribute " + std::string(name) + " is " + std::to_string(value) +
         "; it must be at least 0, or -1 for no limit");
}

// Which caches go with which arithmetic.
void check_cache(const Attributes& attributes) {
  const std::string& format = attributes.kv_format;
  const std::string& compute = attributes.compute_format;
  const bool is_integer = format == "int8" || format == "int4";
  const bool fits = is_integer ? compute == "int8" : compute == "float" || compute == format;
  if (format != "float" && !fits) {
    reject("kv_format is \"" + format + "\" and compute_format is \"" + compute +
           "\", but such a cache is computed in \"" +
           (is_integer ? "int8" : "float\" or \"" + format) + "\"");
  }
  if (attributes.kv_granularity == "channel" && format != "int8") {
    reject("kv_granularity is \"channel\" and kv_format is \"" + format +
           "\", but only an int8 cache has scales per channel; use kv_granularity \"token\"");
  }
  if (attributes.kv_granularity == "channel" && attributes.scale_mode == "static") {
    reject(
        "kv_granularity is \"channel\" and scale_mode is \"static\", but keys and values then have "
        "the scales of the cache; use scale_mode \"dynamic\"");
  }
  if (attributes.group_size < 32 || attributes.group_size % 32 != 0) {
    reject("attribute group_size is " + std::to_string(attributes.group_size) +
           "; it must be a multiple of 32");
  }
}

void validate(const Attributes& attributes) {
  const std::string heads = std::to_string(attributes.num_heads);
  const std::string kv_heads = std::to_string(attributes.kv_num_heads);
  if (attributes.num_heads < 1)
    reject("attribute num_heads is " + heads + "; it must be at least 1");
  if (attributes.kv_num_heads < 1) {
    reject("attribute kv_num_heads is " + kv_heads + "; it must be at least 1");
  }
  if (attributes.num_heads % attributes.kv_num_heads != 0) {
    reject("num_heads " + heads + " is no multiple of kv_num_heads " + kv_heads +
           "; each key/value head must serve the same number of query heads");
  }
  if (!std::isfinite(attributes.scale)) {
    reject("attribute scale is " + std::to_string(attributes.scale) +
           "; it must be finite (usually 1 / sqrt(D))");
  }
  check_flag("is_causal", attributes.is_causal);
  check_flag("queries_at_end", attributes.queries_at_end);
  check_window("left_window", attributes.left_window);
  check_window("right_window", attributes.right_window);
  if (!(std::isfinite(attributes.softcap) && attributes.softcap >= 0.0f)) {
    reject("attribute softcap is " + std::to_string(attributes.softcap) +
           "; it must be finite and not negative, 0 is off");
  }
  if (attributes.compute_format != "int8" && attributes.scale_mode == "static") {
    reject("compute_format is \"" + attributes.compute_format +
           "\" and scale_mode is \"static\", but static scales are those of int8; use scale_mode "
           "\"dynamic\"");
  }
  check_cache(attributes);
}

}  // namespace

std::string node_label(const OrtApi& api, const OrtKernelInfo* info) {
  std::string name;
  const auto node = [&](char* text, size_t* size) {
    return api.KernelInfo_GetNodeName(info, text, size);
  };
  if (read_text(api, node, &name) && !name.empty()) return "node '" + name + "'";
  const auto output = [&](char* text, size_t* size) {
    return api.KernelInfo_GetOutputName(info, 0, text, size);
  };
  read_text(api, output, &name);
  return "unnamed node with output '" + name + "'";
}

bool has_input(const OrtApi& api, const OrtKernelInfo* info, size_t index) {
  size_t count = 0;
  check(api, api.KernelInfo_GetInputCount(info, &count));
  if (index >= count) return false;
  std::string name;
  const auto input = [&](char* text, size_t* size) {
    return api.KernelInfo_GetInputName(info, index, text, size);
  };
  return read_text(api, input, &name) && !name.empty();
}

bool has_output(const OrtApi& api, const OrtKernelInfo* info, size_t index) {
  size_t count = 0;
  check(api, api.KernelInfo_GetOutputCount(info, &count));
  if (index >= count) return false;
  std::string name;
  const auto output = [&](char* text, size_t* size) {
    return api.KernelInfo_GetOutputName(info, index, text, size);
  };
  return read_text(api, output, &name) && !name.empty();
}

Attributes read_attributes(const OrtApi& api, const OrtKernelInfo* info) {
  Attributes attributes;
  // First of all, for a later schema may give every other attribute a new meaning.
  read(api, info, "schema_version", "int", false, "1", &attributes.schema_version);
  if (attributes.schema_version < 1 || attributes.schema_version > kSchemaVersion) {
    reject("attribute schema_version is " + std::to_string(attributes.schema_version) +
           ", but this library knows versions 1 to " + std::to_string(kSchemaVersion) +
           "; install the qfa-passes release that wrote the model, or a later one");
  }
#define QFA_ATTRIBUTE(name, kind, required, fallback, choices)         \
  read(api, info, #name, #kind, required, fallback, &attributes.name); \
  check_choice(#name, attributes.name, choices);
#include "ort/opspec.inc"
  validate(attributes);
  return attributes;
}

}  // namespace qfa::ort
