/* zonda_plugin.h: the C ABI for plugins of zonda. Interface 1.0.
 *
 * A plugin is a shared library that exports one symbol, `zonda_plugin_entry`, and stands beside a
 * `plugin.toml` that names its file, its SHA-256 and what it does. The daemon never loads it: for
 * each plugin it starts a process of its own, which does. A crash costs a restart of that process.
 *
 * Life       entry.init, entry.get_factory, factory.create, plugin.init, plugin.get_extension,
 *            plugin.activate, then calls of extensions, plugin.deactivate, plugin.destroy,
 *            entry.deinit. A process that does not come to its end in time is killed.
 * Threads    All of it runs on one thread, one call at a time. Functions marked [thread-safe] are
 *            the plugin's to call from threads of its own.
 * Time       A call that takes longer than `call_ms` of the manifest ends the process.
 * Memory     What is passed in belongs to the passer and lives until the call returns. Results of
 *            any length are written into a zonda_plugin_out, which copies.
 * Texts      are UTF-8. A zonda_plugin_str is not terminated by a zero; a `const char *` is.
 * Errors     No exception may leave a function. A function that returns false may say why with
 *            zonda.log/1 at ZONDA_LOG_ERROR before it does.
 * Versions   The host takes a plugin whose `version.major` is its own. Extensions carry a revision
 *            in their id: a change that breaks gets a new id, and a plugin may offer both. Fields
 *            are only ever added at the end of structs that the host makes.
 */
#ifndef ZONDA_PLUGIN_H
#define ZONDA_PLUGIN_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ZONDA_PLUGIN_VERSION_MAJOR 1
#define ZONDA_PLUGIN_VERSION_MINOR 0
#define ZONDA_PLUGIN_VERSION_PATCH 0
#define ZONDA_PLUGIN_VERSION_INIT \
  { ZONDA_PLUGIN_VERSION_MAJOR, ZONDA_PLUGIN_VERSION_MINOR, ZONDA_PLUGIN_VERSION_PATCH }

#if defined(_WIN32)
#  define ZONDA_PLUGIN_EXPORT __declspec(dllexport)
#else
#  define ZONDA_PLUGIN_EXPORT __attribute__((visibility("default")))
#endif

/* Ids for get_factory and get_extension. */
#define ZONDA_PLUGIN_FACTORY "zonda.plugin-factory/1"
#define ZONDA_EXT_TOOL "zonda.tool/1"         /* of plugins: zonda_plugin_tool */
#define ZONDA_EXT_FILTER "zonda.filter/1"     /* of plugins: zonda_plugin_filter */
#define ZONDA_EXT_OBSERVER "zonda.observer/1" /* of plugins: zonda_plugin_observer */
#define ZONDA_EXT_LOG "zonda.log/1"           /* of the host: zonda_host_log */
#define ZONDA_EXT_KV "zonda.kv/1"             /* of the host: zonda_host_kv */

