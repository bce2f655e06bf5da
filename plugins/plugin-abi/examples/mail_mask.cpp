// A filter in C++: masks e-mail addresses in what the model reads and in what it says.
#include <cstring>
#include <exception>
#include <string>

#include "zonda_plugin.h"

namespace {

bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '_' || c == '-' || c == '+';
}

// Puts [mail] in the place of every word@word; false where there is none.
bool mask(std::string &text) {
  bool found = false;
  std::string::size_type at = 0;
  while ((at = text.find('@', at)) != std::string::npos) {
    std::string::size_type begin = at, end = at + 1;
    while (begin > 0 && is_word(text[begin - 1])) --begin;
    while (end < text.size() && is_word(text[end])) ++end;
    // A dot behind an address ends the sentence.
    while (end > at + 1 && text[end - 1] == '.') --end;
    if (begin == at || end == at + 1) {
      ++at;
      continue;
    }
    text.replace(begin, end - begin, "[mail]");
    at = begin + std::strlen("[mail]");
    found = true;
  }
  return found;
}

int32_t judge(const zonda_plugin *, const zonda_plugin_texts *texts,
              const zonda_plugin_change *change) {
  try {
    int32_t verdict = ZONDA_VERDICT_PASS;
    for (size_t at = 0; at < texts->texts_len; ++at) {
      const zonda_plugin_str given = texts->texts[at].text;
      std::string text(given.len == 0 ? "" : given.ptr, given.len);
      if (!mask(text)) continue;
      change->replace(change, at, zonda_plugin_str{text.data(), text.size()});
      verdict = ZONDA_VERDICT_REPLACE;
    }
    return verdict;
  } catch (const std::exception &) {
    // No exception may leave; what cannot be judged is refused.
    return ZONDA_VERDICT_REJECT;
  }
}

const zonda_plugin_filter the_filter = {judge, judge};

bool init(const zonda_plugin *) { return true; }
bool activate(const zonda_plugin *, zonda_plugin_str) { return true; }
void nothing(const zonda_plugin *) {}

const void *get_extension(const zonda_plugin *, const char *id) {
  return std::strcmp(id, ZONDA_EXT_FILTER) == 0 ? &the_filter : nullptr;
}

const zonda_plugin_descriptor the_descriptor = {
    ZONDA_PLUGIN_VERSION_INIT, "com.example.mail-mask", "Mail mask", "Example", "1.0.0",
    "Masks e-mail addresses."};
const zonda_plugin the_plugin = {&the_descriptor, nullptr, init,         nothing,
                                 activate,        nothing, get_extension};

uint32_t count(const zonda_plugin_factory *) { return 1; }

const zonda_plugin_descriptor *descriptor(const zonda_plugin_factory *, uint32_t index) {
  return index == 0 ? &the_descriptor : nullptr;
}

const zonda_plugin *create(const zonda_plugin_factory *, const zonda_plugin_host *, const char *id) {
  return std::strcmp(id, the_descriptor.id) == 0 ? &the_plugin : nullptr;
}

const zonda_plugin_factory the_factory = {count, descriptor, create};

bool entry_init(const char *) { return true; }
void entry_deinit() {}

const void *get_factory(const char *id) {
  return std::strcmp(id, ZONDA_PLUGIN_FACTORY) == 0 ? &the_factory : nullptr;
}

}  // namespace

extern "C" const zonda_plugin_entry_table zonda_plugin_entry = {
    ZONDA_PLUGIN_VERSION_INIT, entry_init, entry_deinit, get_factory};
