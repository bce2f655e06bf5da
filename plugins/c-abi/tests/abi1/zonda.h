/* zonda.h: the C ABI of zonda, the inference runtime for edge appliances. ABI 1.
 *
 * Everything declared here works. What a later version adds comes as new functions, new event
 * kinds, new status values, or new fields at the end of a struct; nothing is renumbered.
 *
 * Threads    Any function may be called from any thread. Several threads may share an engine or a
 *            model. A request belongs to one thread at a time, but for zonda_request_cancel and
 *            zonda_request_wait, which any thread may call while the request is not freed.
 * Callbacks  run on a thread of the library, one at a time for each request, in order of `seq`,
 *            never under a lock, never after zonda_request_wait said that the request ended, or
 *            zonda_request_free returned. A slow callback delays its own request only. Inside any
 *            callback the waiting calls are refused with ZONDA_E_INVALID_STATE: zonda_*_free of an
 *            engine, model or request (which then does nothing), zonda_engine_shutdown,
 *            zonda_request_wait, and zonda_chat on the same engine. An exception must not leave a
 *            callback: zonda.hpp shows how to carry it to the caller.
 * Memory     The library frees what it made, by the _free of its type; NULL is welcome there.
 *            What is passed in is copied before the call returns.
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

#ifdef __cplusplus
extern "C" {
#endif

#define ZONDA_VERSION_MAJOR 1
#define ZONDA_VERSION_MINOR 0
#define ZONDA_VERSION_PATCH 0
#define ZONDA_ABI_VERSION   1u /* as in the soname libzonda.so.1; changes only on a break */

/* ---- status: never renumbered; treat unknown values as errors */
typedef int32_t zonda_status;
enum {
  ZONDA_OK                 = 0,
  ZONDA_E_INVALID_ARGUMENT = -1,
  ZONDA_E_INVALID_STATE    = -2,
  ZONDA_E_ABI_MISMATCH     = -3,
  ZONDA_E_UNSUPPORTED      = -4,
  ZONDA_E_NOT_FOUND        = -5,
  ZONDA_E_IO               = -6,
  ZONDA_E_OUT_OF_MEMORY    = -7,
  ZONDA_E_DEVICE           = -8,
  ZONDA_E_MODEL_FORMAT     = -9,
  ZONDA_E_MODEL_SIGNATURE  = -10,
  ZONDA_E_CONTEXT_LENGTH   = -11,
  ZONDA_E_OVERLOADED       = -12,
  ZONDA_E_CANCELLED        = -13,
  ZONDA_E_TIMEOUT          = -14,
  ZONDA_E_AUTH             = -15,
  ZONDA_E_CONTENT_FILTER   = -16,
  ZONDA_E_WOULD_BLOCK      = -17,
  ZONDA_E_BUFFER_TOO_SMALL = -18,
  ZONDA_E_PLUGIN           = -19,
  ZONDA_E_INTERNAL         = -100
};

/* ---- opaque handles */
typedef struct zonda_engine  zonda_engine;
typedef struct zonda_model   zonda_model;
typedef struct zonda_request zonda_request; /* one generation */
typedef struct zonda_error   zonda_error;
typedef struct zonda_buffer  zonda_buffer;  /* bytes owned by the library */

/* Pointer and length; not NUL-terminated; never a NULL pointer when the library gives it. */
typedef struct zonda_str {
  const char *ptr;
  size_t      len;
} zonda_str;

/* ---- callbacks */
/* Messages of the library's border: never a prompt, never an answer. */
typedef void (ZONDA_CALL *zonda_log_fn)(int32_t level, zonda_str target, zonda_str msg, void *user_data);
/* Runs on the thread that loads the model. Returning non-zero aborts the load. */
typedef int32_t (ZONDA_CALL *zonda_progress_fn)(double done_0_1, zonda_str stage, void *user_data);

typedef int32_t zonda_event_kind;
enum {
  ZONDA_EV_ACCEPTED  = 1, /* left the queue; json: {"id","model","prompt_tokens","cached_tokens"} */
  ZONDA_EV_DELTA     = 2, /* text: the next whole code points of the answer                      */
  ZONDA_EV_TOOL_CALL = 3, /* json: one complete tool call                                        */
  ZONDA_EV_USAGE     = 4, /* json: the usage object                                              */
  ZONDA_EV_DONE      = 5, /* json: the whole chat.completion object; terminal                    */
  ZONDA_EV_ERROR     = 6  /* status, and json: the error object; terminal                        */
};
typedef struct zonda_event {
  uint32_t         struct_size;   /* set by the library */
  zonda_event_kind kind;
  uint64_t         seq;           /* 0, 1, 2, ... for each request, no gaps */
  zonda_status     status;        /* ZONDA_OK but on ERROR, and on DONE after a cancel */
  uint32_t         token_count;   /* tokens in this event; on USAGE, of the answer */
  zonda_str        text;
  zonda_str        json;
  zonda_str        finish_reason; /* on the terminal event: "stop" "length" "model_length"
                                     "tool_calls" "cancelled" "error" */
} zonda_event;
/* Return 0 to go on. Anything else cancels the request and is the last call for it.
 * The event's memory is valid during the call only. */
