/* zonda.h: the C ABI of zonda, the inference runtime for edge appliances. ABI 1.
 * Made by cbindgen from the library's source; edit that.
 *
 * Everything declared here works. What a later version adds comes as new functions, new event
 * kinds, new status values, or new fields at the end of a struct; nothing is renumbered.
 *
 * Threads    Any function may be called from any thread. Several threads may share an engine or a
 *            model. A request or a session belongs to one thread at a time, but for
 *            zonda_request_cancel and zonda_request_wait, which any thread may call while the
 *            request is not freed.
 * Callbacks  run on threads of the library, those of one request one at a time and in order of
 *            `seq`, never under a lock; those of a request never after zonda_request_wait said that
 *            it ended, or zonda_request_free returned; those of a tool never after
 *            zonda_tool_unregister or zonda_engine_free returned. A slow callback delays its own
 *            request only. Inside any callback the waiting calls are refused with
 *            ZONDA_E_INVALID_STATE: zonda_*_free of an engine, model or request (which then does
 *            nothing), zonda_engine_shutdown, zonda_request_wait, zonda_tool_unregister, and
 *            zonda_chat on the same engine. An exception must not leave a callback: zonda.hpp shows
 *            how to carry it to the caller.
 * Memory     The library frees what it made, by the _free of its type; NULL is welcome there.
 *            What is passed in is copied before the call returns.
 * Structs    of parameters are filled with their _init function; then set what you need. They grow
 *            at the end only; zero means the default for every field. A struct smaller than version
 *            1's is ZONDA_E_INVALID_ARGUMENT; a larger one whose unknown tail is not zero is
 *            ZONDA_E_UNSUPPORTED. A NULL pointer in place of a struct means all defaults.
 * Errors     The last parameter of a call that explains itself may be NULL. It is set to NULL
 *            first, and to an error, which the caller frees, when the call fails.
 * Defects    A defect of the library that is caught returns ZONDA_E_INTERNAL and poisons its
 *            engine: later calls fail at once with the same status; zonda_engine_stats shows it,
 *            _free works.
 * Processes  After fork() the child may only exec; calls there return ZONDA_E_INVALID_STATE.
 *            The library installs no signal handlers and writes nothing to stdout.
 * Texts      are UTF-8. Events hold whole code points.
 */

#ifndef ZONDA_H
#define ZONDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#  define ZONDA_API __declspec(dllimport)
#  define ZONDA_CALL __cdecl
#else
#  define ZONDA_API __attribute__((visibility("default")))
#  define ZONDA_CALL
#endif

// As in the soname libzonda.so.1; changes only on a break.
#define ZONDA_ABI_VERSION 1

// Changes on a break.
#define ZONDA_VERSION_MAJOR 1

// Grows with what is added.
#define ZONDA_VERSION_MINOR 0

// Grows with what is mended.
#define ZONDA_VERSION_PATCH 0

// Bytes owned by the library.
typedef struct zonda_buffer zonda_buffer;

// A configuration, its models, their threads.
typedef struct zonda_engine zonda_engine;

// Why a call failed.
typedef struct zonda_error zonda_error;

// A loaded model.
typedef struct zonda_model zonda_model;

// One generation.
typedef struct zonda_request zonda_request;

// A conversation that the library remembers.
typedef struct zonda_session zonda_session;

// Status of a call: never renumbered; treat unknown values as errors.
typedef int32_t zonda_status;

// Pointer and length; not NUL-terminated; UTF-8.
typedef struct zonda_str {
  // First byte; never NULL where the library gives it.
  const char *ptr;
  // Bytes.
  size_t len;
} zonda_str;

// Hears messages of the library's border: never a prompt, never an answer.
typedef void (*zonda_log_fn)(int32_t level,
                             struct zonda_str target,
                             struct zonda_str msg,
                             void *user_data);

// How an engine is set up.
typedef struct zonda_engine_params {
  // Bytes of this struct.
  uint32_t struct_size;
  // ZONDA_ABI_VERSION.
  uint32_t abi_version;
  // TOML file; NULL: the files of the system, or built-in defaults.
  const char *config_path;
  // Must be NULL.
  const char *config_toml;
  // "auto", "cpu" or an id of zonda_device_get; NULL: as configured.
  const char *device;
  // Device profile; NULL: as configured, else detected.
  const char *profile;
  // CPU threads; 0: as configured.
  uint32_t worker_threads;
  // Requests that may wait; 0: as configured.
  uint32_t max_queue;
  // NULL: stderr.
  zonda_log_fn log_fn;
  // Handed to `log_fn`.
  void *log_user_data;
  // 0 off, 1 error, 2 warning, 3 info, 4 debug, 5 trace.
  int32_t log_level;
  // Must be 0.
  uint32_t flags;
} zonda_engine_params;

