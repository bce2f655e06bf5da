/* Prints what a C compiler makes of the header: names, sizes, offsets, values. */
#include <stdio.h>

#include "zonda.h"

#define SIZE(type) printf(#type " %zu\n", sizeof(type))
#define AT(type, field) printf(#type "." #field " %zu\n", offsetof(type, field))
#define VALUE(name) printf(#name " %ld\n", (long)(name))

int main(void) {
  SIZE(zonda_event);
  AT(zonda_event, kind);
  AT(zonda_event, seq);
  AT(zonda_event, status);
  AT(zonda_event, token_count);
  AT(zonda_event, text);
  AT(zonda_event, json);
  AT(zonda_event, finish_reason);
  SIZE(zonda_engine_params);
  AT(zonda_engine_params, abi_version);
  AT(zonda_engine_params, config_path);
  AT(zonda_engine_params, config_toml);
  AT(zonda_engine_params, device);
  AT(zonda_engine_params, profile);
  AT(zonda_engine_params, worker_threads);
  AT(zonda_engine_params, max_queue);
  AT(zonda_engine_params, log_fn);
  AT(zonda_engine_params, log_user_data);
  AT(zonda_engine_params, log_level);
  AT(zonda_engine_params, flags);
  SIZE(zonda_model_params);
  AT(zonda_model_params, context_length);
  AT(zonda_model_params, max_sequences);
  AT(zonda_model_params, kv_dtype);
  AT(zonda_model_params, memory_budget_bytes);
  AT(zonda_model_params, progress_fn);
  AT(zonda_model_params, progress_user_data);
  AT(zonda_model_params, flags);
  SIZE(zonda_request_params);
  AT(zonda_request_params, timeout_ms);
  AT(zonda_request_params, priority);
  AT(zonda_request_params, max_buffered_events);
  AT(zonda_request_params, idempotency_key);
  AT(zonda_request_params, event_fn);
  AT(zonda_request_params, event_user_data);
  AT(zonda_request_params, session);
  SIZE(zonda_device_info);
  AT(zonda_device_info, index);
  AT(zonda_device_info, id);
  AT(zonda_device_info, name);
  AT(zonda_device_info, api);
  AT(zonda_device_info, memory_total);
  AT(zonda_device_info, memory_free);
  AT(zonda_device_info, unified_memory);
  SIZE(zonda_stats);
  AT(zonda_stats, queue_depth);
  AT(zonda_stats, active);
  AT(zonda_stats, max_active);
  AT(zonda_stats, requests_ok);
  AT(zonda_stats, requests_failed);
  AT(zonda_stats, requests_cancelled);
  AT(zonda_stats, tokens_prompt);
  AT(zonda_stats, tokens_generated);
  AT(zonda_stats, decode_tokens_per_s);
  AT(zonda_stats, prefill_tokens_per_s);
  AT(zonda_stats, kv_bytes_used);
  AT(zonda_stats, kv_bytes_total);
  AT(zonda_stats, model_bytes);
  AT(zonda_stats, health);
  VALUE(ZONDA_ABI_VERSION);
  VALUE(ZONDA_OK);
  VALUE(ZONDA_E_INVALID_ARGUMENT);
  VALUE(ZONDA_E_INVALID_STATE);
  VALUE(ZONDA_E_ABI_MISMATCH);
  VALUE(ZONDA_E_UNSUPPORTED);
  VALUE(ZONDA_E_NOT_FOUND);
  VALUE(ZONDA_E_IO);
  VALUE(ZONDA_E_OUT_OF_MEMORY);
  VALUE(ZONDA_E_DEVICE);
  VALUE(ZONDA_E_MODEL_FORMAT);
  VALUE(ZONDA_E_MODEL_SIGNATURE);
  VALUE(ZONDA_E_CONTEXT_LENGTH);
  VALUE(ZONDA_E_OVERLOADED);
  VALUE(ZONDA_E_CANCELLED);
  VALUE(ZONDA_E_TIMEOUT);
  VALUE(ZONDA_E_AUTH);
  VALUE(ZONDA_E_CONTENT_FILTER);
  VALUE(ZONDA_E_WOULD_BLOCK);
  VALUE(ZONDA_E_BUFFER_TOO_SMALL);
  VALUE(ZONDA_E_PLUGIN);
  VALUE(ZONDA_E_INTERNAL);
  VALUE(ZONDA_EV_ACCEPTED);
  VALUE(ZONDA_EV_DELTA);
  VALUE(ZONDA_EV_TOOL_CALL);
  VALUE(ZONDA_EV_USAGE);
  VALUE(ZONDA_EV_DONE);
  VALUE(ZONDA_EV_ERROR);
  printf("version %d.%d.%d\n", ZONDA_VERSION_MAJOR, ZONDA_VERSION_MINOR, ZONDA_VERSION_PATCH);
  return 0;
}