typedef int32_t (ZONDA_CALL *zonda_event_fn)(const zonda_event *ev, void *user_data);

/* ---- parameter structs. Fill them with their _init function, then set what you need.
 *      They grow at the end only; zero means the default for every field. A struct smaller than
 *      version 1's is ZONDA_E_INVALID_ARGUMENT; a larger one whose unknown tail is not zero is
 *      ZONDA_E_UNSUPPORTED. A NULL pointer in place of a struct means all defaults. */
typedef struct zonda_engine_params {
  uint32_t     struct_size;
  uint32_t     abi_version;    /* ZONDA_ABI_VERSION */
  const char  *config_path;    /* TOML file; NULL: the files of the system, or built-in defaults */
  const char  *config_toml;    /* must be NULL */
  const char  *device;         /* "auto" "cpu" or an id of zonda_device_get; NULL: as configured */
  const char  *profile;        /* device profile; NULL: as configured, else detected */
  uint32_t     worker_threads; /* CPU threads; 0: as configured */
  uint32_t     max_queue;      /* requests that may wait; 0: as configured */
  zonda_log_fn log_fn;         /* NULL: stderr */
  void        *log_user_data;
  int32_t      log_level;      /* 0 off, 1 error, 2 warning, 3 info, 4 debug, 5 trace */
  uint32_t     flags;          /* must be 0 */
} zonda_engine_params;

typedef struct zonda_model_params {
  uint32_t          struct_size;
  uint32_t          context_length;      /* tokens; 0: as configured */
  uint32_t          max_sequences;       /* answered at the same time; 0: as configured */
  int32_t           kv_dtype;            /* must be 0: chosen by the library */
  uint64_t          memory_budget_bytes; /* must be 0: as configured */
  zonda_progress_fn progress_fn;         /* may be NULL */
  void             *progress_user_data;
  uint32_t          flags;               /* must be 0 */
} zonda_model_params;

typedef struct zonda_request_params {
  uint32_t       struct_size;
  uint32_t       timeout_ms;          /* 0: none; monotonic clock */
  int32_t        priority;            /* negative: background; positive: goes first */
  uint32_t       max_buffered_events; /* must be 0: chosen by the library */
  const char    *idempotency_key;     /* must be NULL */
  zonda_event_fn event_fn;            /* NULL: pull with zonda_request_next */
  void          *event_user_data;
  void          *session;             /* must be NULL */
} zonda_request_params;

typedef struct zonda_device_info {
  uint32_t struct_size;    /* set it before the call */
  uint32_t index;
  char     id[32];         /* what zonda_engine_params.device takes; NUL-terminated, as the two below */
  char     name[96];
  char     api[16];        /* "cpu" "vulkan" "wgpu" "metal" "cuda" */
  uint64_t memory_total;   /* bytes; 0: not known. Unified memory is counted once */
  uint64_t memory_free;
  uint32_t unified_memory; /* 0 or 1 */
} zonda_device_info;

typedef struct zonda_stats {
  uint32_t struct_size;    /* set it before the call */
  uint32_t queue_depth, active, max_active;
  uint64_t requests_ok, requests_failed, requests_cancelled;
  uint64_t tokens_prompt, tokens_generated;
  double   decode_tokens_per_s, prefill_tokens_per_s; /* of one answer, on average; 0: none yet */
  uint64_t kv_bytes_used, kv_bytes_total; /* 0: not known */
  uint64_t model_bytes;                   /* of the loaded models' files */
  int32_t  health;         /* 0 ok, 2 failed; other values are for later versions */
} zonda_stats;

/* ---- library */
ZONDA_API uint32_t     ZONDA_CALL zonda_abi_version(void);
ZONDA_API const char  *ZONDA_CALL zonda_version_string(void);          /* static */
ZONDA_API const char  *ZONDA_CALL zonda_build_info_json(void);         /* static */
ZONDA_API const char  *ZONDA_CALL zonda_status_name(zonda_status s);   /* static, never NULL */
ZONDA_API zonda_status ZONDA_CALL zonda_device_count(uint32_t *out);
ZONDA_API zonda_status ZONDA_CALL zonda_device_get(uint32_t index, zonda_device_info *inout);

/* ---- errors. The last parameter of a call that explains itself; may be NULL. It is set to NULL
 *      first, and to an error, which the caller frees, when the call fails. */
ZONDA_API zonda_status ZONDA_CALL zonda_error_code(const zonda_error *e);
ZONDA_API zonda_str    ZONDA_CALL zonda_error_message(const zonda_error *e); /* valid until free */
ZONDA_API zonda_str    ZONDA_CALL zonda_error_json(const zonda_error *e);    /* as HTTP would answer */
ZONDA_API void         ZONDA_CALL zonda_error_free(zonda_error *e);

