/* border CYCLES: a C program's way through the library, right and wrong. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "zonda.h"

#define CHECK(claim)                                                      \
  do {                                                                    \
    if (!(claim)) {                                                       \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #claim); \
      exit(1);                                                            \
    }                                                                     \
  } while (0)

static long resident_kib(void) {
  char line[128];
  long kib = 0;
  FILE *status = fopen("/proc/self/status", "r");
  if (status == NULL) return 0;
  while (fgets(line, sizeof line, status) != NULL) {
    if (sscanf(line, "VmRSS: %ld", &kib) == 1) break;
  }
  fclose(status);
  return kib;
}

static void library_tells_what_it_is(void) {
  zonda_device_info device;
  uint32_t devices = 0;
  char version[32];
  snprintf(version, sizeof version, "%d.%d.%d", ZONDA_VERSION_MAJOR, ZONDA_VERSION_MINOR,
           ZONDA_VERSION_PATCH);
  CHECK(zonda_abi_version() == ZONDA_ABI_VERSION);
  CHECK(strcmp(zonda_version_string(), version) == 0);
  CHECK(zonda_build_info_json()[0] == '{');
  CHECK(strcmp(zonda_status_name(ZONDA_E_OVERLOADED), "ZONDA_E_OVERLOADED") == 0);
  CHECK(strcmp(zonda_status_name(12345), "ZONDA_E_UNKNOWN") == 0);
  CHECK(zonda_device_count(&devices) == ZONDA_OK && devices > 0);
  memset(&device, 0, sizeof device);
  device.struct_size = sizeof device;
  CHECK(zonda_device_get(0, &device) == ZONDA_OK && device.id[0] != '\0');
  CHECK(zonda_device_get(devices, &device) == ZONDA_E_NOT_FOUND);
}

static void newer_program_meets_this_library(void) {
  struct {
    zonda_engine_params known;
    uint64_t of_a_later_version;
  } newer;
  zonda_engine *engine = NULL;
  CHECK(zonda_engine_params_init(&newer.known, sizeof newer) == ZONDA_OK);
  CHECK(newer.known.struct_size == sizeof newer && newer.of_a_later_version == 0);
  CHECK(zonda_engine_create(&newer.known, &engine, NULL) == ZONDA_OK);
  zonda_engine_free(engine);
  newer.of_a_later_version = 1;
  CHECK(zonda_engine_create(&newer.known, &engine, NULL) == ZONDA_E_UNSUPPORTED && engine == NULL);
}

static void errors_explain_themselves(void) {
  zonda_engine_params params;
  zonda_engine *engine = NULL;
  zonda_model *model = NULL;
  zonda_error *error = NULL;
  zonda_engine_params_init(&params, sizeof params);
  params.device = "toaster";
  CHECK(zonda_engine_create(&params, &engine, &error) == ZONDA_E_INVALID_ARGUMENT);
  CHECK(engine == NULL && zonda_error_code(error) == ZONDA_E_INVALID_ARGUMENT);
  CHECK(zonda_error_message(error).len > 0 && zonda_error_json(error).ptr[0] == '{');
  zonda_error_free(error);
  CHECK(zonda_engine_create(NULL, &engine, &error) == ZONDA_OK && error == NULL);
  CHECK(zonda_model_load(engine, "/no/such/model", NULL, &model, &error) == ZONDA_E_NOT_FOUND);
  zonda_error_free(error);
  CHECK(zonda_model_load(engine, "/dev/null", NULL, &model, NULL) == ZONDA_E_MODEL_FORMAT);
  CHECK(model == NULL);
  zonda_engine_free(engine);
}

static void forked_child_is_refused(void) {
  zonda_engine *engine = NULL;
  zonda_stats stats;
  pid_t child;
  int status = 0;
  CHECK(zonda_engine_create(NULL, &engine, NULL) == ZONDA_OK);
  memset(&stats, 0, sizeof stats);
  stats.struct_size = sizeof stats;
  child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    zonda_status refused = zonda_engine_stats(engine, &stats);
    zonda_engine_free(engine); /* returns at once: the threads are the parent's */
    _exit(refused == ZONDA_E_INVALID_STATE ? 0 : 1);
  }
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  CHECK(zonda_engine_stats(engine, &stats) == ZONDA_OK && stats.health == 0);
  zonda_engine_free(engine);
}

static void engines_leave_nothing_behind(long cycles) {
  zonda_engine *engine = NULL;
  long before = 0, i;
  for (i = 0; i < cycles; i++) {
    if (i == cycles / 10) before = resident_kib();
    CHECK(zonda_engine_create(NULL, &engine, NULL) == ZONDA_OK);
    zonda_engine_free(engine);
  }
  CHECK(cycles < 1000 || resident_kib() - before < 4096);
}

