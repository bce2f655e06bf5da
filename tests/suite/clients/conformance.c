/* Plays requests against libzonda. Each is a line "whole N", "stream N" or "cancel N" on stdin, with N
 * bytes of JSON behind it. For each, lines "KIND N" with N bytes behind: the pieces of the answer
 * ("text", "call"), then "done", or "error". "cancel" cancels after the first text.
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

static void stream(zonda_model *model, const char *json, size_t len, int cancels) {
  zonda_request *request = NULL;
  zonda_error *error = NULL;
  const zonda_event *event = NULL;
  if (zonda_chat_start(model, json, len, NULL, &request, &error) != ZONDA_OK) {
    say_error(error);
    return;
  }
  while (zonda_request_next(request, 60000, &event, &error) == ZONDA_OK && event != NULL) {
    switch (event->kind) {
      case ZONDA_EV_DELTA:
        say("text", event->text);
        if (cancels) zonda_request_cancel(request);
        break;
      case ZONDA_EV_TOOL_CALL: say("call", event->json); break;
      case ZONDA_EV_DONE: say("done", event->json); break;
      case ZONDA_EV_ERROR: say("error", event->json); break;
      default: break;
    }
  }
  zonda_request_free(request);
}

int main(void) {
  zonda_engine *engine = NULL;
  zonda_model *model = NULL;
  zonda_error *error = NULL;
  char mode[16];
  unsigned long len;
  if (zonda_engine_create(NULL, &engine, &error) != ZONDA_OK ||
      zonda_model_load(engine, NULL, NULL, &model, &error) != ZONDA_OK) {
    say_error(error);
    return 1;
  }
  while (scanf("%15s %lu", mode, &len) == 2 && getchar() == '\n') {
    char *json = malloc(len + 1);
    if (json == NULL || fread(json, 1, len, stdin) != len) return 1;
    if (strcmp(mode, "whole") == 0) whole(model, json, len);
    else stream(model, json, len, strcmp(mode, "cancel") == 0);
    free(json);
  }
  zonda_model_free(model);
  zonda_engine_free(engine);
  return 0;
}