/* ---- buffers */
ZONDA_API zonda_str    ZONDA_CALL zonda_buffer_data(const zonda_buffer *b);
ZONDA_API void         ZONDA_CALL zonda_buffer_free(zonda_buffer *b);

/* ---- engine */
ZONDA_API zonda_status ZONDA_CALL zonda_engine_params_init(zonda_engine_params *p, size_t struct_size);
ZONDA_API zonda_status ZONDA_CALL zonda_engine_create(const zonda_engine_params *p, zonda_engine **out, zonda_error **err);
/* Cancels what runs, joins the threads. Models and requests of the engine still want their own
 * _free; until then a model takes no work and a request tells how it ended. */
ZONDA_API void         ZONDA_CALL zonda_engine_free(zonda_engine *e);
/* Takes no more requests, lets the running ones end for at most drain_ms, then cancels them. */
ZONDA_API zonda_status ZONDA_CALL zonda_engine_shutdown(zonda_engine *e, uint32_t drain_ms, zonda_error **err);
ZONDA_API zonda_status ZONDA_CALL zonda_engine_stats(const zonda_engine *e, zonda_stats *inout);
/* {"valid": true, "warnings": [...]} or {"valid": false, "problem": "..."}. NULL: what the system has. */
ZONDA_API zonda_status ZONDA_CALL zonda_config_check(const char *path, zonda_buffer **report_json, zonda_error **err);

/* ---- models: a GGUF file, or a folder with safetensors and a tokenizer.
 *      A NULL path loads the configured model, or the small one that the library carries. */
ZONDA_API zonda_status ZONDA_CALL zonda_model_params_init(zonda_model_params *p, size_t struct_size);
ZONDA_API zonda_status ZONDA_CALL zonda_model_load(zonda_engine *e, const char *path, const zonda_model_params *p, zonda_model **out, zonda_error **err);
ZONDA_API void         ZONDA_CALL zonda_model_free(zonda_model *m); /* its running requests keep it loaded until they end */
ZONDA_API zonda_status ZONDA_CALL zonda_model_info_json(const zonda_model *m, zonda_buffer **out, zonda_error **err);

/* ---- tokens. *n_out is always the whole count. out == NULL only counts; a cap below the count is
 *      ZONDA_E_BUFFER_TOO_SMALL and writes nothing else. flags must be 0. */
ZONDA_API zonda_status ZONDA_CALL zonda_tokenize(const zonda_model *m, const char *text, size_t len, uint32_t flags, uint32_t *out, size_t cap, size_t *n_out, zonda_error **err);
ZONDA_API zonda_status ZONDA_CALL zonda_detokenize(const zonda_model *m, const uint32_t *tok, size_t n, char *out, size_t cap, size_t *n_out, zonda_error **err);
/* Tokens of the prompt that this chat request would run. */
ZONDA_API zonda_status ZONDA_CALL zonda_count_tokens_json(const zonda_model *m, const char *chat_json, size_t len, size_t *n_out, zonda_error **err);

/* ---- generation. json is a chat.completions request, the same as over HTTP and MQTT */
ZONDA_API zonda_status ZONDA_CALL zonda_request_params_init(zonda_request_params *p, size_t struct_size);
/* Waits for the whole answer: a chat.completion object. event_fn must be NULL. */
ZONDA_API zonda_status ZONDA_CALL zonda_chat(zonda_model *m, const char *json, size_t len, const zonda_request_params *p, zonda_buffer **response_json, zonda_error **err);
/* Returns at once; events go to event_fn, or wait for zonda_request_next. */
ZONDA_API zonda_status ZONDA_CALL zonda_chat_start(zonda_model *m, const char *json, size_t len, const zonda_request_params *p, zonda_request **out, zonda_error **err);
/* The next event, valid until the next call for this request. Negative timeout: waits for ever.
 * ZONDA_E_WOULD_BLOCK: none in time. ZONDA_OK with *ev == NULL: nothing follows. */
ZONDA_API zonda_status ZONDA_CALL zonda_request_next(zonda_request *r, int32_t timeout_ms, const zonda_event **ev, zonda_error **err);
/* Ends the request soon; only its terminal event still follows. Any thread, any number of times; not from a signal handler. */
ZONDA_API zonda_status ZONDA_CALL zonda_request_cancel(zonda_request *r);
/* Waits for the end and returns what it ended with: ZONDA_OK, ZONDA_E_CANCELLED, or the error's
 * status. ZONDA_E_WOULD_BLOCK: not ended in time; negative timeout: waits for ever. Without a
 * callback, events that nobody took are passed over. */
ZONDA_API zonda_status ZONDA_CALL zonda_request_wait(zonda_request *r, int32_t timeout_ms);
ZONDA_API zonda_str    ZONDA_CALL zonda_request_id(const zonda_request *r); /* valid until free */
ZONDA_API void         ZONDA_CALL zonda_request_free(zonda_request *r);     /* cancels and waits */

#ifdef __cplusplus
}
#endif
#endif /* ZONDA_H */