// What an engine has done and does.
typedef struct zonda_stats {
  // Set it before the call.
  uint32_t struct_size;
  // Requests waiting.
  uint32_t queue_depth;
  // Requests being answered.
  uint32_t active;
  // Requests that can be answered at the same time.
  uint32_t max_active;
  // Requests answered.
  uint64_t requests_ok;
  // Requests failed.
  uint64_t requests_failed;
  // Requests cancelled.
  uint64_t requests_cancelled;
  // Prompt tokens computed.
  uint64_t tokens_prompt;
  // Tokens given.
  uint64_t tokens_generated;
  // Of one answer, on average; 0: none yet.
  double decode_tokens_per_s;
  // Of one prompt, on average; 0: none yet.
  double prefill_tokens_per_s;
  // Bytes of the cache in use; 0: not known.
  uint64_t kv_bytes_used;
  // Bytes of the cache; 0: not known.
  uint64_t kv_bytes_total;
  // Bytes of the models' files.
  uint64_t model_bytes;
  // 0 ok, 2 failed; other values are for later versions.
  int32_t health;
} zonda_stats;

// One thing to compute on.
typedef struct zonda_device_info {
  // Set it before the call.
  uint32_t struct_size;
  // Place in the list of devices.
  uint32_t index;
  // What zonda_engine_params.device takes; NUL-terminated, as the two below.
  char id[32];
  // What its maker calls it.
  char name[96];
  // "cpu" "vulkan" "wgpu" "metal" "cuda".
  char api[16];
  // Bytes; 0: not known. Unified memory is counted once.
  uint64_t memory_total;
  // Bytes; 0: not known.
  uint64_t memory_free;
  // Whether it shares the CPU's memory: 0 or 1.
  uint32_t unified_memory;
} zonda_device_info;

// Hears how far a load is, on the thread that loads. Returning non-zero aborts the load.
typedef int32_t (*zonda_progress_fn)(double done_0_1, struct zonda_str stage, void *user_data);

// How a model is loaded.
typedef struct zonda_model_params {
  // Bytes of this struct.
  uint32_t struct_size;
  // Tokens of prompt and answer; 0: as configured.
  uint32_t context_length;
  // Requests answered at the same time; 0: as configured.
  uint32_t max_sequences;
  // Must be 0.
  int32_t kv_dtype;
  // Must be 0.
  uint64_t memory_budget_bytes;
  // May be NULL.
  zonda_progress_fn progress_fn;
  // Handed to `progress_fn`.
  void *progress_user_data;
  // Must be 0.
  uint32_t flags;
} zonda_model_params;

// The kind of an event; later versions may add to these.
typedef int32_t zonda_event_kind;

// One event of a request.
typedef struct zonda_event {
  // Set by the library.
  uint32_t struct_size;
  // ZONDA_EV_*.
  zonda_event_kind kind;
  // 0, 1, 2, ... for each request, no gaps.
  uint64_t seq;
  // ZONDA_OK but on ERROR, and on DONE after a cancel.
  zonda_status status;
  // Tokens in this event; on USAGE, of the answer.
  uint32_t token_count;
  // On DELTA; else empty.
  struct zonda_str text;
  // On all others; empty on DELTA.
  struct zonda_str json;
  // On the terminal event: "stop" "length" "model_length" "tool_calls" "cancelled" "error".
  struct zonda_str finish_reason;
} zonda_event;

// Hears the events of one request. Return 0 to go on. Anything else cancels the request and is the
// last call for it. The event's memory is valid during the call only.
typedef int32_t (*zonda_event_fn)(const struct zonda_event *ev, void *user_data);

// How a request is answered.
typedef struct zonda_request_params {
  // Bytes of this struct.
  uint32_t struct_size;
  // Until the answer is of no use, by a monotonic clock; 0: none.
  uint32_t timeout_ms;
  // Negative: background; positive: goes first.
  int32_t priority;
  // Must be 0.
  uint32_t max_buffered_events;
  // Must be NULL.
  const char *idempotency_key;
  // NULL: pull with zonda_request_next.
  zonda_event_fn event_fn;
  // Handed to `event_fn`.
  void *event_user_data;
  // The conversation that this goes on with; NULL for none.
  struct zonda_session *session;
} zonda_request_params;

