/* guest CYCLES: what a program brings along: tools, descriptors, conversations; and what it asks of
 * an engine. The model that is configured answers. */
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "zonda.h"

#define CHECK(claim)                                                      \
  do {                                                                    \
    if (!(claim)) {                                                       \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #claim); \
      exit(1);                                                            \
    }                                                                     \
  } while (0)

static const char CLOCK[] =
    "{\"type\":\"function\",\"function\":{\"name\":\"clock\","
    "\"description\":\"Tells the current date, time and day of the week.\","
    "\"parameters\":{\"type\":\"object\",\"properties\":{\"offset\":{\"type\":\"string\","
    "\"description\":\"Distance of the local time from UTC, such as +02:00. "
    "Without it, the answer is in UTC.\"}},\"required\":[]}}}";
static const char RESULT[] =
    "{\"time\":\"2031-05-04T12:34:56Z\",\"weekday\":\"Sunday\"}";
static const char TIME[] =
    "{\"temperature\":0,\"max_tokens\":64,"
    "\"messages\":[{\"role\":\"user\",\"content\":\"What time is it?\"}]}";
static const char LIGHT[] =
    "{\"temperature\":0,\"max_tokens\":64,"
    "\"messages\":[{\"role\":\"user\",\"content\":\"Turn on the kitchen light.\"}]}";

static zonda_engine *engine;
static zonda_model *model;

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

static void open_model(void) {
  CHECK(zonda_engine_create(NULL, &engine, NULL) == ZONDA_OK);
  CHECK(zonda_model_load(engine, NULL, NULL, &model, NULL) == ZONDA_OK);
}

static void close_model(void) {
  zonda_model_free(model);
  zonda_engine_free(engine);
}

/* Whether a blocking answer has this text somewhere. */
static int says(const char *json, const char *text) {
  zonda_buffer *answer = NULL;
  char copy[8192];
  zonda_str data;
  CHECK(zonda_chat(model, json, strlen(json), NULL, &answer, NULL) == ZONDA_OK);
  data = zonda_buffer_data(answer);
  CHECK(data.len < sizeof copy);
  memcpy(copy, data.ptr, data.len);
  copy[data.len] = '\0';
  zonda_buffer_free(answer);
  return strstr(copy, text) != NULL;
}

/* What one registration of the clock does. */
struct host {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  uint64_t call;
  int heard;
  int at_once;
};

static zonda_status ZONDA_CALL on_call(zonda_str name, zonda_str args, uint64_t call, void *data) {
  struct host *host = data;
  int at_once;
  CHECK(name.len == 5 && memcmp(name.ptr, "clock", 5) == 0 && args.len >= 2);
  pthread_mutex_lock(&host->lock);
  host->call = call;
  host->heard++;
  at_once = host->at_once;
  pthread_cond_broadcast(&host->changed);
  pthread_mutex_unlock(&host->lock);
  if (at_once) CHECK(zonda_tool_respond(engine, call, RESULT, strlen(RESULT), false, NULL) == ZONDA_OK);
  CHECK(zonda_tool_unregister(engine, "clock") == ZONDA_E_INVALID_STATE);
  return ZONDA_OK;
}

static uint64_t wait_for_call(struct host *host, int heard) {
  uint64_t call;
  pthread_mutex_lock(&host->lock);
  while (host->heard < heard) pthread_cond_wait(&host->changed, &host->lock);
  call = host->call;
  pthread_mutex_unlock(&host->lock);
  return call;
}

static void answer_at_once(struct host *host, int at_once) {
  pthread_mutex_lock(&host->lock);
  host->at_once = at_once;
  pthread_mutex_unlock(&host->lock);
}

static void tools_are_called_and_answered(void) {
  struct host host;
  zonda_request *request = NULL;
  uint64_t call;
  memset(&host, 0, sizeof host);
  pthread_mutex_init(&host.lock, NULL);
  pthread_cond_init(&host.changed, NULL);
  answer_at_once(&host, 1);
  open_model();
  CHECK(says(TIME, "I have no clock."));
  CHECK(zonda_tool_register(engine, CLOCK, on_call, &host, NULL) == ZONDA_OK);
  CHECK(says(TIME, "It is 12:34 UTC."));
  wait_for_call(&host, 1);
  CHECK(says(LIGHT, "light is on"));

  /* later, from this thread; then wrongly in every way */
  answer_at_once(&host, 0);
  CHECK(zonda_chat_start(model, TIME, strlen(TIME), NULL, &request, NULL) == ZONDA_OK);
  call = wait_for_call(&host, 2);
  CHECK(zonda_tool_respond(engine, call + 1, "1", 1, false, NULL) == ZONDA_E_NOT_FOUND);
  CHECK(zonda_tool_respond(engine, call, "{", 1, false, NULL) == ZONDA_E_INVALID_ARGUMENT);
  CHECK(zonda_tool_respond(engine, call, RESULT, strlen(RESULT), false, NULL) == ZONDA_OK);
  CHECK(zonda_tool_respond(engine, call, RESULT, strlen(RESULT), false, NULL) ==
        ZONDA_E_INVALID_STATE);
  CHECK(zonda_request_wait(request, -1) == ZONDA_OK);
  zonda_request_free(request);

  /* never, and cancelled */
  CHECK(zonda_chat_start(model, TIME, strlen(TIME), NULL, &request, NULL) == ZONDA_OK);
  wait_for_call(&host, 3);
  CHECK(zonda_request_cancel(request) == ZONDA_OK);
  CHECK(zonda_request_wait(request, -1) == ZONDA_E_CANCELLED);
  zonda_request_free(request);

  /* withdrawn while it is open */
  CHECK(zonda_chat_start(model, TIME, strlen(TIME), NULL, &request, NULL) == ZONDA_OK);
  wait_for_call(&host, 4);
  CHECK(zonda_tool_unregister(engine, "clock") == ZONDA_OK);
  CHECK(zonda_tool_unregister(engine, "clock") == ZONDA_E_NOT_FOUND);
  CHECK(zonda_request_wait(request, -1) == ZONDA_OK);
  zonda_request_free(request);
  CHECK(says(TIME, "I have no clock."));

  /* the engine goes while a call is open */
  CHECK(zonda_tool_register(engine, CLOCK, on_call, &host, NULL) == ZONDA_OK);
  CHECK(zonda_chat_start(model, TIME, strlen(TIME), NULL, &request, NULL) == ZONDA_OK);
  wait_for_call(&host, 5);
  zonda_engine_free(engine);
  CHECK(zonda_request_wait(request, -1) == ZONDA_E_CANCELLED);
  zonda_request_free(request);
  zonda_model_free(model);
  pthread_cond_destroy(&host.changed);
  pthread_mutex_destroy(&host.lock);
}

