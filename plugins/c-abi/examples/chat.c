/* chat MODEL_PATH "prompt" [max_tokens] [blocking|callback|pull|cancel]
 *
 * "-" in place of the path takes the model that the library carries.
 * Prints the answer's text, and nothing else, on stdout. C99. The last argument chooses one of the
 * ways to ask; all of them give the same text, but for "cancel", which stops after a few pieces.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "zonda.h"

/* Tells what failed and frees the error. */
static int failed(const char *what, zonda_status status, zonda_error *error) {
  zonda_str message = zonda_error_message(error);
  fprintf(stderr, "chat: %s: %s: %.*s\n", what, zonda_status_name(status), (int)message.len,
          message.ptr);
  zonda_error_free(error);
  return 1;
}

/* A chat.completions request; the prompt is escaped as JSON asks. Freed by the caller. */
static char *request_json(const char *prompt, unsigned long max_tokens) {
  const char *head = "{\"temperature\":0,\"max_tokens\":%lu,\"messages\":[{\"role\":\"user\",\"content\":\"";
  size_t room = 6 * strlen(prompt) + strlen(head) + 64;
  char *json = malloc(room);
  char *end;
  if (json == NULL) return NULL;
  end = json + snprintf(json, room, head, max_tokens);
  for (; *prompt != '\0'; prompt++) {
    unsigned char byte = (unsigned char)*prompt;
    if (byte == '"' || byte == '\\' || byte < 0x20) {
      end += sprintf(end, "\\u%04x", (unsigned)byte);
    } else {
      *end++ = *prompt;
    }
  }
  strcpy(end, "\"}]}");
  return json;
}

/* The text of a chat.completion object: its "content", unescaped. A program that has a JSON
 * library uses that; this one has none. */
static void print_content(zonda_str json) {
  const char *key = "\"content\":\"";
  size_t at = 0, key_len = strlen(key);
  while (at + key_len <= json.len && memcmp(json.ptr + at, key, key_len) != 0) at++;
  for (at += key_len; at < json.len && json.ptr[at] != '"'; at++) {
    if (json.ptr[at] != '\\' || at + 1 >= json.len) {
      putchar(json.ptr[at]);
      continue;
    }
    switch (json.ptr[++at]) {
      case 'n': putchar('\n'); break;
      case 't': putchar('\t'); break;
      case 'r': putchar('\r'); break;
      case 'b': putchar('\b'); break;
      case 'f': putchar('\f'); break;
      case 'u': { /* the library escapes control characters only */
        char digits[5] = {0};
        if (at + 4 < json.len) memcpy(digits, json.ptr + at + 1, 4);
        putchar((int)strtol(digits, NULL, 16));
        at += 4;
        break;
      }
      default: putchar(json.ptr[at]);
    }
  }
}

static int ask_blocking(zonda_model *model, const char *json) {
  zonda_buffer *answer = NULL;
  zonda_error *error = NULL;
  zonda_status status = zonda_chat(model, json, strlen(json), NULL, &answer, &error);
  if (status != ZONDA_OK) return failed("chat", status, error);
  print_content(zonda_buffer_data(answer));
  zonda_buffer_free(answer);
  return 0;
}

static void print_text(const zonda_event *event) {
  fwrite(event->text.ptr, 1, event->text.len, stdout);
  fflush(stdout);
}

/* Runs on a thread of the library. */
static int32_t ZONDA_CALL on_event(const zonda_event *event, void *user_data) {
  int *deltas_left = user_data;
  if (event->kind == ZONDA_EV_DELTA) {
    print_text(event);
    if (*deltas_left > 0 && --*deltas_left == 0) return 1; /* enough: cancels */
  } else if (event->kind == ZONDA_EV_ERROR) {
    fprintf(stderr, "chat: %.*s\n", (int)event->json.len, event->json.ptr);
  }
  return 0;
}

static int ask_with_callback(zonda_model *model, const char *json, int deltas_max) {
  zonda_request_params params;
  zonda_request *request = NULL;
  zonda_error *error = NULL;
  zonda_status status;
  zonda_request_params_init(&params, sizeof params);
  params.event_fn = on_event;
  params.event_user_data = &deltas_max;
  status = zonda_chat_start(model, json, strlen(json), &params, &request, &error);
  if (status != ZONDA_OK) return failed("chat_start", status, error);
  status = zonda_request_wait(request, -1); /* behind this no callback runs */
  zonda_request_free(request);
  return status == ZONDA_OK || status == ZONDA_E_CANCELLED ? 0 : failed("chat", status, NULL);
}

static int ask_by_pulling(zonda_model *model, const char *json) {
  const zonda_event *event = NULL;
  zonda_request *request = NULL;
  zonda_error *error = NULL;
  zonda_status status = zonda_chat_start(model, json, strlen(json), NULL, &request, &error);
  if (status != ZONDA_OK) return failed("chat_start", status, error);
  while ((status = zonda_request_next(request, 60000, &event, &error)) == ZONDA_OK && event != NULL) {
    if (event->kind == ZONDA_EV_DELTA) print_text(event);
  }
  if (status != ZONDA_OK) {
    zonda_request_free(request); /* cancels what still runs */
    return failed("next", status, error);
  }
  status = zonda_request_wait(request, 0);
  zonda_request_free(request);
  return status == ZONDA_OK ? 0 : failed("chat", status, NULL);
}

int main(int argc, char **argv) {
  zonda_engine *engine = NULL;
  zonda_model *model = NULL;
  zonda_error *error = NULL;
  zonda_status status;
  const char *way = argc > 4 ? argv[4] : "blocking";
  char *json;
  int code;

  if (argc < 3) {
    fprintf(stderr, "usage: chat MODEL_PATH PROMPT [MAX_TOKENS] [blocking|callback|pull|cancel]\n");
    return 2;
  }
  if (zonda_abi_version() != ZONDA_ABI_VERSION) {
    fprintf(stderr, "chat: libzonda %s has another ABI\n", zonda_version_string());
    return 1;
  }
  status = zonda_engine_create(NULL, &engine, &error);
  if (status != ZONDA_OK) return failed("engine", status, error);
  status = zonda_model_load(engine, strcmp(argv[1], "-") == 0 ? NULL : argv[1], NULL, &model, &error);
  if (status != ZONDA_OK) {
    zonda_engine_free(engine);
    return failed(argv[1], status, error);
  }

  json = request_json(argv[2], argc > 3 ? strtoul(argv[3], NULL, 10) : 128);
  if (json == NULL) {
    code = 1;
  } else if (strcmp(way, "callback") == 0) {
    code = ask_with_callback(model, json, 0);
  } else if (strcmp(way, "cancel") == 0) {
    code = ask_with_callback(model, json, 3);
  } else if (strcmp(way, "pull") == 0) {
    code = ask_by_pulling(model, json);
  } else {
    code = ask_blocking(model, json);
  }
  putchar('\n');

  free(json);
  zonda_model_free(model);
  zonda_engine_free(engine);
  return code;
}