// Hears that the model calls a function. Return ZONDA_OK and answer with zonda_tool_respond, here
// or later, from any thread; anything else refuses the call, and the model reads that. Both texts
// are valid during the call only. Several calls may come at the same time.
typedef zonda_status (*zonda_tool_fn)(struct zonda_str name,
                                      struct zonda_str args_json,
                                      uint64_t call_id,
                                      void *user_data);

// The request left the queue; json: {"id","model","prompt_tokens","cached_tokens"}.
#define ZONDA_EV_ACCEPTED 1

// Text: the next whole code points of the answer.
#define ZONDA_EV_DELTA 2

// One complete tool call, as json.
#define ZONDA_EV_TOOL_CALL 3

// The usage object, as json.
#define ZONDA_EV_USAGE 4

// The whole chat.completion object, as json. Terminal.
#define ZONDA_EV_DONE 5

// The status, and the error object as json. Terminal.
#define ZONDA_EV_ERROR 6

// The call did what it says.
#define ZONDA_OK 0

// An argument makes no sense.
#define ZONDA_E_INVALID_ARGUMENT -1

// Not now, or not on this thread.
#define ZONDA_E_INVALID_STATE -2

// The caller was built against another ABI.
#define ZONDA_E_ABI_MISMATCH -3

// This build does not do what was asked.
#define ZONDA_E_UNSUPPORTED -4

// No such file, model or device.
#define ZONDA_E_NOT_FOUND -5

// A file cannot be read.
#define ZONDA_E_IO -6

// It does not fit into memory.
#define ZONDA_E_OUT_OF_MEMORY -7

// The device cannot be used.
#define ZONDA_E_DEVICE -8

// The model's files cannot be used.
#define ZONDA_E_MODEL_FORMAT -9

// The model's signature is missing or wrong.
#define ZONDA_E_MODEL_SIGNATURE -10

// Prompt and answer do not fit into the context.
#define ZONDA_E_CONTEXT_LENGTH -11

// The queue is full.
#define ZONDA_E_OVERLOADED -12

// Somebody cancelled it.
#define ZONDA_E_CANCELLED -13

// The deadline has passed.
#define ZONDA_E_TIMEOUT -14

// No or wrong credentials.
#define ZONDA_E_AUTH -15

// A filter blocked it.
#define ZONDA_E_CONTENT_FILTER -16

// Nothing came in time; try again.
#define ZONDA_E_WOULD_BLOCK -17

// The caller's array is too short.
#define ZONDA_E_BUFFER_TOO_SMALL -18

// A plugin failed.
#define ZONDA_E_PLUGIN -19

// A defect of the library; the engine is out of use.
#define ZONDA_E_INTERNAL -100

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Fills in the defaults.
ZONDA_API
zonda_status zonda_engine_params_init(struct zonda_engine_params *params,
                                      size_t struct_size);

// Makes an engine; loads no model yet.
ZONDA_API
zonda_status zonda_engine_create(const struct zonda_engine_params *params,
                                 struct zonda_engine **out,
                                 struct zonda_error **error);

// Cancels what runs, joins the threads. Models, requests and sessions of the engine still want
// their own _free; until then a model takes no work and a request tells how it ended. Threads of
// the program that call zonda_tool_respond have to be done before.
ZONDA_API void zonda_engine_free(struct zonda_engine *engine);

// Takes no more requests, lets the running ones end for at most drain_ms, then cancels them.
ZONDA_API
zonda_status zonda_engine_shutdown(struct zonda_engine *engine,
                                   uint32_t drain_ms,
                                   struct zonda_error **error);

// What the engine has done and does. A poisoned engine tells it too.
ZONDA_API
zonda_status zonda_engine_stats(const struct zonda_engine *engine,
                                struct zonda_stats *inout);

// The same as OpenMetrics text.
ZONDA_API
zonda_status zonda_engine_metrics_text(const struct zonda_engine *engine,
                                       struct zonda_buffer **out,
                                       struct zonda_error **error);

// {"valid": true, "warnings": [...]} or {"valid": false, "problem": "..."}. A NULL path checks
// what the system has.
ZONDA_API
zonda_status zonda_config_check(const char *path,
                                struct zonda_buffer **report_json,
                                struct zonda_error **error);

// ZONDA_ABI_VERSION of the library that is loaded.
ZONDA_API uint32_t zonda_abi_version(void);

// The version of the library that is loaded, NUL-terminated, static.
ZONDA_API const char *zonda_version_string(void);

// What the library was built with, NUL-terminated, static.
ZONDA_API const char *zonda_build_info_json(void);