#ifdef __cplusplus
extern "C" {
#endif

typedef struct zonda_plugin_version {
  uint32_t major, minor, patch;
} zonda_plugin_version;

/* A text; `ptr` may be NULL where `len` is 0. */
typedef struct zonda_plugin_str {
  const char *ptr;
  size_t len;
} zonda_plugin_str;

/* Takes a text in pieces. `write` appends, and returns false once the limit is passed; the text is
 * then refused as a whole. */
typedef struct zonda_plugin_out {
  void *data;
  bool (*write)(const struct zonda_plugin_out *out, const char *ptr, size_t len);
} zonda_plugin_out;

/* ---- the host, as a plugin sees it ------------------------------------------------------- */

typedef struct zonda_plugin_host {
  zonda_plugin_version version;
  void *data; /* the host's own */
  const char *name, *vendor, *version_text;
  /* NULL for what this host does not have. Not to be called inside create. [thread-safe] */
  const void *(*get_extension)(const struct zonda_plugin_host *host, const char *id);
} zonda_plugin_host;

enum { ZONDA_LOG_DEBUG = 0, ZONDA_LOG_INFO = 1, ZONDA_LOG_WARN = 2, ZONDA_LOG_ERROR = 3 };

/* zonda.log/1. A line of at most 1024 bytes; what comes faster than 20 lines a second (100 at once)
 * is dropped and counted. Texts of requests do not belong there. */
typedef struct zonda_host_log {
  void (*log)(const zonda_plugin_host *host, int32_t level, const char *line); /* [thread-safe] */
} zonda_host_log;

/* zonda.kv/1. Texts that outlive the plugin's process, not the daemon's: at most 64 keys of at most
 * 64 bytes, values of at most 4096 bytes. */
typedef struct zonda_host_kv {
  /* False where there is no such key. [thread-safe] */
  bool (*get)(const zonda_plugin_host *host, const char *key, const zonda_plugin_out *value);
  /* False where a limit is passed or the value is not UTF-8. [thread-safe] */
  bool (*set)(const zonda_plugin_host *host, const char *key, zonda_plugin_str value);
} zonda_host_kv;

/* ---- the plugin -------------------------------------------------------------------------- */

/* What a plugin says of itself, without side effects. `id` is that of plugin.toml. */
typedef struct zonda_plugin_descriptor {
  zonda_plugin_version version; /* ZONDA_PLUGIN_VERSION_INIT */
  const char *id, *name, *vendor, *version_text, *description;
} zonda_plugin_descriptor;

typedef struct zonda_plugin {
  const zonda_plugin_descriptor *descriptor;
  void *data; /* the plugin's own */
  bool (*init)(const struct zonda_plugin *plugin);    /* may ask for extensions of the host */
  void (*destroy)(const struct zonda_plugin *plugin); /* frees `plugin` too */
  /* `settings_json`: an object, its [[plugins.settings]] of zonda.toml; {} where there are none. */
  bool (*activate)(const struct zonda_plugin *plugin, zonda_plugin_str settings_json);
  void (*deactivate)(const struct zonda_plugin *plugin);
  /* NULL for what it does not have. The answer stays valid until destroy. */
  const void *(*get_extension)(const struct zonda_plugin *plugin, const char *id);
} zonda_plugin;

/* What get_factory(ZONDA_PLUGIN_FACTORY) gives. */
typedef struct zonda_plugin_factory {
  uint32_t (*count)(const struct zonda_plugin_factory *factory); /* at most 64 */
  const zonda_plugin_descriptor *(*descriptor)(const struct zonda_plugin_factory *factory,
                                               uint32_t index);
  /* NULL for an unknown id. `host` lives until destroy. */
  const zonda_plugin *(*create)(const struct zonda_plugin_factory *factory,
                                const zonda_plugin_host *host, const char *id);
} zonda_plugin_factory;

typedef struct zonda_plugin_entry_table {
  zonda_plugin_version version; /* ZONDA_PLUGIN_VERSION_INIT; read before anything is called */
  bool (*init)(const char *plugin_path);
  void (*deinit)(void);
  const void *(*get_factory)(const char *id);
} zonda_plugin_entry_table;

/* The one symbol that a plugin exports. */
ZONDA_PLUGIN_EXPORT extern const zonda_plugin_entry_table zonda_plugin_entry;

/* ---- zonda.tool/1: functions that the model may call ------------------------------------- */

typedef struct zonda_plugin_tool {
  uint32_t (*count)(const zonda_plugin *plugin); /* 1 to 16, asked once behind activate */
  /* {"name":…,"description":…,"parameters":{JSON Schema}}, at most 64 KiB, the same each time.
   * A name has 1 to 64 letters, digits, _ or -. */
  bool (*spec)(const zonda_plugin *plugin, uint32_t index, const zonda_plugin_out *spec_json);
  /* Writes the result, JSON text; false makes what was written an error that the model reads.
   * `arguments_json` is what the model wrote: trust nothing of it. */
  bool (*call)(const zonda_plugin *plugin, uint32_t index, zonda_plugin_str arguments_json,
               const zonda_plugin_out *result);
} zonda_plugin_tool;

/* ---- zonda.filter/1: judges requests and answers ----------------------------------------- */

enum { ZONDA_VERDICT_PASS = 0, ZONDA_VERDICT_REPLACE = 1, ZONDA_VERDICT_REJECT = 2 };

/* `role`: system, user, assistant, tool, text (a plain prompt), prefix and suffix (code with a
 * hole), prediction, instruction and label (of a classification), or arguments (of a function call:
 * JSON). Descriptions of functions and shapes of answers are not shown. */
typedef struct zonda_plugin_text {
  zonda_plugin_str role, text;
} zonda_plugin_text;

/* A request, or its whole answer. A request of token ids, which nobody can read, is refused before
 * it comes here, unless the filter fails open. */
typedef struct zonda_plugin_texts {
  zonda_plugin_str request_id, client, model; /* empty where there is none */
  const zonda_plugin_text *texts;
  size_t texts_len;
} zonda_plugin_texts;

/* How a filter changes or refuses. */
typedef struct zonda_plugin_change {
  void *data;
  /* Another text in the place of the one at `index`; false where there is none, or it is too long. */
  bool (*replace)(const struct zonda_plugin_change *change, size_t index, zonda_plugin_str text);
  /* What the client is told. `status`: 400, 403, 413, 422, 429 or 503; others become 403. */
  bool (*reject)(const struct zonda_plugin_change *change, uint16_t status,
                 zonda_plugin_str message);
} zonda_plugin_change;

/* Each gives a ZONDA_VERDICT; another number counts as a defect of the plugin. Either may be NULL. */
typedef struct zonda_plugin_filter {
  int32_t (*on_request)(const zonda_plugin *plugin, const zonda_plugin_texts *request,
                        const zonda_plugin_change *change);
  /* Sees the answer as a whole: clients get its text at the end, in one piece. */
  int32_t (*on_final)(const zonda_plugin *plugin, const zonda_plugin_texts *answer,
                      const zonda_plugin_change *change);
} zonda_plugin_filter;

/* ---- zonda.observer/1: what became of requests, without what was said -------------------- */

/* Durations are milliseconds from the arrival; UINT32_MAX where the moment never came. */
typedef struct zonda_plugin_observation {
  zonda_plugin_str model;
  zonda_plugin_str outcome; /* stop, length, model_length, tool_calls, cancelled, or a fault's code */
  uint32_t prompt_tokens, cached_tokens, completion_tokens;
  uint32_t accepted_ms, first_text_ms, total_ms;
} zonda_plugin_observation;

typedef struct zonda_plugin_observer {
  /* `dropped`: observations that were lost since the last call because this one was slow. */
  void (*observe)(const zonda_plugin *plugin, const zonda_plugin_observation *observations,
                  size_t observations_len, uint64_t dropped);
} zonda_plugin_observer;

#ifdef __cplusplus
}
#endif
#endif
