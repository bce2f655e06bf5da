/* A plugin that does what it is told to, wrong things above all. Calls name the deed by their
 * arguments or their text; settings name what goes wrong before the first call. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "zonda_plugin.h"

static const zonda_plugin_host *host;
static const zonda_host_log *host_log;
static const zonda_host_kv *host_kv;

static bool names(zonda_plugin_str text, const char *deed) {
  char quoted[64];
  size_t length = (size_t)snprintf(quoted, sizeof quoted, "\"%s\"", deed);
  size_t at;
  for (at = 0; at + length <= text.len; at++) {
    if (memcmp(text.ptr + at, quoted, length) == 0) return true;
  }
  return false;
}

/* Writes behind the host's back to every socket that the process has. */
static void meddle(const void *bytes, size_t length) {
  int descriptor;
  struct stat status;
  for (descriptor = 3; descriptor < 8; descriptor++) {
    if (fstat(descriptor, &status) == 0 && S_ISSOCK(status.st_mode)) {
      if (write(descriptor, bytes, length) < 0) abort();
      return;
    }
  }
}

static void meddle_with(const char *json) {
  unsigned char frame[256];
  size_t length = strlen(json);
  frame[0] = (unsigned char)length;
  frame[1] = frame[2] = frame[3] = 0;
  memcpy(frame + 4, json, length);
  meddle(frame, length + 4);
}

static void do_deed(zonda_plugin_str deed) {
  long count;
  if (names(deed, "segv")) {
    volatile int *nowhere = NULL;
    *nowhere = 1;
  }
  if (names(deed, "abort")) abort();
  if (names(deed, "exit")) _exit(0);
  if (names(deed, "hang")) for (;;) pause();
  if (names(deed, "spin")) for (;;) ;
  if (names(deed, "allocate")) {
    size_t gib;
    for (gib = 0; gib < 10; gib++) {
      char *memory = malloc((size_t)1 << 30);
      if (memory == NULL) abort();
      memset(memory, 1, (size_t)1 << 30);
    }
  }
  if (names(deed, "flood")) {
    for (count = 0; count < 1000000; count++) host_log->log(host, ZONDA_LOG_INFO, "flood flood flood");
  }
  if (names(deed, "print")) {
    for (count = 0; count < 1000000; count++) printf("flood \x1b[31m %ld\n", count);
    fflush(stdout);
  }
  if (names(deed, "garbage")) meddle("\x01\x02\x03\x04 no frame at all", 20);
  if (names(deed, "huge")) meddle("\xff\xff\xff\xff", 4);
  if (names(deed, "short")) {
    meddle("\x40\x00\x00\x00{", 5);
    _exit(0);
  }
  if (names(deed, "utf8")) meddle("\x04\x00\x00\x00\"\xff\xfe\"", 8);
  if (names(deed, "json")) meddle_with("{\"result\":{\"Ok\":17}}");
  if (names(deed, "twice")) meddle_with("{\"result\":{\"Ok\":\"1\"}}");
  if (names(deed, "again")) meddle_with("{\"ready\":{\"protocol\":1,\"tools\":[],"
                                        "\"judges_requests\":false,\"judges_answers\":false}}");
  if (names(deed, "keep")) meddle_with("{\"keep\":{\"key\":\"\",\"value\":\"x\"}}");
  if (names(deed, "children")) {
    if (fork() == 0) for (;;) pause();
    abort();
  }
}

static uint32_t tool_count(const zonda_plugin *plugin) {
  (void)plugin;
  return 1;
}

static bool tool_spec(const zonda_plugin *plugin, uint32_t index, const zonda_plugin_out *out) {
  static const char spec[] = "{\"name\":\"deed\",\"description\":\"Does it.\",\"parameters\":{}}";
  (void)plugin;
  (void)index;
  return out->write(out, spec, sizeof spec - 1);
}

static bool say(const zonda_plugin_out *out, const char *text) {
  return out->write(out, text, strlen(text));
}