// The name of a status, NUL-terminated, static, never NULL.
ZONDA_API const char *zonda_status_name(zonda_status status);

// How many devices this box can compute on.
ZONDA_API zonda_status zonda_device_count(uint32_t *out);

// Describes one device. Set struct_size first.
ZONDA_API zonda_status zonda_device_get(uint32_t index, struct zonda_device_info *inout);

// The status of an error; ZONDA_OK for NULL.
ZONDA_API zonda_status zonda_error_code(const struct zonda_error *error);

// The sentence of an error, valid until it is freed; empty for NULL.
ZONDA_API struct zonda_str zonda_error_message(const struct zonda_error *error);

// The error as HTTP would answer it, valid until it is freed; empty for NULL.
ZONDA_API struct zonda_str zonda_error_json(const struct zonda_error *error);

// Frees an error.
ZONDA_API void zonda_error_free(struct zonda_error *error);

// The bytes of a buffer, valid until it is freed; empty for NULL.
ZONDA_API struct zonda_str zonda_buffer_data(const struct zonda_buffer *buffer);

// Frees a buffer.
ZONDA_API void zonda_buffer_free(struct zonda_buffer *buffer);

// Fills in the defaults.
ZONDA_API
zonda_status zonda_model_params_init(struct zonda_model_params *params,
                                     size_t struct_size);

// Loads a model: a GGUF file, or a folder with safetensors and a tokenizer. A NULL path loads the
// configured model, or the small one that the library carries.
ZONDA_API
zonda_status zonda_model_load(struct zonda_engine *engine,
                              const char *path,
                              const struct zonda_model_params *params,
                              struct zonda_model **out,
                              struct zonda_error **error);

// Gives a model up; its running requests keep it loaded until they end.
ZONDA_API void zonda_model_free(struct zonda_model *model);

// The model's card and what its files say.
ZONDA_API
zonda_status zonda_model_info_json(const struct zonda_model *model,
                                   struct zonda_buffer **out,
                                   struct zonda_error **error);

// The loaded models of an engine, as /v1/models lists them.
ZONDA_API
zonda_status zonda_model_list_json(struct zonda_engine *engine,
                                   struct zonda_buffer **out,
                                   struct zonda_error **error);

// Checks the files of a model without loading it, and reads all of them: "valid", "checks" with
// what is wrong, "facts" (what `zonda model inspect --json` prints) and "files" with bytes and
// SHA-256. A model that is not whole is a report, not an error. The path is as for
// zonda_model_load.
ZONDA_API
zonda_status zonda_model_verify(struct zonda_engine *engine,
                                const char *path,
                                struct zonda_buffer **report_json,
                                struct zonda_error **error);

// Text to tokens, nothing added. *n_out is always the whole count. out == NULL only counts; a cap
// below the count is ZONDA_E_BUFFER_TOO_SMALL and writes nothing else. flags must be 0.
ZONDA_API
zonda_status zonda_tokenize(const struct zonda_model *model,
                            const char *text,
                            size_t len,
                            uint32_t flags,
                            uint32_t *out,
                            size_t cap,
                            size_t *n_out,
                            struct zonda_error **error);

// Tokens to text, sized as in zonda_tokenize; *n_out counts bytes.
ZONDA_API
zonda_status zonda_detokenize(const struct zonda_model *model,
                              const uint32_t *tokens,
                              size_t n,
                              char *out,
                              size_t cap,
                              size_t *n_out,
                              struct zonda_error **error);

// Tokens of the prompt that this chat request would run.
ZONDA_API
zonda_status zonda_count_tokens_json(const struct zonda_model *model,
                                     const char *chat_json,
                                     size_t len,
                                     size_t *n_out,
                                     struct zonda_error **error);

// Fills in the defaults.
ZONDA_API
zonda_status zonda_request_params_init(struct zonda_request_params *params,
                                       size_t struct_size);

// Answers a chat.completions request, the same JSON as over HTTP and MQTT, with a chat.completion
// object; waits for the whole of it. event_fn must be NULL.
ZONDA_API
zonda_status zonda_chat(struct zonda_model *model,
                        const char *json,
                        size_t len,
                        const struct zonda_request_params *params,
                        struct zonda_buffer **response_json,
                        struct zonda_error **error);

// As zonda_chat, but returns at once; events go to event_fn, or wait for zonda_request_next.
ZONDA_API
zonda_status zonda_chat_start(struct zonda_model *model,
                              const char *json,
                              size_t len,
                              const struct zonda_request_params *params,
                              struct zonda_request **out,
                              struct zonda_error **error);