static void descriptors_show_events(void) {
  zonda_request *request = NULL;
  const zonda_event *event = NULL;
  struct pollfd polled;
  uint64_t seq = 0;
  open_model();
  CHECK(zonda_request_fd(NULL) == -1);
  CHECK(zonda_chat_start(model, LIGHT, strlen(LIGHT), NULL, &request, NULL) == ZONDA_OK);
  polled.fd = zonda_request_fd(request);
  polled.events = POLLIN;
  CHECK(polled.fd >= 0 && (fcntl(polled.fd, F_GETFD) & FD_CLOEXEC) != 0);
  do {
    CHECK(poll(&polled, 1, -1) == 1);
    CHECK(zonda_request_next(request, 0, &event, NULL) == ZONDA_OK);
    if (event != NULL) CHECK(event->seq == seq++);
  } while (event != NULL);
  CHECK(seq > 3 && poll(&polled, 1, 0) == 1);
  CHECK(zonda_request_wait(request, 0) == ZONDA_OK);
  zonda_request_free(request);
  close_model();
}

static void conversations_go_on(void) {
  zonda_session *session = NULL;
  zonda_request_params params;
  zonda_buffer *answer = NULL;
  int turn;
  open_model();
  CHECK(zonda_session_create(model, &session, NULL) == ZONDA_OK);
  zonda_request_params_init(&params, sizeof params);
  params.session = session;
  for (turn = 0; turn < 3; turn++) {
    CHECK(zonda_chat(model, LIGHT, strlen(LIGHT), &params, &answer, NULL) == ZONDA_OK);
    zonda_buffer_free(answer);
    if (turn == 1) CHECK(zonda_session_reset(session, NULL) == ZONDA_OK);
  }
  zonda_session_free(session);
  zonda_session_free(NULL);
  close_model();
}

static void engines_tell_what_they_have(void) {
  zonda_buffer *text = NULL;
  zonda_str data;
  open_model();
  CHECK(zonda_model_list_json(engine, &text, NULL) == ZONDA_OK);
  zonda_buffer_free(text);
  CHECK(zonda_model_verify(engine, NULL, &text, NULL) == ZONDA_OK);
  data = zonda_buffer_data(text);
  CHECK(data.len > 14 && memcmp(data.ptr, "{\"valid\":true,", 14) == 0);
  zonda_buffer_free(text);
  CHECK(zonda_model_verify(engine, "/no/such/model", &text, NULL) == ZONDA_E_NOT_FOUND);
  CHECK(text == NULL);
  CHECK(zonda_engine_metrics_text(engine, &text, NULL) == ZONDA_OK);
  data = zonda_buffer_data(text);
  CHECK(data.len > 6 && memcmp(data.ptr + data.len - 6, "# EOF\n", 6) == 0);
  zonda_buffer_free(text);
  close_model();
}

static zonda_status ZONDA_CALL refuse(zonda_str name, zonda_str args, uint64_t call, void *data) {
  (void)name, (void)args, (void)call, (void)data;
  return ZONDA_E_DEVICE;
}

/* Whole lives of an engine with everything that hangs on it. */
static void lives_leave_nothing_behind(long cycles) {
  long before = 0, i;
  int highest = 0;
  for (i = 0; i < cycles; i++) {
    zonda_request *request = NULL;
    zonda_session *session = NULL;
    zonda_request_params params;
    int fd;
    if (i == cycles / 3) before = resident_kib();
    open_model();
    CHECK(zonda_tool_register(engine, CLOCK, refuse, NULL, NULL) == ZONDA_OK);
    CHECK(zonda_session_create(model, &session, NULL) == ZONDA_OK);
    zonda_request_params_init(&params, sizeof params);
    params.session = session;
    CHECK(zonda_chat_start(model, TIME, strlen(TIME), &params, &request, NULL) == ZONDA_OK);
    fd = zonda_request_fd(request);
    CHECK(fd >= 0);
    if (fd > highest) highest = fd;
    if (i % 2 == 0) CHECK(zonda_request_wait(request, -1) == ZONDA_OK);
    zonda_request_free(request);
    zonda_session_free(session);
    close_model();
  }
  CHECK(highest < 200);
  CHECK(cycles < 300 || resident_kib() - before < 16384);
}

int main(int argc, char **argv) {
  tools_are_called_and_answered();
  descriptors_show_events();
  conversations_go_on();
  engines_tell_what_they_have();
  lives_leave_nothing_behind(argc > 1 ? atol(argv[1]) : 3);
  return 0;
}