static bool tool_call(const zonda_plugin *plugin, uint32_t index, zonda_plugin_str arguments,
                      const zonda_plugin_out *out) {
  extern char **environ;
  char text[64];
  (void)plugin;
  (void)index;
  do_deed(arguments);
  if (names(arguments, "error")) return say(out, "it cannot be"), false;
  if (names(arguments, "nonsense")) return say(out, "no JSON");
  if (names(arguments, "bytes")) return say(out, "\"\xff\"");
  if (names(arguments, "long")) {
    while (say(out, "0123456789abcdef")) continue;
    return true;
  }
  if (names(arguments, "environment")) {
    int count = 0, open = 0, descriptor;
    struct stat status;
    while (environ[count] != NULL) count++;
    for (descriptor = 3; descriptor < 256; descriptor++) open += fstat(descriptor, &status) == 0;
    sprintf(text, "[%d,%d]", count, open);
    return say(out, text);
  }
  if (names(arguments, "count")) {
    /* How often it was asked, in all of its lives. */
    char digits[16] = "";
    zonda_plugin_str value;
    unsigned at = 0;
    for (; at < 15; at++) {
      sprintf(digits, "%u", at);
      if (!host_kv->get(host, digits, out)) break;
    }
    value.ptr = "1";
    value.len = 1;
    return host_kv->set(host, digits, value) && say(out, "0");
  }
  return say(out, "{\"done\":true}");
}

static int32_t judge(const zonda_plugin *plugin, const zonda_plugin_texts *texts,
                     const zonda_plugin_change *change) {
  static const zonda_plugin_str other = {"changed", 7};
  size_t at;
  (void)plugin;
  for (at = 0; at < texts->texts_len; at++) {
    zonda_plugin_str text = texts->texts[at].text;
    do_deed(text);
    if (names(text, "reject")) return change->reject(change, 422, other), ZONDA_VERDICT_REJECT;
    if (names(text, "replace")) return change->replace(change, at, other), ZONDA_VERDICT_REPLACE;
    if (names(text, "beyond")) return change->replace(change, 999, other), ZONDA_VERDICT_REPLACE;
    if (names(text, "verdict")) return 77;
  }
  return ZONDA_VERDICT_PASS;
}

static const zonda_plugin_tool tool = {tool_count, tool_spec, tool_call};
static const zonda_plugin_filter filter = {judge, judge};

static bool init(const zonda_plugin *plugin) {
  (void)plugin;
  host_log = host->get_extension(host, ZONDA_EXT_LOG);
  host_kv = host->get_extension(host, ZONDA_EXT_KV);
  return host_log != NULL && host_kv != NULL && host->get_extension(host, "zonda.none/1") == NULL;
}

static bool activate(const zonda_plugin *plugin, zonda_plugin_str settings) {
  (void)plugin;
  do_deed(settings);
  if (names(settings, "refuse")) {
    host_log->log(host, ZONDA_LOG_ERROR, "these settings are not for me");
    return false;
  }
  return true;
}

static void nothing(const zonda_plugin *plugin) { (void)plugin; }

static const void *get_extension(const zonda_plugin *plugin, const char *id) {
  (void)plugin;
  if (strcmp(id, ZONDA_EXT_TOOL) == 0) return &tool;
  if (strcmp(id, ZONDA_EXT_FILTER) == 0) return &filter;
  return NULL;
}

static const zonda_plugin_descriptor descriptor = {
    ZONDA_PLUGIN_VERSION_INIT, "bad", "Bad", "zonda", "1.0.0", "Does what it is told to."};
static const zonda_plugin plugin = {&descriptor, NULL, init, nothing, activate, nothing, get_extension};

static uint32_t count(const zonda_plugin_factory *factory) {
  (void)factory;
  return 1;
}

static const zonda_plugin_descriptor *describe(const zonda_plugin_factory *factory, uint32_t index) {
  (void)factory;
  return index == 0 ? &descriptor : NULL;
}

static const zonda_plugin *create(const zonda_plugin_factory *factory, const zonda_plugin_host *its,
                                  const char *id) {
  (void)factory;
  host = its;
  return strcmp(id, descriptor.id) == 0 ? &plugin : NULL;
}

static const zonda_plugin_factory factory = {count, describe, create};

static bool entry_init(const char *path) { return path[0] == '/'; }
static void entry_deinit(void) {}
static const void *get_factory(const char *id) {
  return strcmp(id, ZONDA_PLUGIN_FACTORY) == 0 ? &factory : NULL;
}

#if defined(WRONG_MAJOR)
const zonda_plugin_entry_table zonda_plugin_entry = {{2, 0, 0}, entry_init, entry_deinit, get_factory};
#elif defined(NO_SYMBOL)
extern const zonda_plugin_entry_table other_entry;
ZONDA_PLUGIN_EXPORT const zonda_plugin_entry_table other_entry = {
    ZONDA_PLUGIN_VERSION_INIT, entry_init, entry_deinit, get_factory};
#else
const zonda_plugin_entry_table zonda_plugin_entry = {
    ZONDA_PLUGIN_VERSION_INIT, entry_init, entry_deinit, get_factory};
#endif