static int32_t ZONDA_CALL stop_after_three(const zonda_event *event, void *user_data) {
  int *deltas = user_data;
  return event->kind == ZONDA_EV_DELTA && ++*deltas == 3;
}

static void configured_model_answers(void) {
  static const char json[] =
      "{\"temperature\":0,\"max_tokens\":12,"
      "\"messages\":[{\"role\":\"user\",\"content\":\"Turn on the kitchen light.\"}]}";
  const size_t len = sizeof json - 1;
  zonda_engine *engine = NULL;
  zonda_model *model = NULL;
  zonda_error *error = NULL;
  zonda_buffer *first = NULL, *second = NULL;
  zonda_request *request = NULL;
  zonda_request_params params;
  const zonda_event *event = NULL;
  uint32_t tokens[64];
  char text[256];
  size_t count = 0, bytes = 0, prompt = 0;
  uint64_t seq = 0;
  int deltas = 0;
  int32_t last = 0;
  zonda_stats stats;

  CHECK(zonda_engine_create(NULL, &engine, NULL) == ZONDA_OK);
  if (zonda_model_load(engine, NULL, NULL, &model, &error) != ZONDA_OK) {
    zonda_str why = zonda_error_message(error);
    fprintf(stderr, "%.*s\n", (int)why.len, why.ptr);
    exit(1);
  }
  CHECK(zonda_tokenize(model, "a b", 3, 0, tokens, 64, &count, NULL) == ZONDA_OK && count > 0);
  CHECK(zonda_tokenize(model, "a b", 3, 0, tokens, 0, &count, NULL) == ZONDA_E_BUFFER_TOO_SMALL);
  CHECK(zonda_tokenize(model, "\xff", 1, 0, NULL, 0, &count, NULL) == ZONDA_E_INVALID_ARGUMENT);
  CHECK(zonda_tokenize(model, "a b", 3, 0, tokens, 64, &count, NULL) == ZONDA_OK);
  CHECK(zonda_detokenize(model, tokens, count, text, sizeof text, &bytes, NULL) == ZONDA_OK);
  CHECK(bytes == 3 && memcmp(text, "a b", 3) == 0);
  tokens[0] = UINT32_MAX;
  CHECK(zonda_detokenize(model, tokens, 1, NULL, 0, &bytes, NULL) == ZONDA_E_INVALID_ARGUMENT);
  CHECK(zonda_count_tokens_json(model, json, len, &prompt, NULL) == ZONDA_OK && prompt > 3);
  CHECK(zonda_model_info_json(model, &first, NULL) == ZONDA_OK);
  CHECK(zonda_buffer_data(first).ptr[0] == '{');
  zonda_buffer_free(first);

  CHECK(zonda_chat(model, json, len, NULL, &first, NULL) == ZONDA_OK);
  CHECK(zonda_chat(model, json, len, NULL, &second, NULL) == ZONDA_OK);
  zonda_buffer_free(first);
  zonda_buffer_free(second);
  CHECK(zonda_chat(model, "{", 1, NULL, &first, NULL) == ZONDA_E_INVALID_ARGUMENT && first == NULL);

  CHECK(zonda_chat_start(model, json, len, NULL, &request, NULL) == ZONDA_OK);
  CHECK(zonda_request_id(request).len > 0);
  while (zonda_request_next(request, 60000, &event, NULL) == ZONDA_OK && event != NULL) {
    CHECK(event->seq == seq++);
    last = event->kind;
  }
  CHECK(last == ZONDA_EV_DONE);
  CHECK(zonda_request_wait(request, 0) == ZONDA_OK);
  zonda_request_free(request);

  zonda_request_params_init(&params, sizeof params);
  params.event_fn = stop_after_three;
  params.event_user_data = &deltas;
  CHECK(zonda_chat_start(model, json, len, &params, &request, NULL) == ZONDA_OK);
  CHECK(zonda_request_wait(request, -1) == ZONDA_E_CANCELLED && deltas == 3);
  zonda_request_free(request);

  memset(&stats, 0, sizeof stats);
  stats.struct_size = sizeof stats;
  CHECK(zonda_engine_stats(engine, &stats) == ZONDA_OK && stats.health == 0);
  CHECK(zonda_engine_shutdown(engine, 1000, NULL) == ZONDA_OK);
  CHECK(zonda_chat(model, json, len, NULL, &first, NULL) == ZONDA_E_INVALID_STATE);
  zonda_model_free(model);
  zonda_engine_free(engine);
}

int main(int argc, char **argv) {
  library_tells_what_it_is();
  newer_program_meets_this_library();
  errors_explain_themselves();
  forked_child_is_refused();
  engines_leave_nothing_behind(argc > 1 ? atol(argv[1]) : 10);
  configured_model_answers();
  return 0;
}
