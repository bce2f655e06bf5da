/* A tool in C: how long this box has been running. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "zonda_plugin.h"

static const zonda_plugin_host *the_host;

static bool say(const zonda_plugin_out *out, const char *text) {
  return out->write(out, text, strlen(text));
}

static uint32_t tool_count(const zonda_plugin *plugin) {
  (void)plugin;
  return 1;
}

static bool tool_spec(const zonda_plugin *plugin, uint32_t index, const zonda_plugin_out *spec_json) {
  (void)plugin;
  (void)index;
  return say(spec_json,
             "{\"name\":\"uptime\",\"description\":\"Tells for how many seconds this box has been "
             "running.\",\"parameters\":{\"type\":\"object\",\"properties\":{}}}");
}

static bool tool_call(const zonda_plugin *plugin, uint32_t index, zonda_plugin_str arguments_json,
                      const zonda_plugin_out *result) {
  struct timespec now;
  char text[64];
  (void)plugin;
  (void)index;
  (void)arguments_json; /* it has no parameters: whatever the model wrote there is ignored */
  if (clock_gettime(CLOCK_MONOTONIC, &now) != 0) {
    say(result, "this box has no clock");
    return false;
  }
  snprintf(text, sizeof text, "{\"seconds\":%lld}", (long long)now.tv_sec);
  return say(result, text);
}

static const zonda_plugin_tool the_tool = {tool_count, tool_spec, tool_call};

static bool init(const zonda_plugin *plugin) {
  const zonda_host_log *log = the_host->get_extension(the_host, ZONDA_EXT_LOG);
  (void)plugin;
  if (log != NULL) log->log(the_host, ZONDA_LOG_INFO, "uptime is here");
  return true;
}

static bool activate(const zonda_plugin *plugin, zonda_plugin_str settings_json) {
  (void)plugin;
  (void)settings_json; /* it has no settings */
  return true;
}

static void nothing(const zonda_plugin *plugin) { (void)plugin; }

static const void *get_extension(const zonda_plugin *plugin, const char *id) {
  (void)plugin;
  return strcmp(id, ZONDA_EXT_TOOL) == 0 ? &the_tool : NULL;
}

static const zonda_plugin_descriptor the_descriptor = {
    ZONDA_PLUGIN_VERSION_INIT, "com.example.uptime", "Uptime", "Example", "1.0.0",
    "Tells how long this box has been running."};
static const zonda_plugin the_plugin = {&the_descriptor, NULL,    init,         nothing,
                                        activate,        nothing, get_extension};

static uint32_t count(const zonda_plugin_factory *factory) {
  (void)factory;
  return 1;
}

static const zonda_plugin_descriptor *descriptor(const zonda_plugin_factory *factory,
                                                 uint32_t index) {
  (void)factory;
  return index == 0 ? &the_descriptor : NULL;
}

static const zonda_plugin *create(const zonda_plugin_factory *factory,
                                  const zonda_plugin_host *host, const char *id) {
  (void)factory;
  the_host = host;
  return strcmp(id, the_descriptor.id) == 0 ? &the_plugin : NULL;
}

static const zonda_plugin_factory the_factory = {count, descriptor, create};

static bool entry_init(const char *plugin_path) {
  (void)plugin_path;
  return true;
}

static void entry_deinit(void) {}

static const void *get_factory(const char *id) {
  return strcmp(id, ZONDA_PLUGIN_FACTORY) == 0 ? &the_factory : NULL;
}

const zonda_plugin_entry_table zonda_plugin_entry = {ZONDA_PLUGIN_VERSION_INIT, entry_init,
                                                     entry_deinit, get_factory};