// The next event, valid until the next call for this request. Negative timeout: waits for ever.
// ZONDA_E_WOULD_BLOCK: none in time. ZONDA_OK with *event == NULL: nothing follows.
ZONDA_API
zonda_status zonda_request_next(struct zonda_request *request,
                                int32_t timeout_ms,
                                const struct zonda_event **event,
                                struct zonda_error **error);

// A descriptor for poll, select or epoll: readable exactly while zonda_request_next would not
// wait, so also behind the last event. Poll it only: the library reads, writes and closes it, in
// zonda_request_free. -1 for a request with a callback, on systems without descriptors, and where
// no descriptor or thread is left (64 requests of an engine at a time have a callback or a
// descriptor).
ZONDA_API int zonda_request_fd(const struct zonda_request *request);

// Ends the request soon; only its terminal event still follows. Any thread, any number of times;
// not from a signal handler.
ZONDA_API zonda_status zonda_request_cancel(struct zonda_request *request);

// Waits for the end and returns what it ended with: ZONDA_OK, ZONDA_E_CANCELLED, or the error's
// status. ZONDA_E_WOULD_BLOCK: not ended in time; negative timeout: waits for ever. Without a
// callback, events that nobody took are passed over.
ZONDA_API zonda_status zonda_request_wait(struct zonda_request *request, int32_t timeout_ms);

// The id of a request, valid until it is freed; empty for NULL.
ZONDA_API struct zonda_str zonda_request_id(const struct zonda_request *request);

// Cancels a request, waits until nothing of it runs, frees it.
ZONDA_API void zonda_request_free(struct zonda_request *request);

// Makes vectors of texts with a configured embedder: a request as of /v1/embeddings, and its
// answer. Waits for them. ZONDA_E_UNSUPPORTED where the configuration has no embedder.
ZONDA_API
zonda_status zonda_embed(struct zonda_model *model,
                         const char *json,
                         size_t len,
                         struct zonda_buffer **response_json,
                         struct zonda_error **error);

// Begins a conversation with a model. A request whose parameters name the session brings only its
// new messages; the library puts what was said before in front of them, and remembers messages and
// answer when it ends well (not when it fails or is cancelled). One request at a time. What is
// remembered is the text, 1 MiB at most; nothing of the cache is reserved: the engine finds a
// beginning that it read before while it has room for it, with or without a session, and
// usage.prompt_tokens_details.cached_tokens tells how much. Calls that the library answered itself
// are not remembered, only the answer that came of them. 1024 sessions of an engine at a time.
ZONDA_API
zonda_status zonda_session_create(struct zonda_model *model,
                                  struct zonda_session **out,
                                  struct zonda_error **error);

// Forgets what was said. ZONDA_E_INVALID_STATE while a request of the session runs.
ZONDA_API
zonda_status zonda_session_reset(struct zonda_session *session,
                                 struct zonda_error **error);

// Gives a conversation up; a running request ends as it would.
ZONDA_API void zonda_session_free(struct zonda_session *session);

// Offers a function of the program to the model, written as an entry of a request's "tools":
// {"type":"function","function":{"name","description","parameters"}}, 64 KiB at most, 128
// functions at a time. From now on every chat request of the engine is offered it that has free
// text as its format, unless its tool_choice is "none" or it brings a function of this name
// itself; a function that the configuration turns on gives way to one of its name. When the model
// calls it, `function` hears it on a thread of the library and the request goes on behind the
// answer, with the limits of [tools] in the configuration (8 rounds, 60 s). 64 calls at a time.
ZONDA_API
zonda_status zonda_tool_register(struct zonda_engine *engine,
                                 const char *tool_json,
                                 zonda_tool_fn function,
                                 void *user_data,
                                 struct zonda_error **error);

// Answers a call with JSON text of 64 KiB at most; with is_error it says what went wrong, a JSON
// string or any JSON. The model reads either. Any thread, also inside the callback.
// ZONDA_E_NOT_FOUND: there was no such call. ZONDA_E_INVALID_STATE: it is over, because it was
// answered, its request was cancelled or out of time, or its function was unregistered.
ZONDA_API
zonda_status zonda_tool_respond(struct zonda_engine *engine,
                                uint64_t call_id,
                                const char *result_json,
                                size_t len,
                                bool is_error,
                                struct zonda_error **error);

// Withdraws a function: its open calls end with an error that the model reads. When this returns
// none of its callbacks runs, and user_data may go.
ZONDA_API zonda_status zonda_tool_unregister(struct zonda_engine *engine, const char *name);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* ZONDA_H */
