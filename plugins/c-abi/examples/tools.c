/* tools MODEL_PATH PROMPT
 *
 * Lends the model a clock: the library calls back on a thread of its own, the program answers from
 * its own loop, later. "-" in place of the path takes the model that the library carries; it asks
 * the clock when it hears "What time is it?". Prints the answer. C99, POSIX.
 */
#define _POSIX_C_SOURCE 200809L
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "zonda.h"

static const char CLOCK[] =
    "{\"type\":\"function\",\"function\":{\"name\":\"clock\","
    "\"description\":\"Tells the current date, time and day of the week.\","
    "\"parameters\":{\"type\":\"object\",\"properties\":{\"offset\":{\"type\":\"string\","
    "\"description\":\"Distance of the local time from UTC, such as +02:00. "
    "Without it, the answer is in UTC.\"}},\"required\":[]}}}";

/* Runs on a thread of the library: hands the call to the program's loop. */
static zonda_status ZONDA_CALL on_call(zonda_str name, zonda_str args_json, uint64_t call_id,
                                       void *user_data) {
  const int *calls = user_data;
  (void)name;
  (void)args_json;
  return write(calls[1], &call_id, sizeof call_id) == (ssize_t)sizeof call_id ? ZONDA_OK
                                                                              : ZONDA_E_IO;
}

/* Runs in the program's loop: answers one call. */
static void answer_call(zonda_engine *engine, int calls) {
  char result[128];
  uint64_t call_id = 0;
  time_t now = time(NULL);
  struct tm utc;
  int length;
  if (read(calls, &call_id, sizeof call_id) != (ssize_t)sizeof call_id) return;
  gmtime_r(&now, &utc);
  length = (int)strftime(result, sizeof result,
                         "{\"time\":\"%Y-%m-%dT%H:%M:%SZ\",\"weekday\":\"%A\"}", &utc);
  zonda_tool_respond(engine, call_id, result, (size_t)length, false, NULL);
}

/* Takes what lies there. Returns 1 when nothing follows. */
static int take(zonda_request *request) {
  const zonda_event *event = NULL;
  while (zonda_request_next(request, 0, &event, NULL) == ZONDA_OK) {
    if (event == NULL) return 1;
    if (event->kind == ZONDA_EV_DELTA) fwrite(event->text.ptr, 1, event->text.len, stdout);
    if (event->kind == ZONDA_EV_ERROR) {
      fprintf(stderr, "tools: %.*s\n", (int)event->json.len, event->json.ptr);
    }
  }
  return 0;
}

static int talk(zonda_engine *engine, zonda_model *model, const char *prompt, int calls) {
  char json[1024];
  struct pollfd polled[2];
  zonda_request *request = NULL;
  int over = 0;
  int length = snprintf(json, sizeof json,
                        "{\"temperature\":0,\"max_tokens\":64,"
                        "\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}]}",
                        prompt);
  if (length < 0 || (size_t)length >= sizeof json) return 1;
  if (zonda_chat_start(model, json, (size_t)length, NULL, &request, NULL) != ZONDA_OK) return 1;
  polled[0].fd = zonda_request_fd(request);
  polled[1].fd = calls;
  polled[0].events = polled[1].events = POLLIN;
  while (!over && poll(polled, 2, 60000) > 0) {
    if (polled[1].revents != 0) answer_call(engine, calls);
    if (polled[0].revents != 0) over = take(request);
  }
  putchar('\n');
  zonda_request_free(request);
  return over ? 0 : 1;
}

int main(int argc, char **argv) {
  zonda_engine *engine = NULL;
  zonda_model *model = NULL;
  int calls[2];
  int code = 1;
  if (argc != 3) {
    fprintf(stderr, "usage: tools MODEL_PATH PROMPT\n");
    return 2;
  }
  if (pipe(calls) != 0) return 1;
  if (zonda_engine_create(NULL, &engine, NULL) == ZONDA_OK &&
      zonda_tool_register(engine, CLOCK, on_call, calls, NULL) == ZONDA_OK &&
      zonda_model_load(engine, strcmp(argv[1], "-") == 0 ? NULL : argv[1], NULL, &model, NULL) ==
          ZONDA_OK) {
    code = talk(engine, model, argv[2], calls[0]);
  }
  zonda_model_free(model);
  zonda_engine_free(engine); /* behind this no call comes */
  close(calls[0]);
  close(calls[1]);
  return code;
}
