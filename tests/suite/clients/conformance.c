/* Plays requests against libzonda. Each is a line "WAY N" on stdin, with N bytes of JSON behind it. For
 * each, lines "KIND N" with N bytes behind: the pieces of the answer ("text", "call"), then "done", or
 * "error". WAY is "whole", "stream", or
 *   "cancel"  a stream that is cancelled at its first text
 *   "early"   a stream that is cancelled while another answer, which nobody reads, has the only place
 *   "stats"   no request: how many ended how, and what runs
 * Those two write "cancelled" where they cancel, and "reason" before the end: how the stream says it ended.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "zonda.h"

static void say(const char *kind, zonda_str text) {
  printf("%s %lu\n", kind, (unsigned long)text.len);
  fwrite(text.ptr, 1, text.len, stdout);
  fflush(stdout);
}

static void say_error(zonda_error *error) {
  say("error", zonda_error_json(error));
  zonda_error_free(error);
}

static void whole(zonda_model *model, const char *json, size_t len) {
  zonda_buffer *answer = NULL;
  zonda_error *error = NULL;
  if (zonda_chat(model, json, len, NULL, &answer, &error) == ZONDA_OK) {
    say("done", zonda_buffer_data(answer));
    zonda_buffer_free(answer);
  } else {
    say_error(error);
  }
}

enum cancels { NEVER, AT_FIRST_TEXT, AT_ONCE };

static void cancel(zonda_request *request) {
  const zonda_str nothing = {"", 0};
  if (zonda_request_cancel(request) == ZONDA_OK) say("cancelled", nothing);
}

static void stream(zonda_model *model, const char *json, size_t len, enum cancels cancels) {
  zonda_request *request = NULL;
  zonda_error *error = NULL;
  const zonda_event *event = NULL;
  if (zonda_chat_start(model, json, len, NULL, &request, &error) != ZONDA_OK) {
    say_error(error);
    return;
  }
  if (cancels == AT_ONCE) cancel(request);
  while (zonda_request_next(request, 60000, &event, &error) == ZONDA_OK && event != NULL) {
    switch (event->kind) {
      case ZONDA_EV_DELTA:
        say("text", event->text);
        if (cancels == AT_FIRST_TEXT) cancel(request);
        break;
      case ZONDA_EV_TOOL_CALL: say("call", event->json); break;
      case ZONDA_EV_DONE:
        if (cancels != NEVER) say("reason", event->finish_reason);
        say("done", event->json);
        break;
      case ZONDA_EV_ERROR:
        if (cancels != NEVER) say("reason", event->finish_reason);
        say("error", event->json);
        break;
      default: break;
    }
  }
  zonda_request_free(request);
}

/* Behind an answer that has begun, and goes no further because nobody reads it. */
static void early(zonda_model *model, const char *json, size_t len) {
  zonda_request *first = NULL;
  zonda_error *error = NULL;
  const zonda_event *event = NULL;
  if (zonda_chat_start(model, json, len, NULL, &first, &error) != ZONDA_OK) {
    say_error(error);
    return;
  }
  while (zonda_request_next(first, 60000, &event, &error) == ZONDA_OK && event != NULL &&
         event->kind != ZONDA_EV_DELTA) {
  }
  stream(model, json, len, AT_ONCE);
  zonda_request_free(first);
}

static void stats(const zonda_engine *engine) {
  char text[200];
  zonda_stats stats;
  zonda_str said = {text, 0};
  memset(&stats, 0, sizeof stats);
  stats.struct_size = sizeof stats;
  if (zonda_engine_stats(engine, &stats) != ZONDA_OK) return;
  said.len = (size_t)sprintf(text, "{\"cancelled\": %lu, \"ok\": %lu, \"active\": %lu, \"queued\": %lu}",
                             (unsigned long)stats.requests_cancelled, (unsigned long)stats.requests_ok,
                             (unsigned long)stats.active, (unsigned long)stats.queue_depth);
  say("stats", said);
}

static void play(zonda_engine *engine, zonda_model *model, const char *way, const char *json, size_t len) {
  if (strcmp(way, "whole") == 0) whole(model, json, len);
  else if (strcmp(way, "early") == 0) early(model, json, len);
  else if (strcmp(way, "stats") == 0) stats(engine);
  else stream(model, json, len, strcmp(way, "cancel") == 0 ? AT_FIRST_TEXT : NEVER);
}

int main(void) {
  zonda_engine *engine = NULL;
  zonda_model *model = NULL;
  zonda_error *error = NULL;
  char way[16];
  unsigned long len;
  if (zonda_engine_create(NULL, &engine, &error) != ZONDA_OK ||
      zonda_model_load(engine, NULL, NULL, &model, &error) != ZONDA_OK) {
    say_error(error);
    return 1;
  }
  while (scanf("%15s %lu", way, &len) == 2 && getchar() == '\n') {
    char *json = malloc(len + 1);
    if (json == NULL || fread(json, 1, len, stdin) != len) return 1;
    play(engine, model, way, json, len);
    free(json);
  }
  zonda_model_free(model);
  zonda_engine_free(engine);
  return 0;
}
